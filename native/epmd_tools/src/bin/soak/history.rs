//! A record of events, printed when a promise was broken.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How many events are printed.
const LAST: usize = 60;

#[derive(Clone, Debug)]
pub struct History(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    events: Mutex<Vec<(Duration, String)>>,
    looked_up: AtomicU64,
}

impl Default for History {
    fn default() -> Self {
        Self(Arc::new(Inner { began: Instant::now(), events: Mutex::default(), looked_up: AtomicU64::new(0) }))
    }
}

impl History {
    pub fn add(&self, event: String) {
        let mut events = self.0.events.lock().expect("no panic");
        events.push((self.elapsed(), event));
    }

    pub fn elapsed(&self) -> Duration {
        self.0.began.elapsed()
    }

    pub fn count_look_up(&self) {
        self.0.looked_up.fetch_add(1, Ordering::Relaxed);
    }

    pub fn looked_up(&self) -> u64 {
        self.0.looked_up.load(Ordering::Relaxed)
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let events = self.0.events.lock().expect("no panic");
        for (when, event) in events.iter().skip(events.len().saturating_sub(LAST)) {
            writeln!(f, "{:10.3} s  {event}", when.as_secs_f64())?;
        }
        Ok(())
    }
}
