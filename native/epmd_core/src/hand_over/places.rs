//! The places for standbys, and who comes first after a change of owner.
//!
//! The last owner's standbys come first: they have the connections already, and would keep them beside those that took
//! their places. One of its standbys is the owner now, so one place is not theirs, and a newcomer gets it at once.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep_until, Instant};

/// How long after a change of owner to wait for the last owner's other standbys. They normally take a few milliseconds.
const RESUME_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Places {
    all: Semaphore,
    /// The place of a newcomer, while the last owner's standbys are waited for.
    first: Semaphore,
    resume_until: Instant,
}

/// A place, kept until this is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    _permit: SemaphorePermit<'a>,
    _first: Option<SemaphorePermit<'a>>,
}

/// Until when the last owner's standbys are waited for. `resumes` tells whether another owner has just ended.
pub(super) fn resume_until(resumes: bool) -> Instant {
    Instant::now() + if resumes { RESUME_TIMEOUT } else { Duration::ZERO }
}

impl Places {
    pub(super) fn new(count: u32, resume_until: Instant) -> Self {
        Self { all: Semaphore::new(count as usize), first: Semaphore::new(1), resume_until }
    }

    /// A place that is free now, for one that may have been a standby of the last owner.
    pub(super) fn try_take(&self, was_standby: bool) -> Option<Place<'_>> {
        let is_free = was_standby || self.resume_until <= Instant::now();
        let first = if is_free { None } else { Some(self.first.try_acquire().ok()?) };
        Some(Place { _permit: self.all.try_acquire().ok()?, _first: first })
    }

    /// Waits for a place.
    pub(super) async fn take(&self, was_standby: bool) -> Option<Place<'_>> {
        let first = if was_standby {
            None
        } else {
            tokio::select! {
                biased;
                () = sleep_until(self.resume_until) => None,
                first = self.first.acquire() => first.ok(),
            }
        };
        Some(Place { _permit: self.all.acquire().await.ok()?, _first: first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_change_of_owner_one_place_is_a_newcomers_and_the_others_are_kept() {
        let places = Places::new(2, Instant::now() + Duration::from_secs(60));
        let newcomer = places.try_take(false).expect("its last standby is the owner now");
        assert!(places.try_take(false).is_none(), "it is kept for another standby of the last owner");
        let standby = places.try_take(true).expect("it is kept for this one");
        assert!(places.try_take(true).is_none(), "there are two");
        drop(newcomer);
        let _next = places.try_take(false).expect("a newcomer has gone");
        drop(standby);
        assert!(places.try_take(false).is_none());
    }

    #[test]
    fn without_a_change_of_owner_every_place_is_anybodys() {
        let places = Places::new(2, resume_until(false));
        let _both = [false; 2].map(|newcomer| places.try_take(newcomer).expect("it is free"));
        assert!(places.try_take(false).is_none());
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_becomes_free() {
        let places = Places::new(1, Instant::now() + Duration::from_secs(60));
        let newcomer = places.take(false).await.expect("it is free");
        let (next, ()) = tokio::join!(places.take(false), async { drop(newcomer) });
        assert!(next.is_some());
    }
}
