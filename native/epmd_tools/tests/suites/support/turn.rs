//! The turns of tests that use up what all tests of this process, or of the machine, share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

/// Tests that measure latency or use up descriptors run one at a time: both are shared by the whole process or machine.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The turn of a test that needs so many descriptors. Raises this process's limit, which the server inherits.
pub fn with_descriptors(needed: usize) -> MutexGuard<'static, ()> {
    let turn = alone();
    let limit = getrlimit(Resource::Nofile);
    let raise = |maximum| setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // Only root may raise the hard limit.
    let _ = raise(limit.maximum.map(|maximum| maximum.max(needed as u64))).or_else(|_| raise(limit.maximum));
    let possible = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(
        possible >= needed as u64,
        "this test needs {needed} file descriptors, but the hard limit is {possible}: raise `ulimit -Hn`"
    );
    turn
}
