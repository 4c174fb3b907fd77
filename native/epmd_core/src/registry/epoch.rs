//! What tells a table from those that others began, and what a copy of one of them shares with it.

use super::follower::Position;

#[derive(Debug)]
pub(super) struct Epoch {
    pub(super) id: u64,
    /// How far the copy had come whose place the table took, and of which table that was.
    parent: Option<Position>,
}

impl Default for Epoch {
    fn default() -> Self {
        Self { id: random(), parent: None }
    }
}

impl Epoch {
    /// The epoch after the one of which a copy came so far.
    pub(super) fn after(last: Position) -> Self {
        Self { parent: Some(last), ..Self::default() }
    }

    /// How far a copy that came to this position shares what the table has told; `now` is how far that has come.
    pub(super) fn shared_with(&self, copy: Position, now: Position) -> Option<Position> {
        match self.parent {
            _ if copy.epoch == self.id => Some(copy.least(now)),
            Some(parent) if copy.epoch == parent.epoch => Some(copy.least(parent)),
            _ => None,
        }
    }

    /// The number of the last refusal before the epoch.
    pub(super) fn refusals_before(&self) -> u64 {
        self.parent.map_or(0, |parent| parent.refusals)
    }
}

/// The seed of the standard library's hash maps is random enough to tell tables apart.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
