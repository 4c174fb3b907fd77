//! For tests, which run on Linux: makes system calls behave as on macOS and the BSDs.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use socket2::{Domain, SockAddr, Socket, Type};

static ON: AtomicBool = AtomicBool::new(false);

/// Makes this process act as if on a BSD. It cannot be undone.
pub fn act_as_bsd() {
    ON.store(true, Ordering::Relaxed);
}

pub(super) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Binds beside overlapping addresses, unless somebody listens on an equal one. Listens at once, so that others see it.
pub(super) fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let _turn = turn()?;
    if address.port() != 0 && somebody_listens(address)? {
        return Err(ErrorKind::AddrInUse.into());
    }
    socket.set_reuse_port(true)?;
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

fn somebody_listens(address: SocketAddr) -> io::Result<bool> {
    let (table, words) = match address.ip() {
        IpAddr::V4(ip) => ("tcp", ip.octets().to_vec()),
        IpAddr::V6(ip) => ("tcp6", ip.octets().to_vec()),
    };
    // The kernel prints an address as words in host byte order.
    let word = |bytes: &[u8]| bytes.try_into().map(|bytes| format!("{:08X}", u32::from_ne_bytes(bytes)));
    let listener = format!("{}:{:04X}", words.chunks(4).flat_map(word).collect::<String>(), address.port());
    // The table lists listeners first; the rest may be long.
    const LISTENS: &str = "0A";
    let sockets = BufReader::new(File::open(format!("/proc/thread-self/net/{table}"))?).lines().skip(1);
    let columns = |line: String| line.split_whitespace().map(String::from).collect::<Vec<_>>();
    let mut listeners = sockets.map_while(Result::ok).map(columns).take_while(|columns| columns[3] == LISTENS);
    Ok(listeners.any(|columns| columns[1] == listener))
}
