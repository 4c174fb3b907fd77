//! Counters of requests and their outcomes.

use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(target_has_atomic = "64"))]
compile_error!("epmd_core counts with 64-bit atomics, which this target lacks");

/// A counter without a lock. Several counters read together are not a consistent snapshot.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters since the member started.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections that were accepted.
    pub accepted: Counter,
    /// Lookups that found their node.
    pub found: Counter,
    /// Lookups that did not find it.
    pub not_found: Counter,
    /// Registrations that were granted.
    pub granted: Counter,
    /// Registrations that were refused.
    pub refused: Counter,
    /// `NAMES_REQ` requests.
    pub names: Counter,
    /// `DUMP_REQ` requests.
    pub dump: Counter,
    /// `KILL_REQ` requests.
    pub kill: Counter,
    /// `STOP_REQ` requests.
    pub stop: Counter,
    /// Probes over HTTP that asked for something there is.
    pub probes: Counter,
    /// Requests that their sender may not make.
    pub not_permitted: Counter,
    /// Frames that are not a valid request, and probes that ask for nothing there is. Wrong lengths are not counted.
    pub malformed: Counter,
    /// Waiting connections that were closed to make room for others.
    pub evicted: Counter,
}
