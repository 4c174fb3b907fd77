//! Peers that mean harm, or are merely broken, against our server.

mod child;
mod exhaustion;
mod names;
mod usage;
mod waiting;
mod watch;

use std::net::SocketAddr;

use epmd_tools::client::{eventually, listing};

/// Waits until the listing has this number of lines, and returns it.
pub(crate) fn only_names_of(server: SocketAddr, lines: usize) -> String {
    eventually(&format!("{lines} names are left"), || {
        listing(server).is_ok_and(|listing| listing.lines().count() == lines)
    });
    listing(server).expect("a listing")
}
