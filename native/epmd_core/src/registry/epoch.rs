//! Identifies a table, and the table that it continues, so that a copy of either can be resumed.

use super::follower::Position;

#[derive(Debug)]
pub(super) struct Epoch {
    pub(super) id: u64,
    /// The table that this one continues, and how far the copy of it had come.
    parent: Option<Position>,
}

impl Default for Epoch {
    fn default() -> Self {
        Self { id: random(), parent: None }
    }
}

impl Epoch {
    /// The epoch of a table that continues another from this position.
    pub(super) fn after(last: Position) -> Self {
        Self { parent: Some(last), ..Self::default() }
    }

    /// How far a copy at this position has the same steps as this table, which is at `now`. `None` if it copies a table
    /// that this one does not continue.
    pub(super) fn shared_with(&self, copy: Position, now: Position) -> Option<Position> {
        match self.parent {
            _ if copy.epoch == self.id => Some(copy.least(now)),
            Some(parent) if copy.epoch == parent.epoch => Some(copy.least(parent)),
            _ => None,
        }
    }

    /// The number of the last refusal before this epoch.
    pub(super) fn refusals_before(&self) -> u64 {
        self.parent.map_or(0, |parent| parent.refusals)
    }
}

/// The seed of the standard library's hash maps is random enough to tell tables apart.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
