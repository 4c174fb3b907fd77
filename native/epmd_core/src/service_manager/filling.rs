//! The rules of the store as a state machine without I/O: what is to be in it, in which order the service manager is
//! told, and what gives way where there is no room.
//!
//! [`super::store`] carries this out. The walk in the tests kills the owner at any moment, with a store of any size.

#[cfg(test)]
mod walk;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::item::Item;
use super::young::Young;

/// How many connections are kept. systemd compares each with all that it has, which takes its time; and the next life is
/// told of them in one variable, of which Linux takes 131,072 bytes.
pub(super) const MOST: usize = 4_000;
/// How long after something was stored the witness is. In between others may be stored, of which it tells as well.
pub(super) const WITNESS_DELAY: Duration = Duration::from_millis(100);
/// How long it may take to close what has no room, after the service manager has said that it has read everything.
pub(super) const CLOSING: Duration = Duration::from_millis(50);

/// What is to be in the store.
#[derive(Debug)]
pub(super) struct Filling {
    /// The number of the table.
    table: u64,
    /// The numbers of those in whose place it came, and that are still there.
    superseded: BTreeSet<u64>,
    /// The registrations whose connections are stored.
    connections: BTreeSet<u64>,
    /// Those whose connections are not stored yet.
    young: Young,
    /// How many connections are kept at most.
    most: usize,
    witness: Witness,
    /// What was stored, and no witness has told yet that there was room for it.
    doubtful: BTreeSet<Item>,
    /// There was no room for something doubtful.
    was_refused: bool,
    actions: VecDeque<Action>,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Begin an empty log.
    NewLog,
    /// Write the whole table to the log, and each of its changes from now on.
    WriteTable,
    /// Have this kept. After the witness, ask for an answer.
    Store(Item),
    /// Have no longer kept what has this name.
    Remove(Item),
}

/// Why not everything is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The service manager took no more.
    Refused,
    /// There are as many as are kept.
    Most,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Witness {
    /// There is none.
    None,
    /// One is to be stored, since something was of which none tells.
    Wanted(Instant),
    /// It is on its way.
    Stored,
    /// The service manager has read it then.
    Read(Instant),
}

impl Filling {
    /// For a store that has these items from an earlier life, of which the newest table has the number `table`. With
    /// `has_log` the log of that one is used further.
    pub(super) fn new(
        stored: impl IntoIterator<Item = Item>,
        table: u64,
        has_log: bool,
        most: usize,
        now: Instant,
    ) -> Self {
        let mut filling = Self {
            table,
            superseded: BTreeSet::new(),
            connections: BTreeSet::new(),
            young: Young::default(),
            most,
            witness: Witness::None,
            doubtful: BTreeSet::new(),
            was_refused: false,
            actions: VecDeque::new(),
        };
        for item in stored {
            match item {
                Item::Connection(id) => {
                    filling.connections.insert(id);
                }
                // That life has ended in between.
                Item::Table(number) if number != table => filling.remove(item),
                Item::Table(_) | Item::Listener | Item::Witness => {}
            }
        }
        filling.store(Item::Listener, now);
        if has_log {
            filling.actions.push_back(Action::WriteTable);
        } else {
            filling.begin_table(now);
        }
        filling
    }

    /// The next thing to do.
    pub(super) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The number of the table.
    pub(super) fn table(&self) -> u64 {
        self.table
    }

