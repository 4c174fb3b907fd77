//! The null server does the least a TCP server can do, as a lower bound: one thread that accepts, reads once, writes
//! one fixed reply and closes. It parses nothing and stores nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::Result;

use crate::wire::Node;

/// The node every request is answered with.
pub(crate) fn node() -> Node {
    Node::new('n', 0)
}

/// Serves the port until the process is stopped.
pub(crate) fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let reply = node().found();
    let mut request = [0; 64];
    loop {
        let (mut peer, _) = listener.accept()?;
        // Errors do not matter here: the load generator counts missing replies.
        let _ = peer.read(&mut request).and_then(|_| peer.write(&reply));
    }
}
