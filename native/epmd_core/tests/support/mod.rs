//! What the black-box suites share: requests as bytes, servers as processes, clients as plain sockets.
#![allow(dead_code, reason = "each suite uses its own part")]
#![allow(unreachable_pub, reason = "a suite is a crate without users")]

pub mod client;
pub mod network;
pub mod request;
pub mod rounds;
pub mod server;
