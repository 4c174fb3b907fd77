//! All suites in one program: what they share is compiled once, and linked once. Each is a module, and its tests are run
//! with its name: `cargo test -p epmd_tools hand_over::`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

mod addresses;
mod change_over;
mod differential;
mod hand_over;
mod host_attacks;
mod hostile;
mod mirror;
mod network;
mod other_systems;
mod ports;
mod pressure;
mod reserved_names;
mod service_manager;
mod shares;
mod standbys;
mod strangers;
mod succession;
