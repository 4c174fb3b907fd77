//! Registrations that are not stored yet. Each message has its price for the service manager, and some name at most has
//! to outlive the service that was registered a moment ago: so one is stored once it has lived for a while, and not more
//! than so many at a time. Then nobody makes it busy by registering again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// How long a registration must have lived.
const AGE: Duration = Duration::from_secs(1);
/// How many are stored at a time, and the pause until the next.
const AT_ONCE: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Registrations by their numbers, and since when each waits to be stored.
#[derive(Debug, Default)]
pub(super) struct Young {
    since: BTreeMap<u64, Instant>,
    /// Not before this are the next ones stored.
    next: Option<Instant>,
}

impl Young {
    /// Adds one that is newer than all others, or is there already.
    pub(super) fn add(&mut self, number: u64, now: Instant) {
        self.since.entry(number).or_insert(now);
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.since.remove(&number);
    }

    /// When the next ones are to be stored.
    pub(super) fn due(&self) -> Option<Instant> {
        let (_, oldest) = self.since.first_key_value()?;
        Some((*oldest + AGE).max(self.next.unwrap_or(*oldest)))
    }

    /// Those that are to be stored now, the oldest first.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<u64> {
        if self.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.next = Some(now + PAUSE);
        self.take_while(|since| since + AGE <= now)
    }

    /// The oldest, however young they are.
    pub(super) fn take_oldest(&mut self) -> Vec<u64> {
        self.take_while(|_| true)
    }

    fn take_while(&mut self, is_wanted: impl Fn(Instant) -> bool) -> Vec<u64> {
        let mut taken = Vec::new();
        while let Some(oldest) = self.since.first_entry().filter(|oldest| is_wanted(*oldest.get())) {
            if taken.len() == AT_ONCE {
                break;
            }
            taken.push(oldest.remove_entry().0);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(young.take_due(now + AGE - PAUSE / 2), []);
        assert_eq!(young.take_due(now + AGE), [0]);
        assert_eq!(young.take_due(now + AGE), []);
        assert_eq!(young.due(), Some(now + AGE * 3 / 2));
        assert_eq!(young.take_due(now + AGE * 3 / 2), [2]);
        assert_eq!(young.due(), None);
    }

    #[test]
    fn no_more_than_so_many_are_due_at_a_time() {
        let now = Instant::now();
        let mut young = young(AT_ONCE as u64 + 5, now);
        assert_eq!(young.take_due(now + AGE).len(), AT_ONCE);
        assert_eq!(young.due(), Some(now + AGE + PAUSE));
        assert_eq!(young.take_due(now + AGE + PAUSE), [20, 21, 22, 23, 24]);
    }

    #[test]
    fn the_oldest_can_be_had_sooner() {
        let mut young = young(AT_ONCE as u64 + 1, Instant::now());
        assert_eq!(young.take_oldest().first(), Some(&0));
        assert_eq!(young.take_oldest(), [AT_ONCE as u64]);
        assert_eq!(young.take_oldest(), []);
    }
}
