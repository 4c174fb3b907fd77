//! A test that cannot run here.

use std::io::{self, Write};
use std::thread;

/// Says so, in the line that `bin/test` counts. `eprintln!` would be shown of failures only.
pub fn not_run(why: &str) {
    let thread = thread::current();
    let _ = writeln!(io::stderr(), "NOT RUN: {}: {why}", thread.name().unwrap_or("a test"));
}
