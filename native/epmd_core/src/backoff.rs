//! Pauses, also those between attempts.

use std::time::Duration;

use tokio::time::{sleep_until, Instant};

const FIRST: Duration = Duration::from_millis(2);

/// Pauses that double up to `longest`, with jitter, so that members do not retry at the same moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self { next: FIRST, longest }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause.mul_f64(0.5 + jitter() / 2.0)
    }
}

/// Waits until this moment, or for ever if there is none.
pub(crate) async fn until(moment: Option<impl Into<Instant>>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// A number from 0 to 1. The seed of the standard library's hash maps is random enough for a pause.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
