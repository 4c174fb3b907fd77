//! Counters of what was asked and what came of it.

use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(target_has_atomic = "64"))]
compile_error!("epmd_core counts with 64-bit atomics, which this target lacks");

/// Counts without a lock; readers may see one counter before another.
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

/// Counted since the member started.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections that were accepted.
    pub accepted: Counter,
    /// Look-ups that found their node.
    pub found: Counter,
    /// Look-ups that did not.
    pub not_found: Counter,
    /// Registrations that were granted.
    pub granted: Counter,
    /// Registrations that were refused.
    pub refused: Counter,
    /// `NAMES_REQ`.
    pub names: Counter,
    /// `DUMP_REQ`.
    pub dump: Counter,
    /// `KILL_REQ`.
    pub kill: Counter,
    /// `STOP_REQ`.
    pub stop: Counter,
    /// Requests that their peer may not make.
    pub not_permitted: Counter,
    /// What is no request.
    pub malformed: Counter,
    /// Connections that gave way to newer ones.
    pub gave_way: Counter,
}
