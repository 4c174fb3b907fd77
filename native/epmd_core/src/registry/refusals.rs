//! The registrations that were refused last, for those who were not told yet.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::journal::Change;

/// Refusals that are kept for members that follow again, after the owner or the channel to it has changed.
const KEPT: usize = 256;

/// A registration that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Its number among the refusals of the table and of those before it.
    pub(crate) number: u64,
    /// The name, as far as it can be shown.
    pub(crate) name: String,
    /// Why.
    pub(crate) reason: Cow<'static, str>,
}

impl Refusal {
    pub(super) fn change(self) -> Change {
        Change::Refused { name: self.name, reason: self.reason }
    }
}

/// The last of them, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    kept: VecDeque<Refusal>,
    pub(super) last: u64,
}

impl Refusals {
    /// None of which anybody knows, up to this number.
    pub(super) fn after_number(last: u64) -> Self {
        Self { last, ..Self::default() }
    }

    /// Has those of an earlier copy, too, as far as they are the same.
    pub(super) fn resume(&mut self, earlier: Self) {
        self.kept = earlier.kept;
        self.kept.retain(|refusal| refusal.number <= self.last);
    }

    pub(super) fn add(&mut self, refusal: Refusal) {
        self.last = refusal.number;
        self.kept.push_back(refusal);
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
    }

    pub(super) fn after(&self, number: u64) -> impl Iterator<Item = &Refusal> {
        self.kept.iter().filter(move |refusal| refusal.number > number)
    }
}
