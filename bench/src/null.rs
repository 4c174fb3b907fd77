//! The least a server on TCP can do, as the limit no other server gets below: one thread that accepts, reads once, writes
//! one fixed reply and closes. It understands nothing and keeps nothing.

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
        // A peer that is gone is its own affair: whether replies arrive is for the load generator to judge.
        let _ = peer.read(&mut request).and_then(|_| peer.write(&reply));
    }
}
