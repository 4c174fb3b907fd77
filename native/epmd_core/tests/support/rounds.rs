//! How much of everything a suite does where chance plays a part, and how long that may take.
//!
//! By default enough to find a rule that is broken, beside whatever else the machine does. With
//! `EMBEDDED_EPMD_ROUNDS=full` enough to find a rare fault, alone on the machine, and within the times that are promised.

use std::time::Duration;

/// For a machine that has many times more to do than it can.
const PATIENCE: u32 = 50;

/// The one number, or in full the other.
pub fn rounds<T>(few: T, full: T) -> T {
    if is_full() {
        full
    } else {
        few
    }
}

/// This time in full; otherwise more.
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
