//! Ports for the servers of tests. Below the ephemeral range, so that no client's socket sits on one; and no port is given
//! twice, by this process or by one beside it, so that one that is free, and is not listened on yet, is still free then.
//! What runs side by side with these suites has others: `bench/src/servers.rs`, `test/support/ports.ex`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::thread;

#[cfg(target_os = "linux")]
use rustix::{fd::AsFd, thread::LinkNameSpaceType};
use socket2::{Domain, Socket, Type};

const PORTS: Range<u16> = 10_000..20_000;
/// How many a process takes at once, and the first one is for that.
const BLOCK: u16 = 250;

/// One on 127.0.0.1 that nobody uses.
pub fn free() -> u16 {
    numbers().find(|number| claim(Ipv4Addr::LOCALHOST, *number).is_ok()).expect("a free port")
}

/// A port on both loopback addresses that nobody else uses while this is held.
#[derive(Debug)]
pub struct ClaimedPort {
    number: u16,
    _ipv4: Socket,
    _ipv6: Socket,
}

impl ClaimedPort {
    pub fn any() -> Self {
        let claimed = numbers().find_map(|number| {
            let _ipv4 = claim(Ipv4Addr::LOCALHOST, number).ok()?;
            let _ipv6 = claim(Ipv6Addr::LOCALHOST, number).ok()?;
            Some(Self { number, _ipv4, _ipv6 })
        });
        claimed.expect("a free port on 127.0.0.1 and ::1 (is IPv6 switched off on the loopback interface?)")
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}

/// As many as there are, each the next one in this process.
fn numbers() -> impl Iterator<Item = u16> {
    static GIVEN: Mutex<Given> = Mutex::new(Given { blocks: Vec::new(), left: 0..0 });
    PORTS.map_while(|_| GIVEN.lock().unwrap_or_else(PoisonError::into_inner).next())
}

/// What this process has given out. It takes the ports in blocks, so that no process beside it gives out the same.
struct Given {
    /// The first port of each block: whoever is bound there has the block.
    blocks: Vec<Socket>,
    /// Those of the last block that are left.
    left: Range<u16>,
}

impl Given {
    fn next(&mut self) -> Option<u16> {
        if self.left.is_empty() {
            let (socket, first) = thread::spawn(take_block).join().expect("no panic")?;
            self.blocks.push(socket);
            self.left = first + 1..first + BLOCK;
        }
        self.left.next()
    }
}

fn take_block() -> Option<(Socket, u16)> {
    return_to_network_of_process();
    let take = |first| Some((bind(Ipv4Addr::LOCALHOST, first).ok()?, first));
    PORTS.step_by(usize::from(BLOCK)).find_map(take)
}

/// A thread that a test has moved into a network of its own starts others there, where every block is free.
fn return_to_network_of_process() {
    #[cfg(target_os = "linux")]
    if let Ok(network) = std::fs::File::open("/proc/self/ns/net") {
        // Who may not do this has not left it.
        let _ = rustix::thread::move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network));
    }
}

/// Fails if anybody is bound there, and only then allows a server to bind there too.
fn claim(address: impl Into<IpAddr>, port: u16) -> io::Result<Socket> {
    let socket = bind(address, port)?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// Fails if anybody is bound there.
fn bind(address: impl Into<IpAddr>, port: u16) -> io::Result<Socket> {
    let address = SocketAddr::new(address.into(), port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
