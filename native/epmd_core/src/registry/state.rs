//! The state of a table, without its lock.

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
    /// Until when nodes of the last owner may still be missing.
    pub(super) fills_until: Option<Instant>,
    /// Nodes of the last owner that observers know of, and that have not registered here yet.
    pub(super) unconfirmed: Unconfirmed,
    /// The followers that have a copy of the table.
    pub(super) followers: Vec<Weak<Follower>>,
}

/// What a copy brings along when it takes the table's place.
#[derive(Debug)]
pub(crate) struct Contents(State);

impl Contents {
    /// Contents that continue another table from this position.
    pub(super) fn after(last: Position, departed: Departed, refusals: Refusals) -> Self {
        let (registrations, epoch) = (last.registrations, Epoch::after(last));
        Self(State { departed, refusals, registrations, epoch, ..State::default() })
    }

    pub(super) fn enter(&mut self, entry: &Arc<Entry>) {
        self.0.enter(entry);
    }

    /// A registration whose connection has ended.
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

    /// The steps that a copy at this position lacks.
    pub(super) fn steps_beyond(&self, copy: Option<Position>) -> VecDeque<Step> {
        let Departed { leaves, floor, ref names, ref order } = self.departed;
        let (registrations, refusals) = (self.registrations, self.refusals.last);
        let now = Position { epoch: self.epoch.id, registrations, refusals };
        let shared = copy.and_then(|copy| self.epoch.shared_with(copy, now));
        // A copy of an unrelated table has heard of no refusal of this one. A new follower is not told of old ones.
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
