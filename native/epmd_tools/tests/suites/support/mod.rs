//! Shared by the suites: requests as bytes, servers and members, clients as plain sockets.
#![allow(unreachable_pub, reason = "a suite is a crate without users")]

pub mod attackers;
pub mod member;
pub mod network;
pub mod nodes;
pub mod rounds;
pub mod server;
pub mod service;
pub mod skip;
pub mod this_program;
pub mod turn;
pub mod users;
