//! Shared by the suites: requests as bytes, servers and members, clients as plain sockets.
#![allow(unreachable_pub, reason = "a suite is a crate without users")]

pub mod attackers;
pub mod client;
pub mod member;
pub mod network;
pub mod nodes;
pub mod ports;
pub mod process;
pub mod random;
pub mod request;
pub mod rounds;
pub mod server;
pub mod service;
pub mod skip;
pub mod turn;
pub mod users;
