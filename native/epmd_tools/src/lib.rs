//! What the suites and the soak share: a client's requests, members as processes, free ports, random numbers.
#![allow(missing_docs, reason = "only these use it")]

pub mod client;
pub mod ports;
pub mod process;
pub mod random;
pub mod request;
