//! What a table consists of, without its lock: the nodes, and what later registrations depend on.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use super::entry::{Entry, Holder};
use super::life::{self, Life, Past};
use super::log::{Counters, InvalidEntry, LogEntry, Position};
use super::nodes::Nodes;
use super::refusals::{Refusal, Refusals};
use super::tombstones::{Tombstone, Tombstones};
use crate::node::Node;
use crate::protocol::Port2Reply;

/// The contents of a table or of a replica.
#[derive(Debug, Default)]
pub(super) struct Contents {
    nodes: Nodes,
    tombstones: Tombstones,
    refusals: Refusals,
    registrations: u64,
    epoch: Epoch,
}

/// Identifies a table, and the table that it continues, so that a replica of either can be resumed.
#[derive(Debug)]
struct Epoch {
    id: u64,
    /// The table that this one continues, and how far the replica of it had come.
    parent: Option<Position>,
}

impl Default for Epoch {
    fn default() -> Self {
        Self { id: random(), parent: None }
    }
}

/// The seed of the standard library's hash maps is random enough to tell tables apart.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

impl Contents {
    pub(super) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    pub(super) fn tombstones_after(&self, number: u64) -> impl Iterator<Item = &Tombstone> {
        self.tombstones.after(number)
    }

    pub(super) fn position(&self) -> Position {
        let (epoch, registrations) = (self.epoch.id, self.registrations);
        Position { epoch, registrations, refusals: self.refusals.last }
    }

    /// Registers a node whose name is free. One that has no `creation` yet gets one that its name did not have before.
    pub(super) fn register(
        &mut self,
        reply: Port2Reply,
        user: Option<u32>,
        holder: Holder,
        creation: Option<u32>,
    ) -> Arc<Entry> {
        let (next, last) = self.tombstones.exhume(reply.name());
        let life = Life::after(last, life::now());
        self.insert(reply, user, life, holder, creation.unwrap_or(next))
    }

    /// Registers the node of another table's entry, with its creation and since when it is registered.
    pub(super) fn bring(&mut self, entry: &Entry, holder: Holder) -> Arc<Entry> {
        self.tombstones.exhume(entry.name());
        self.insert(entry.reply().clone(), entry.user(), entry.life(), holder, entry.creation())
    }

    fn insert(
        &mut self,
        reply: Port2Reply,
        user: Option<u32>,
        life: Life,
        holder: Holder,
        creation: u32,
    ) -> Arc<Entry> {
        self.registrations += 1;
        let entry = Arc::new(Entry::new(self.registrations, creation, user, life, reply));
        entry.hold(holder);
        let inserted = self.nodes.insert(&entry);
        debug_assert!(inserted.is_ok(), "the name is free, and the number is new");
        entry
    }

    /// Ends the registration with this number, at this time.
    pub(super) fn end(&mut self, id: u64, left: u64) -> Option<(Arc<Entry>, Past)> {
        let entry = self.nodes.remove(id)?;
        let past = entry.life().end(left);
        self.tombstones.bury(&entry, past);
        Some((entry, past))
    }

    /// Ends the registration with this number, whose connection was lost by a change of owner.
    pub(super) fn lose(&mut self, id: u64) {
        if let Some(entry) = self.nodes.remove(id) {
            self.tombstones.bury(&entry, entry.life().lose(life::now()));
        }
    }

    pub(super) fn refuse(&mut self, name: &str, reason: Cow<'static, str>) -> Refusal {
        let refusal = Refusal { number: self.refusals.last + 1, name: name.into(), reason };
        self.refusals.add(refusal.clone());
        refusal
    }

