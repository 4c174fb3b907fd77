//! Addresses of hosts.

use std::net::ToSocketAddrs;

/// The addresses of a host, as the system's resolver tells them; none if it tells none. It may ask the DNS.
#[rustler::nif(schedule = "DirtyIo")]
fn resolve(host: &str) -> Vec<String> {
    let Ok(found) = (host, 0).to_socket_addrs() else { return Vec::new() };
    let mut addresses: Vec<_> = found.map(|address| address.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.iter().map(ToString::to_string).collect()
}
