//! What the keeper of a copy of the table is told, step by step.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::entry::Entry;
use super::refusals::Refusal;

/// Steps that a copy may be behind. At 30,000 registrations in a second that is about a second.
const MAX_LAG: usize = 65_536;
/// Steps that a copy may be behind and still be told of refusals, which it does without rather than fall behind.
const MAX_LAG_FOR_REFUSALS: usize = 1_024;

/// What the copy of a table is told.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The epoch of the table, and the number of the last refusal before those that are told.
    Epoch { epoch: u64, refusals: u64 },
    /// The registrations up to this number are those of the copy that is there.
    Resumed(u64),
    /// How far the table has counted.
    Counters(Counters),
    /// A name that had left when the copy began.
    Departed(Departure),
    /// A registration.
    Entered(Arc<Entry>),
    /// One that the copy has.
    Kept(Arc<Entry>),
    /// The end of the registration with this number.
    Left(u64),
    /// From here on the copy is whole.
    Whole,
    /// Whoever was registered with the last owner and is still there is in the table.
    Settled,
    /// A registration was refused.
    Refused(Refusal),
}

/// How far a table or its copy has come. Registrations have the same number in a table and in its copies, as long as
/// the table is of the same epoch: another begins when a copy takes the table's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: u64,
    pub(crate) registrations: u64,
    pub(crate) refusals: u64,
}

impl Position {
    /// The lesser of each number.
    pub(super) fn least(self, other: Self) -> Self {
        let registrations = self.registrations.min(other.registrations);
        Self { registrations, refusals: self.refusals.min(other.refusals), ..self }
    }
}

/// The numbers from which a table goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) registrations: u64,
    pub(crate) leaves: u64,
    pub(crate) floor: u32,
}

/// A name that left, with all that its return depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    pub(crate) number: u64,
    pub(crate) name: Box<[u8]>,
    pub(crate) creation: u32,
    pub(crate) port: u16,
    pub(crate) descriptor: i32,
}

/// What a copy still lacks: first the whole table, then each step, in order.
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