    /// A snapshot for a replica at this position, which is sent nothing that it has already, of this table or of the one
    /// that this continues.
    pub(super) fn snapshot(&self, replica: Option<Position>, is_settled: bool) -> VecDeque<LogEntry> {
        let now = self.position();
        let shared = replica.and_then(|replica| self.epoch.shared_with(replica, now));
        // A replica of an unrelated table has heard of no refusal of this one. A new replica is not told of old ones.
        let heard = match (replica, shared) {
            (_, Some(shared)) => shared.refusals,
            (Some(_), None) => self.epoch.parent.map_or(0, |parent| parent.refusals),
            (None, _) => now.refusals,
        };
        let counters = Counters {
            registrations: self.registrations,
            deletions: self.tombstones.deletions(),
            min_creation: self.tombstones.min_creation(),
        };
        let nodes = self.nodes.iter().map(|entry| match shared {
            Some(shared) if entry.id() <= shared.registrations => LogEntry::Retained(entry.id()),
            _ => LogEntry::Registered(Arc::clone(entry)),
        });
        std::iter::once(LogEntry::Begin { epoch: now.epoch, refusals: heard })
            .chain(shared.map(|shared| LogEntry::Resumed(shared.registrations)))
            .chain([LogEntry::Counters(counters)])
            .chain(self.tombstones.iter().cloned().map(LogEntry::Tombstone))
            .chain(nodes)
            .chain([LogEntry::InSync])
            .chain(is_settled.then_some(LogEntry::Settled))
            .chain(self.refusals.after(heard).cloned().map(LogEntry::Refused))
            .collect()
    }

    /// Begins the replica of the table of this epoch.
    pub(super) fn begin(epoch: u64, refusals: u64) -> Self {
        let epoch = Epoch { id: epoch, parent: None };
        Self { epoch, refusals: Refusals::after_number(refusals), ..Self::default() }
    }

    /// Adds an entry of a snapshot. `last` is the replica that it resumes.
    pub(super) fn build(&mut self, entry: LogEntry, last: &Self) -> Result<(), InvalidEntry> {
        match entry {
            LogEntry::Resumed(_) => {
                self.refusals.resume(&last.refusals);
                Ok(())
            }
            LogEntry::Counters(Counters { registrations, deletions, min_creation }) => {
                self.registrations = registrations;
                self.tombstones = Tombstones::new(deletions, min_creation);
                Ok(())
            }
            LogEntry::Tombstone(tombstone) => self.tombstones.add(tombstone),
            LogEntry::Retained(id) => {
                let entry = last.nodes.get(id).ok_or(InvalidEntry("a registration that this replica does not have"))?;
                self.nodes.insert(entry)
            }
            LogEntry::Registered(entry) if entry.id() <= self.registrations => self.nodes.insert(&entry),
            _ => Err(InvalidEntry("what does not belong to a snapshot")),
        }
    }

    /// A registration that the owner has made after the snapshot.
    pub(super) fn follow_registered(&mut self, entry: &Arc<Entry>) -> Result<(), InvalidEntry> {
        if entry.id() <= self.registrations {
            return Err(InvalidEntry("a registration with an old number"));
        }
        self.nodes.insert(entry)?;
        // Which names are forgotten depends on the order of registrations, so the replica does as the table did.
        self.tombstones.exhume(entry.name());
        self.registrations = entry.id();
        Ok(())
    }

    pub(super) fn follow_refused(&mut self, refusal: Refusal) {
        self.refusals.add(refusal);
    }

    /// Makes the replica a table of its own, which continues the last one.
    pub(super) fn promote(&mut self) {
        self.epoch = Epoch { parent: Some(self.position()), ..Epoch::default() };
    }
}

impl Epoch {
    /// How far a replica at this position has the same registrations as this table, which is at `now`. `None` if it is
    /// one of a table that this one does not continue.
    fn shared_with(&self, replica: Position, now: Position) -> Option<Position> {
        match self.parent {
            _ if replica.epoch == self.id => Some(replica.least(now)),
            Some(parent) if replica.epoch == parent.epoch => Some(replica.least(parent)),
            _ => None,
        }
    }
}

/// The entry of a node, as its owner has registered it.
pub(crate) fn replicated(id: u64, creation: u32, user: Option<u32>, life: Life, node: &Node) -> Arc<Entry> {
    Arc::new(Entry::new(id, creation, user, life, Port2Reply::new(node)))
}
