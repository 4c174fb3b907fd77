//! Ports for the servers of tests. Below the ephemeral range, so that no client's socket sits on one; and no port is given
//! twice, so that one that is free, and is not listened on yet, is still free then. What runs side by side with these
//! suites has others: `bench/src/servers.rs`, `test/support/vm.ex`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, Socket, Type};

const PORTS: Range<u16> = 10_000..20_000;

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
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Neighbouring pids start far apart, so that processes side by side seldom meet.
    let start = std::process::id().wrapping_mul(1_297);
    PORTS.map(move |_| {
        let next = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        PORTS.start + (next % PORTS.len() as u32) as u16
    })
}

/// Binds exclusively, which fails if anybody else is bound there, and only then allows a server to bind there too.
fn claim(address: impl Into<IpAddr>, port: u16) -> io::Result<Socket> {
    let address = SocketAddr::new(address.into(), port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&address.into())?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}
