//! Registrations that are not stored yet. Each message has its price for the service manager, and some name at most has
//! to outlive the service that was registered a moment ago: so one is stored once it has lived for a while, and not more
//! than so many at a time. Then nobody makes it busy by registering again and again.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

/// How long a registration must have lived.
const AGE: Duration = Duration::from_secs(1);
/// How many are stored at a time, and the pause until the next.
const AT_ONCE: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Registrations by their numbers, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Young {
    /// By turn, each with the time since when it waits.
    waiting: BTreeMap<u64, (u64, Instant)>,
    turns: HashMap<u64, u64>,
    next_turn: u64,
    /// Not before this are the next ones stored.
    next: Option<Instant>,
}

impl Young {
    /// Adds one, if it is not there already.
    pub(super) fn add(&mut self, number: u64, now: Instant) {
        if !self.contains(number) {
            self.turns.insert(number, self.next_turn);
            self.waiting.insert(self.next_turn, (number, now));
            self.next_turn += 1;
        }
    }

    pub(super) fn remove(&mut self, number: u64) {
        if let Some(turn) = self.turns.remove(&number) {
            self.waiting.remove(&turn);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.turns.contains_key(&number)
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.turns.keys().copied()
    }

    /// When the next ones are to be stored.
    pub(super) fn due(&self) -> Option<Instant> {
        let (_, (_, since)) = self.waiting.first_key_value()?;
        Some((*since + AGE).max(self.next.unwrap_or(*since)))
    }

    /// Those that are to be stored now, in their order, and no more than `most`.
    pub(super) fn take_due(&mut self, now: Instant, most: usize) -> Vec<u64> {
        if self.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.next = Some(now + PAUSE);
        self.take(most, |since| since + AGE <= now)
    }

    /// The first ones, however young they are, and no more than `most`.
    pub(super) fn take_oldest(&mut self, most: usize) -> Vec<u64> {
        self.take(most, |_| true)
    }

    fn take(&mut self, most: usize, is_wanted: impl Fn(Instant) -> bool) -> Vec<u64> {
        let waiting = self.waiting.values().take_while(|(_, since)| is_wanted(*since));
        let taken: Vec<_> = waiting.map(|(number, _)| *number).take(most.min(AT_ONCE)).collect();
        taken.iter().for_each(|number| self.remove(*number));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = usize::MAX;

    fn young(count: u64, now: Instant) -> Young {
        let mut young = Young::default();
        (0..count).for_each(|number| young.add(number, now));
        young
    }

    #[test]
    fn what_has_lived_long_enough_is_due_and_what_has_ended_is_not() {
        let now = Instant::now();
        let mut young = young(2, now);
        young.add(2, now + AGE / 2);
        young.add(0, now + AGE / 2);
        young.remove(1);
        assert_eq!(young.due(), Some(now + AGE));
        assert_eq!(young.take_due(now + AGE - PAUSE / 2, MANY), []);
        assert_eq!(young.take_due(now + AGE, MANY), [0]);
        assert_eq!(young.take_due(now + AGE, MANY), []);
        assert_eq!(young.due(), Some(now + AGE * 3 / 2));
        assert_eq!(young.take_due(now + AGE * 3 / 2, MANY), [2]);
        assert_eq!(young.due(), None);
    }

    #[test]
    fn no_more_than_so_many_are_due_at_a_time() {
        let now = Instant::now();
        let mut young = young(AT_ONCE as u64 + 5, now);
        assert_eq!(young.take_due(now + AGE, MANY).len(), AT_ONCE);
        assert_eq!(young.due(), Some(now + AGE + PAUSE));
        assert_eq!(young.take_due(now + AGE + PAUSE, MANY), [20, 21, 22, 23, 24]);
    }

    #[test]
    fn the_oldest_can_be_had_sooner() {
        let mut young = young(AT_ONCE as u64 + 2, Instant::now());
        assert_eq!(young.take_oldest(1), [0]);
        assert_eq!(young.take_oldest(MANY).first(), Some(&1));
        assert_eq!(young.take_oldest(MANY), [AT_ONCE as u64 + 1]);
        assert_eq!(young.take_oldest(MANY), []);
    }
}
