//! For tests, which run on Linux: makes system calls behave as on macOS and the BSDs.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::address::listened_on;

static ON: AtomicBool = AtomicBool::new(false);
static IN_JAIL: AtomicBool = AtomicBool::new(false);

/// Makes this process act as if on a BSD. It cannot be undone.
pub fn act_as_bsd() {
    ON.store(true, Ordering::Relaxed);
}

/// Makes this process act as if in a jail of FreeBSD whose only address of IPv4 is 127.0.0.1. It cannot be undone.
pub fn act_as_jail() {
    act_as_bsd();
    IN_JAIL.store(true, Ordering::Relaxed);
}

pub(super) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Binds beside overlapping addresses, unless somebody listens on an equal one. Listens at once, so that others see it.
pub(super) fn bind(socket: &Socket, mut address: SocketAddr) -> io::Result<()> {
    let _turn = turn()?;
    if IN_JAIL.load(Ordering::Relaxed) && address.ip() == IpAddr::from(Ipv4Addr::UNSPECIFIED) {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    if address.port() != 0 && listened_on(address.port())?.contains(&address.ip()) {
        return Err(ErrorKind::AddrInUse.into());
    }
    super::set_reuse_port(socket, true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// A lock between processes, held as long as the socket is open.
fn turn() -> io::Result<Socket> {
    loop {
        let turn = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        match turn.bind(&SockAddr::unix("\0epmd_core/simulation")?) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => thread::yield_now(),
            bound => return bound.map(|()| turn),
        }
    }
}
