//! Where members listen, and how they change to other addresses. Each test runs as root in network namespaces of its own.

mod lists;
mod moves;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use crate::support::member::{settings, Running};
use epmd_core::parse_addresses;
use epmd_tools::client::{exchange, PATIENCE};
use epmd_tools::request::names;

/// In a new network namespace every port is free.
pub(crate) const PORT: u16 = 4369;

pub(crate) fn start(list: &str) -> Running {
    Running::start(settings(&parse_addresses(list).unwrap(), PORT))
}

pub(crate) fn move_to(member: &Running, list: &str) {
    member.handle.listen_on(parse_addresses(list).unwrap(), PATIENCE).unwrap_or_else(|error| panic!("{list}: {error}"));
}

pub(crate) fn local() -> SocketAddr {
    SocketAddr::new("127.0.0.1".parse().unwrap(), PORT)
}

/// The ports of the nodes that a server lists, sorted.
pub(crate) fn ports(server: SocketAddr) -> Vec<u16> {
    let reply = exchange(server, &names()).unwrap();
    let text = String::from_utf8(reply[4..].to_vec()).unwrap();
    let mut ports: Vec<u16> = text.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    ports.sort_unstable();
    ports
}

/// The addresses that a list stands for in these tests.
pub(crate) fn bound(list: &str) -> BTreeSet<IpAddr> {
    let addresses = match list {
        "" => "0.0.0.0,::",
        "10.77.0.1" => "127.0.0.1,::1,10.77.0.1",
        "::1" => "::1,127.0.0.1",
        list => list,
    };
    parse_addresses(addresses).unwrap().into_iter().collect()
}

/// The addresses of this namespace at which somebody listens on the port.
pub(crate) fn listening() -> BTreeSet<IpAddr> {
    let address = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = words[1].split_once(':')?;
        let listens = words[3] == "0A" && u16::from_str_radix(port, 16) == Ok(PORT);
        let word = |at: usize| u32::from_str_radix(&ip[at..at + 8], 16).unwrap().to_ne_bytes();
        listens.then(|| match ip.len() {
            8 => IpAddr::from(word(0)),
            _ => IpAddr::from(<[u8; 16]>::try_from([word(0), word(8), word(16), word(24)].concat()).unwrap()),
        })
    };
    let table = |table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    let lines = table("tcp") + &table("tcp6");
    lines.lines().filter(|line| line.contains(" 0A ")).filter_map(address).collect()
}