    /// All that may be in the store.
    pub(super) fn items(&self) -> impl Iterator<Item = Item> + '_ {
        let connections = self.connections.iter().copied().map(Item::Connection);
        let tables = self.superseded.iter().copied().map(Item::Table);
        let others = [Item::Listener, Item::Table(self.table), Item::Witness];
        connections
            .chain(tables)
            .chain(others)
            .chain(self.doubtful.iter().copied().filter(|item| !self.is_witnessed(item)))
    }

    /// Why not everything is kept, if that is so.
    pub(super) fn full(&self) -> Option<Full> {
        let has_most = self.room() == 0 && !self.young.is_empty();
        self.was_refused.then_some(Full::Refused).or(has_most.then_some(Full::Most))
    }

    /// A registration was added.
    pub(super) fn registered(&mut self, id: u64, now: Instant) {
        if !self.connections.contains(&id) {
            self.young.add(id, now);
        }
    }

    /// A registration has ended.
    pub(super) fn ended(&mut self, id: u64, now: Instant) {
        self.young.remove(id);
        if self.connections.remove(&id) | self.doubtful.contains(&Item::Connection(id)) {
            self.remove(Item::Connection(id));
            self.store_doubtful(now);
        }
    }

    /// The whole table was written, which has only these registrations.
    pub(super) fn keep_only(&mut self, is_registered: impl Fn(u64) -> bool, now: Instant) {
        let known: Vec<_> = self.connections.iter().copied().chain(self.young.numbers()).collect();
        known.into_iter().filter(|id| !is_registered(*id)).for_each(|id| self.ended(id, now));
    }

    /// The log has become too long, or it lacks changes that were lost: another takes its place.
    pub(super) fn begin_table(&mut self, now: Instant) {
        // The last one that is there for sure stays until the next one is.
        if self.is_table_doubtful() {
            self.remove(Item::Table(self.table));
        } else if self.table > 0 {
            self.superseded.insert(self.table);
        }
        self.table += 1;
        // It is stored once the table is in it.
        self.actions.extend([Action::NewLog, Action::WriteTable]);
        self.store(Item::Table(self.table), now);
    }

    /// There are other listeners.
    pub(super) fn relisten(&mut self, now: Instant) {
        self.remove(Item::Listener);
        self.store(Item::Listener, now);
        self.store_doubtful(now);
    }

    /// The witness was closed: there was no room for everything.
    pub(super) fn refused(&mut self, now: Instant) {
        self.witness = Witness::None;
        self.was_refused = true;
        // It was closed late, so any of them may be missing.
        if self.doubtful.is_empty() {
            self.doubtful = self.items().filter(|item| *item != Item::Witness).collect();
        }
        if self.is_table_doubtful() {
            self.give_way(now);
            self.store_doubtful(now);
        }
    }

    /// The service manager has read everything up to the witness.
    pub(super) fn answered(&mut self, now: Instant) {
        if self.witness == Witness::Stored {
            self.witness = Witness::Read(now);
        }
    }

    /// When there is something to do, if nothing happens until then.
    pub(super) fn due(&self) -> Option<Instant> {
        let witness = match self.witness {
            Witness::Wanted(since) => Some(since + WITNESS_DELAY),
            Witness::Read(at) if self.doubtful.iter().any(|item| self.is_witnessed(item)) => Some(at + CLOSING),
            Witness::None | Witness::Stored | Witness::Read(_) => None,
        };
        let young = self.young.due().filter(|_| self.room() > 0 && !self.is_table_doubtful());
        witness.into_iter().chain(young).min()
    }

    /// Does what is due.
    pub(super) fn on_time(&mut self, now: Instant) {
        // A witness that has no room after them would tell nothing of the table.
        if !self.is_table_doubtful() {
            let due = self.young.take_due(now, self.room());
            self.store_connections(due, now);
        }
        match self.witness {
            Witness::Wanted(since) if since + WITNESS_DELAY <= now => {
                self.witness = Witness::Stored;
                self.actions.push_back(Action::Store(Item::Witness));
            }
            Witness::Read(at) if at + CLOSING <= now => self.confirm(),
            _ => {}
        }
    }

    /// Has the oldest of those kept that are not, however young they are. Whether there were any.
    pub(super) fn hurry(&mut self, now: Instant) -> bool {
        let oldest = self.young.take_oldest(self.room());
        let are_any = !oldest.is_empty();
        self.store_connections(oldest, now);
        are_any
    }

    /// Makes room for the table, without which connections are of no use.
    fn give_way(&mut self, now: Instant) {
        let is_certain = |id: &&u64| !self.doubtful.contains(&Item::Connection(**id));
        let certain = self.connections.iter().find(is_certain).copied();
        if let Some(id) = certain.or(self.doubtful.iter().find_map(|item| item.connection())) {
            self.connections.remove(&id);
            self.remove(Item::Connection(id));
            self.young.add(id, now);
        } else if let Some(table) = self.superseded.pop_first() {
            self.remove(Item::Table(table));
        }
    }

    fn is_table_doubtful(&self) -> bool {
        self.doubtful.contains(&Item::Table(self.table))
    }

    fn room(&self) -> usize {
        self.most.saturating_sub(self.connections.len())
    }

    fn store_connections(&mut self, ids: Vec<u64>, now: Instant) {
        for id in ids {
            self.connections.insert(id);
            self.store(Item::Connection(id), now);
        }
    }

    /// Has that stored again for which there may have been no room, now that there is some: a witness that finds room now
    /// tells nothing of what found none before. What has its place already keeps it.
    fn store_doubtful(&mut self, now: Instant) {
        for item in self.doubtful.clone() {
            match item {
                // Not more than so many at a time.
                Item::Connection(id) => {
                    self.connections.remove(&id);
                    self.young.add(id, now);
                }
                _ => self.store(item, now),
            }
        }
    }

    fn store(&mut self, item: Item, now: Instant) {
        match self.witness {
            Witness::Wanted(_) => {}
            Witness::None => self.witness = Witness::Wanted(now),
            Witness::Stored | Witness::Read(_) => {
                self.witness = Witness::Wanted(now);
                self.actions.push_back(Action::Remove(Item::Witness));
            }
        }
        self.doubtful.insert(item);
        self.actions.push_back(Action::Store(item));
    }

    fn remove(&mut self, item: Item) {
        self.doubtful.remove(&item);
        self.was_refused &= !self.doubtful.is_empty();
        self.actions.push_back(Action::Remove(item));
    }

    /// The witness is still there, so it has found room, and all that was stored before it.
    fn confirm(&mut self) {
        let mut doubtful = std::mem::take(&mut self.doubtful);
        doubtful.retain(|item| !self.is_witnessed(item));
        self.was_refused &= !doubtful.is_empty();
        self.doubtful = doubtful;
        for table in std::mem::take(&mut self.superseded) {
            self.remove(Item::Table(table));
        }
    }

    /// Whether a witness that is stored now tells of this, which is not to be stored again.
    fn is_witnessed(&self, item: &Item) -> bool {
        !item.connection().is_some_and(|id| self.young.contains(id))
    }
}
