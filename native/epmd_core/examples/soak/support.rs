//! Modules shared with the tests: clients, requests, members as processes, random numbers.

#![allow(dead_code, reason = "the tests use more of it")]

#[path = "../../tests/suites/support/client.rs"]
pub mod client;
#[path = "../../tests/suites/support/ports.rs"]
pub mod ports;
#[path = "../../tests/suites/support/process.rs"]
pub mod process;
#[path = "../../tests/suites/support/random.rs"]
pub mod random;
#[path = "../../tests/suites/support/request.rs"]
pub mod request;

pub mod server {
    use std::env;
    use std::path::PathBuf;

    /// The member's program lies beside this one.
    pub fn standalone() -> PathBuf {
        let program = env::current_exe().expect("a program knows its own path").with_file_name("standalone");
        assert!(program.is_file(), "{} is missing: cargo build --examples", program.display());
        program
    }
}
