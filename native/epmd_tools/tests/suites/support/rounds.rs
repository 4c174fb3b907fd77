//! How many rounds a randomised or measured test runs, and how long it may take.
//!
//! The default finds a broken rule, also on a busy machine. `EMBEDDED_EPMD_ROUNDS=full` finds rare faults and checks
//! the promised times. It needs a machine that does nothing else.

use std::fmt::Debug;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

/// The factor by which a busy machine may be slower.
const PATIENCE: u32 = 50;

/// `few` by default, `full` with `EMBEDDED_EPMD_ROUNDS=full`.
pub fn rounds<T>(few: T, full: T) -> T {
    if is_full() {
        full
    } else {
        few
    }
}

/// The promised time with `EMBEDDED_EPMD_ROUNDS=full`; by default [`PATIENCE`] times as long.
pub fn limit(time: Duration) -> Duration {
    rounds(time * PATIENCE, time)
}

fn is_full() -> bool {
    match std::env::var("EMBEDDED_EPMD_ROUNDS").as_deref() {
        Ok("full") => true,
        Ok("") | Err(_) => false,
        Ok(other) => panic!("EMBEDDED_EPMD_ROUNDS can be \"full\" or unset, but is {other:?}"),
    }
}

/// Does something for each of these, goes on after a failure, and tells at the end which have failed.
#[track_caller]
pub fn each<T: Copy + Debug>(these: impl IntoIterator<Item = T>, work: impl Fn(T)) {
    let (mut all, mut failed) = (0, Vec::new());
    for this in these {
        all += 1;
        if panic::catch_unwind(AssertUnwindSafe(|| work(this))).is_err() {
            eprintln!("failed: {this:?}");
            failed.push(format!("\n    {this:?}"));
        }
    }
    assert!(failed.is_empty(), "{} of {all} failed:{}", failed.len(), failed.concat());
}
