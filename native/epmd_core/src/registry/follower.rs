//! The steps of a table, queued for the holder of a copy.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::entry::Entry;
use super::refusals::Refusal;

/// How many steps a copy may lag behind. At 30,000 registrations per second that is about two seconds.
const MAX_LAG: usize = 65_536;
/// How many steps a copy may lag behind and still be sent refusals. It does without them rather than fall further
/// behind.
const MAX_LAG_FOR_REFUSALS: usize = 1_024;

/// A step that a copy applies.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The epoch of the table, and the number of the last refusal that will not be sent.
    Epoch { epoch: u64, refusals: u64 },
    /// Up to this number, the copy has the same registrations.
    Resumed(u64),
    /// The counters of the table.
    Counters(Counters),
    /// A name that had left when the copy began.
    Departed(Departure),
    /// A registration.
    Entered(Arc<Entry>),
    /// A registration that the copy already has.
    Kept(Arc<Entry>),
    /// The end of the registration with this number.
    Left(u64),
    /// The copy is complete.
    Whole,
    /// Every node of the last owner's table that is still there is in this table.
    Settled,
    /// A registration was refused.
    Refused(Refusal),
}

/// How far a table or a copy has come. Within an epoch, a registration has the same number in the table and its copies.
/// A new epoch begins when a copy takes the table's place.
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

/// The counters with which a copy goes on when it takes the table's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) registrations: u64,
    pub(crate) leaves: u64,
    pub(crate) floor: u32,
}

/// A name that left, with what its next registration needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    pub(crate) number: u64,
    pub(crate) name: Box<[u8]>,
    pub(crate) creation: u32,
    pub(crate) port: u16,
    pub(crate) descriptor: i32,
}

/// The steps that a copy still lacks: first the whole table, then each change, in order.
#[derive(Debug)]
pub(crate) struct Follower {
    queue: Mutex<Queue>,
    stepped: Notify,
}

#[derive(Debug)]
struct Queue {
    steps: VecDeque<Step>,
    capacity: usize,
    overflowed: bool,
}

/// The copy fell too far behind, so steps were lost.
#[derive(Debug)]
pub(crate) struct Lagged;

impl Follower {
    pub(super) fn new(table: VecDeque<Step>) -> Self {
        let capacity = table.len() + MAX_LAG;
        Self { queue: Mutex::new(Queue { steps: table, capacity, overflowed: false }), stepped: Notify::new() }
    }

    pub(super) fn entered(&self, entry: &Arc<Entry>) {
        self.push(Step::Entered(Arc::clone(entry)));
    }

    pub(super) fn left(&self, id: u64) {
        self.push(Step::Left(id));
    }

    pub(super) fn settled(&self) {
        self.push(Step::Settled);
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        if self.queue.lock().steps.len() < MAX_LAG_FOR_REFUSALS {
            self.push(Step::Refused(refusal.clone()));
        }
    }

    fn push(&self, step: Step) {
        let mut queue = self.queue.lock();
        if queue.steps.len() < queue.capacity {
            queue.steps.push_back(step);
        } else {
            queue.overflowed = true;
            queue.steps.clear();
        }
        drop(queue);
        self.stepped.notify_one();
    }

    /// The next step.
    pub(crate) fn take(&self) -> Result<Option<Step>, Lagged> {
        let mut queue = self.queue.lock();
        if queue.overflowed {
            return Err(Lagged);
        }
        Ok(queue.steps.pop_front())
    }

    /// Waits until there is another step.
    pub(crate) async fn stepped(&self) {
        self.stepped.notified().await;
    }
}
