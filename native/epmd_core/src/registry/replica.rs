//! The table of a member that does not serve: a replica of its owner's, for look-ups and events. When the member becomes
//! the owner, the replica becomes the table.

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::contents::Contents;
use super::entry::{Entry, Holder, NodeConnection};
use super::log::{InvalidEntry, LogEntry, Position};
use super::table::{Registration, Registry};
use crate::journal::Change;

/// Where a replica comes from.
#[derive(Debug)]
pub(super) struct Source {
    /// Where the owner listens.
    addresses: Vec<IpAddr>,
    /// Whether the owner's grace period is over.
    pub(super) is_settled: bool,
}

impl Source {
    pub(super) fn covers(&self, address: IpAddr) -> bool {
        let is_any = |bound: &IpAddr| bound.is_unspecified() && bound.is_ipv4() == address.is_ipv4();
        self.addresses.iter().any(|bound| *bound == address || is_any(bound))
    }
}

/// A snapshot that is not complete yet.
#[derive(Debug)]
pub(crate) struct Incoming(Contents);

/// What a member still holds of the sockets of owners when it becomes the owner.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Connections of registrations in the replica.
    pub(crate) connected: Vec<(u64, NodeConnection)>,
    /// Registrations that the replica lacks, with their connections.
    pub(crate) missing: Vec<(Arc<Entry>, NodeConnection)>,
    /// The registration of this member's own node, which no longer needs its connection.
    pub(crate) own: Option<u64>,
}

/// The registrations with which a new owner begins. Each is to be kept as long as its connection lasts.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// The registration of this VM's node.
    pub(crate) own: Option<Registration>,
    pub(crate) connected: Vec<(Registration, NodeConnection)>,
}

impl Incoming {
    /// Begins the replica of the table of this epoch.
    pub(crate) fn new(epoch: u64, refusals: u64) -> Self {
        Self(Contents::begin(epoch, refusals))
    }
}

/// The side of a member that does not serve.
impl Registry {
    /// How far this replica has come, if it is one.
    pub(crate) fn replica_position(&self) -> Option<Position> {
        let state = self.state();
        state.source.as_ref().map(|_| state.contents.position())
    }

    /// How far this replica has come, if it is one of a table that has settled.
    pub(crate) fn settled_replica(&self) -> Option<Position> {
        let state = self.state();
        state.source.as_ref().filter(|source| source.is_settled).map(|_| state.contents.position())
    }

    /// Whether this is a replica.
    pub(crate) fn is_replica(&self) -> bool {
        self.state().source.is_some()
    }

    /// Finds a node by its name, if the owner serves this address.
    pub(crate) fn find_replicated(&self, address: IpAddr, name: &[u8]) -> Option<Arc<Entry>> {
        let state = self.state();
        state.source.as_ref().filter(|source| source.covers(address))?;
        state.contents.nodes().find(name).or_else(|| state.provisional.find(name)).cloned()
    }

    /// The registration with this number.
    pub(crate) fn get(&self, id: u64) -> Option<Arc<Entry>> {
        self.state().contents.nodes().get(id).cloned()
    }

    /// Adds an entry to a snapshot. What it says of registrations that this replica has is looked up here.
    pub(crate) fn build(&self, incoming: &mut Incoming, entry: LogEntry) -> Result<(), InvalidEntry> {
        incoming.0.build(entry, &self.state().contents)
    }

    /// Replaces the replica by a complete snapshot, of an owner at these addresses. Observers are told of what is new;
    /// of what has gone they are told when the owner has settled.
    pub(crate) fn replace(&self, incoming: Incoming, addresses: &[IpAddr]) {
        let mut state = self.state();
        let state = &mut *state;
        let Incoming(contents) = incoming;
        let heard = state.contents.position().refusals;
        for known in state.contents.nodes().iter() {
            state.provisional.add(known);
        }
        contents.nodes().iter().for_each(|entry| state.provisional.registered(entry, self.journal()));
        let is_replica = state.source.is_some();
        for refusal in contents.refusals_after(if is_replica { heard } else { u64::MAX }) {
            self.journal().record(|| refusal.clone().change());
        }
        state.contents = contents;
        state.source = Some(Source { addresses: addresses.to_vec(), is_settled: false });
    }

    /// Follows a change of the owner's table.
    pub(crate) fn follow(&self, entry: LogEntry) -> Result<(), InvalidEntry> {
        let mut state = self.state();
        let state = &mut *state;
        match entry {
            LogEntry::Registered(entry) => {
                state.contents.follow_registered(&entry)?;
                state.provisional.registered(&entry, self.journal());
            }
            LogEntry::Ended(id) => {
                let ended =
                    state.contents.end(id).ok_or(InvalidEntry("the end of a registration that is not there"))?;
                self.journal().record(|| ended.unregistered());
            }
            LogEntry::Refused(refusal) => {
                self.journal().record(|| refusal.clone().change());
                state.contents.follow_refused(refusal);
            }
            LogEntry::Settled => {
                if let Some(source) = &mut state.source {
                    source.is_settled = true;
                }
                state.provisional.settled(self.journal());
            }
            _ => return Err(InvalidEntry("what belongs to a snapshot")),
        }
        Ok(())
    }

    /// Gives the replica up, since it is not kept up to date any more.
    pub(crate) fn give_up(&self) {
        let mut state = self.state();
        if state.source.take().is_some() {
            (state.contents, state.provisional) = Default::default();
            self.journal().record(|| Change::Lost);
        }
    }

    /// Makes the replica the table, with what this member holds. Nodes whose connections it does not hold have until
    /// `settles_at` to register again, or if that is `None` they have gone.
    pub(crate) fn promote(&self, held: Held, settles_at: Option<Instant>) -> Restored {
        let mut restored = Restored::default();
        let mut state = self.state();
        let state_ = &mut *state;
        state_.source = None;
        state_.contents.promote();
        if let Some(own) = held.own.and_then(|id| state_.contents.nodes().get(id)) {
            own.hold(Holder::Local);
            restored.own = Some(Registration::new(self, Arc::clone(own)));
        }
        for (id, connection) in held.connected {
            let Some(entry) = state_.contents.nodes().get(id).filter(|entry| !entry.is_local()) else { continue };
            entry.hold(Holder::Connection(Arc::downgrade(&connection) as Weak<_>));
            restored.connected.push((Registration::new(self, Arc::clone(entry)), connection));
        }
        let is_held = |entry: &Entry| entry.is_local() || entry.connection().is_some();
        let gone: Vec<_> = state_.contents.nodes().iter().filter(|entry| !is_held(entry)).cloned().collect();
        for entry in gone {
            state_.contents.end(entry.id());
            match settles_at {
                // To observers, nodes that may still register again are registered.
                Some(_) => state_.provisional.add(&entry),
                None => self.journal().record(|| entry.unregistered()),
            }
        }
        for (entry, connection) in held.missing {
            if state_.contents.nodes().find(entry.name()).is_some() {
                continue;
            }
            let holder = Holder::Connection(Arc::downgrade(&connection) as Weak<_>);
            let entry = state_.contents.register(entry.reply().clone(), holder, Some(entry.creation()));
            state_.provisional.registered(&entry, self.journal());
            restored.connected.push((Registration::new(self, entry), connection));
        }
        state_.settles_at = settles_at;
        if settles_at.is_none() {
            state_.provisional.settled(self.journal());
        }
        drop(state);
        self.wake_waiting();
        restored
    }
}
