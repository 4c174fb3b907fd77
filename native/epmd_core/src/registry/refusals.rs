//! The last refused registrations, for followers that have not been told of them yet.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::journal::Change;

/// Why a registration is refused whose name another node has.
pub(crate) const NAME_TAKEN: &str = "the name is taken";
/// How many refusals are kept for members that connect again after a change of owner or channel.
const KEPT: usize = 256;

/// A registration that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Its number among the refusals of this table and of the tables that it continues.
    pub(crate) number: u64,
    /// The name that was asked for; empty if the request was not valid.
    pub(crate) name: String,
    /// Why.
    pub(crate) reason: Cow<'static, str>,
}

impl Refusal {
    pub(super) fn change(self) -> Change {
        Change::Refused { name: self.name, reason: self.reason }
    }
}

/// The last refusals, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    kept: VecDeque<Refusal>,
    pub(super) last: u64,
}

impl Refusals {
    /// No refusals, to be numbered from this number on.
    pub(super) fn after_number(last: u64) -> Self {
        Self { last, ..Self::default() }
    }

    /// Takes over those of an earlier replica, up to the last number that both have in common.
    pub(super) fn resume(&mut self, earlier: &Self) {
        self.kept = earlier.kept.iter().filter(|refusal| refusal.number <= self.last).cloned().collect();
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
