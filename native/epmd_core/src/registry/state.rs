//! What a table holds, without its lock.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::departed::{Departed, LastRegistration};
use super::entry::{ByName, Entry};
use super::epoch::Epoch;
use super::follower::{Counters, Departure, Follower, Position, Step};
use super::refusals::Refusals;
use super::unconfirmed::Unconfirmed;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) names: HashSet<ByName>,
    /// Oldest first.
    pub(super) by_age: BTreeMap<u64, Arc<Entry>>,
    pub(super) departed: Departed,
    pub(super) refusals: Refusals,
    pub(super) registrations: u64,
    pub(super) epoch: Epoch,
    /// Until when nodes may be missing that were registered with the owner before us.
    pub(super) fills_until: Option<Instant>,
    /// Those nodes, as far as observers were told of them.
    pub(super) unconfirmed: Unconfirmed,
    /// Who keeps a copy of the table.
    pub(super) followers: Vec<Weak<Follower>>,
}

/// What a copy brings to the table whose place it takes.
#[derive(Debug)]
pub(crate) struct Contents(State);

impl Contents {
    /// The contents of the table after the one that came so far.
    pub(super) fn after(last: Position, departed: Departed, refusals: Refusals) -> Self {
        let (registrations, epoch) = (last.registrations, Epoch::after(last));
        Self(State { departed, refusals, registrations, epoch, ..State::default() })
    }

    pub(super) fn enter(&mut self, entry: &Arc<Entry>) {
        self.0.enter(entry);
    }

    /// A registration whose connection is not there any more.
    pub(super) fn depart(&mut self, name: &[u8], creation: u32, port: u16) {
        self.0.departed.remember(name, creation, port, -1);
    }
}

impl From<Contents> for State {
    fn from(Contents(state): Contents) -> Self {
        state
    }
}

impl State {
    pub(super) fn enter(&mut self, entry: &Arc<Entry>) {
        self.names.insert(ByName(Arc::clone(entry)));
        self.by_age.insert(entry.id(), Arc::clone(entry));
        self.followers().for_each(|follower| follower.entered(entry));
    }

    pub(super) fn followers(&self) -> impl Iterator<Item = Arc<Follower>> + '_ {
        self.followers.iter().filter_map(Weak::upgrade)
    }

    /// All that a copy lacks which has come to this position.
    pub(super) fn steps_beyond(&self, copy: Option<Position>) -> VecDeque<Step> {
        let Departed { leaves, floor, ref names, ref order } = self.departed;
        let (registrations, refusals) = (self.registrations, self.refusals.last);
        let now = Position { epoch: self.epoch.id, registrations, refusals };
        let shared = copy.and_then(|copy| self.epoch.shared_with(copy, now));
        // Who followed another table has heard of no refusal of this one, and who follows the first time need not.
        let heard = match (copy, shared) {
            (_, Some(shared)) => shared.refusals,
            (Some(_), None) => self.epoch.refusals_before(),
            (None, _) => refusals,
        };
        let departures = order.values().filter_map(|name| {
            let LastRegistration { number, creation, port, descriptor } = *names.get(name)?;
            Some(Departure { number, name: name.clone(), creation, port, descriptor })
        });
        let entries = self.by_age.values().cloned().map(|entry| match shared {
            Some(shared) if entry.id() <= shared.registrations => Step::Kept(entry),
            _ => Step::Entered(entry),
        });
        std::iter::once(Step::Epoch { epoch: now.epoch, refusals: heard })
            .chain(shared.map(|shared| Step::Resumed(shared.registrations)))
            .chain([Step::Counters(Counters { registrations, leaves, floor })])
            .chain(departures.map(Step::Departed))
            .chain(entries)
            .chain([Step::Whole])
            .chain(self.fills_until.is_none().then_some(Step::Settled))
            .chain(self.refusals.after(heard).cloned().map(Step::Refused))
            .collect()
    }
}
