//! Nodes in numbers, which are nothing but their registrations: `node0` at port 1, `node1` at port 2, and so on.

use std::net::{SocketAddr, TcpStream};
use std::ops::Range;

use epmd_tools::client::{self, exchange, register};
use epmd_tools::request::{port_please2, Alive2};

/// Registers so many, from the first on. All must be granted.
pub fn fill(server: SocketAddr, count: usize) -> Vec<TcpStream> {
    let nodes = register_until_refused(server, 0..count);
    assert_eq!(nodes.len(), count, "one was refused");
    nodes
}

/// Registers these until one is refused.
pub fn register_until_refused(server: SocketAddr, numbers: Range<usize>) -> Vec<TcpStream> {
    numbers.map_while(|n| register(server, format!("node{n}"), port(n)).ok()).collect()
}

/// The nodes from the first on are found, so many as these, and none of their connections has ended.
pub fn all_found(server: SocketAddr, nodes: &[TcpStream]) {
    for n in 0..nodes.len() {
        let name = format!("node{n}");
        let found = Alive2::new(&name, port(n)).found();
        assert_eq!(exchange(server, &port_please2(&name)).unwrap(), found, "{name} of {}", nodes.len());
    }
    assert!(!nodes.iter().any(client::is_closed), "a connection ended");
}

fn port(n: usize) -> u16 {
    n as u16 + 1
}
