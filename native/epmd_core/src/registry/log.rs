//! The changes of a table as log entries, queued for each holder of a replica.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::entry::Entry;
use super::refusals::Refusal;
use super::tombstones::Tombstone;

/// How many entries a replica may lag behind. At 30,000 registrations per second that is about two seconds.
const MAX_LAG: usize = 65_536;
/// How many entries a replica may lag behind and still be sent refusals. It does without them rather than fall further
/// behind.
const MAX_LAG_FOR_REFUSALS: usize = 1_024;

/// An entry of the log: first those of a snapshot, from `Begin` to `InSync`, then each change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogEntry {
    /// A snapshot begins: the epoch of the table, and the number of the last refusal that will not be sent.
    Begin { epoch: u64, refusals: u64 },
    /// Up to this number, the replica has the same registrations.
    Resumed(u64),
    /// The counters of the table.
    Counters(Counters),
    /// A name that had left when the snapshot was taken.
    Tombstone(Tombstone),
    /// A registration.
    Registered(Arc<Entry>),
    /// The registration with this number, which the replica has, still exists.
    Retained(u64),
    /// The end of the registration with this number, and when it left.
    Ended(u64, u64),
    /// The snapshot is complete.
    InSync,
    /// The grace period is over: every node of the last owner's table that is still there is in this table.
    Settled,
    /// A registration was refused.
    Refused(Refusal),
}

/// An entry that no table can have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidEntry(pub(crate) &'static str);

/// How far a table or a replica has come. Within an epoch, a registration has the same number in the table and its
/// replicas. A new epoch begins when a replica becomes the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: u64,
    pub(crate) registrations: u64,
    pub(crate) refusals: u64,
}

impl Position {
    /// The smaller of each number.
    pub(super) fn least(self, other: Self) -> Self {
        let registrations = self.registrations.min(other.registrations);
        Self { registrations, refusals: self.refusals.min(other.refusals), ..self }
    }
}

/// The counters with which a replica goes on when it becomes the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) registrations: u64,
    pub(crate) deletions: u64,
    pub(crate) min_creation: u32,
}

/// The log entries that a replica still lacks: a snapshot, then each change, in order.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// Up to this number, the replica has the same registrations from before.
    shared: u64,
    queue: Mutex<Queue>,
    appended: Notify,
}

#[derive(Debug)]
struct Queue {
    entries: VecDeque<LogEntry>,
    capacity: usize,
    overflowed: bool,
}

/// The replica fell too far behind, so entries were lost.
#[derive(Debug)]
pub(crate) struct Lagged;

impl Subscription {
    pub(super) fn new(snapshot: VecDeque<LogEntry>) -> Self {
        let shared = snapshot.iter().find_map(|entry| match entry {
            LogEntry::Resumed(registrations) => Some(*registrations),
            _ => None,
        });
        let capacity = snapshot.len() + MAX_LAG;
        let queue = Queue { entries: snapshot, capacity, overflowed: false };
        Self { shared: shared.unwrap_or(0), queue: Mutex::new(queue), appended: Notify::new() }
    }

    /// Up to which number the replica has the same registrations from before; 0 if it has none.
    pub(crate) fn shared(&self) -> u64 {
        self.shared
    }

    pub(super) fn append(&self, entry: LogEntry) {
        let mut queue = self.queue.lock();
        if matches!(entry, LogEntry::Refused(_)) && queue.entries.len() >= MAX_LAG_FOR_REFUSALS {
            return;
        }
        if queue.entries.len() < queue.capacity {
            queue.entries.push_back(entry);
        } else {
            queue.overflowed = true;
            queue.entries.clear();
        }
        drop(queue);
        self.appended.notify_one();
    }

    /// The next entry.
    pub(crate) fn take(&self) -> Result<Option<LogEntry>, Lagged> {
        let mut queue = self.queue.lock();
        if queue.overflowed {
            return Err(Lagged);
        }
        Ok(queue.entries.pop_front())
    }

    /// Waits until there is another entry.
    pub(crate) async fn appended(&self) {
        self.appended.notified().await;
    }
}
