//! This program, to run one of its tests in a process of its own.

use std::env;
use std::process::Command;

pub fn this_test(name: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("a test knows its own path"));
    command.args(["--exact", name, "--nocapture"]);
    command
}
