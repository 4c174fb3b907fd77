//! Where to listen: from a list of addresses to bound listeners.

mod listened_on;
mod wanted;

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::net::TcpListener;
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::net::sockopt::socket_type;
use rustix::net::{getsockname, AddressFamily, SocketType};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::os;

pub(crate) use listened_on::listened_on;
pub(crate) use wanted::{covers, overlap, Wanted, ANY, LOOPBACKS};

/// The accept queue of a listener. Linux lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Parses a list of IPv4 and IPv6 addresses, separated by commas or blanks, as in `ERL_EPMD_ADDRESS`.
pub fn parse_addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let items = text.split([',', ' ']).filter(|item| !item.is_empty());
    items.map(|item| item.parse().map_err(|_| format!("expected an IPv4 or IPv6 address, got {item:?}"))).collect()
}

/// The bound listeners. Whoever binds the first address serves the port.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) sockets: Vec<TcpListener>,
    /// Wanted addresses that are tried again: another process has them, they failed, or they may come.
    pub(crate) missing: Vec<IpAddr>,
    /// Addresses of the list that this host does not have, and does without.
    pub(crate) absent: Vec<IpAddr>,
    /// Whether the service manager holds them as well. Such listeners are never shut, and no others are opened.
    pub(crate) lent: bool,
    /// The port in use: the one that was asked for, or if that was 0, the one that the system chose.
    pub port: u16,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct OpenError {
    /// The address.
    pub address: SocketAddr,
    /// The system's error.
    pub error: io::Error,
}

impl std::error::Error for OpenError {}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.error)
    }
}

impl OpenError {
    pub(crate) fn is_taken(&self) -> bool {
        self.error.kind() == ErrorKind::AddrInUse
    }

    /// Where the process that holds the address can be reached.
    pub(crate) fn holder(&self) -> SocketAddr {
        reachable(self.address)
    }
}

/// Whether an error says that this host has no such address.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
}

/// Where a listener on this address can be reached from this host.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

impl Listeners {
    /// Binds the addresses. No addresses means any address, of both families where the host has both.
    pub fn open(addresses: &[IpAddr], port: u16) -> Result<Self, OpenError> {
        Self::open_all(&Wanted::new(addresses, false), port)
    }

    pub(crate) fn open_all(wanted: &Wanted, port: u16) -> Result<Self, OpenError> {
        let Opened { sockets, missing, absent, port } = open_each(wanted, port, listen)?;
        Ok(Self { sockets, missing, absent, lent: false, port })
    }

    /// Listeners taken over from another process, and new ones for the wanted addresses that it lacked.
    pub(crate) fn inherited(sockets: Vec<std::net::TcpListener>, wanted: &Wanted, port: u16) -> Self {
        let sockets: Vec<_> = sockets.into_iter().map(TcpListener::from_std).collect();
        let mut listeners = Self { sockets, missing: Vec::new(), absent: Vec::new(), lent: false, port };
        let bound = listeners.addresses();
        listeners.missing = wanted.addresses().filter(|address| !bound.contains(address)).collect();
        let found = listen_where_free(&mut listeners.missing, port);
        listeners.sockets.extend(found);
        listeners
    }

    /// Listeners that the service manager has passed and keeps open itself.
    pub(crate) fn lent(sockets: Vec<std::net::TcpListener>, port: u16) -> Self {
        let sockets = sockets.into_iter().map(TcpListener::from_std).collect();
        Self { sockets, missing: Vec::new(), absent: Vec::new(), lent: true, port }
    }

    /// The addresses that are listened on.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.sockets.iter().flat_map(addresses_of).collect()
    }
}

/// What was opened of a list, in its order.
#[derive(Debug)]
pub(crate) struct Opened<S> {
    pub(crate) sockets: Vec<S>,
    /// As in [`Listeners`].
    pub(crate) missing: Vec<IpAddr>,
    pub(crate) absent: Vec<IpAddr>,
    pub(crate) port: u16,
}

/// A listener that was opened beside others, or while it is only bound, a socket.
#[derive(Debug)]
pub(crate) enum Beside<S = TcpListener> {
    /// One of the others, by its place among them. It is used again as it is: closing a copy would end its lock.
    Old(usize),
    New(S),
}

/// Opens the wanted addresses while the `old` listeners are still open. Those of them that are `reusable` are used again
/// where their address is wanted.
pub(crate) fn open_beside(
    wanted: &Wanted,
    old: &[&TcpListener],
    reusable: impl Fn(usize) -> bool,
    port: u16,
) -> Result<Opened<Beside>, OpenError> {
    let opened = open_each(wanted, port, |address| {
        let of_old = |socket: &TcpListener| socket.local_addr().map_or(address.ip(), |bound| bound.ip());
        let there = resolved(address.ip());
        if let Some(place) = old.iter().position(|socket| of_old(socket) == there).filter(|place| reusable(*place)) {
            return Ok(Beside::Old(place));
        }
        let overlapped: Vec<_> = old.iter().filter(|socket| overlap(of_old(socket), address.ip())).collect();
        overlapped.iter().try_for_each(|socket| share(socket, true))?;
        bound(address, !overlapped.is_empty()).map(Beside::New)
    });
    // Not one by one: of those who connect, the kernel gives some to each that listens, and they would end with it if the
    // next address failed.
    let listening = opened.and_then(|Opened { sockets, missing, absent, port }| {
        let sockets = sockets.into_iter().map(|socket| match socket {
            Beside::Old(place) => Ok(Beside::Old(place)),
            Beside::New(socket) => listening_beside(socket, port).map(Beside::New),
        });
        Ok(Opened { sockets: sockets.collect::<Result<_, _>>()?, missing, absent, port })
    });
    old.iter().for_each(|socket| drop(share(socket, false)));
    listening
}

/// Listens with a socket that is bound beside others, and from then on shares its address with none.
fn listening_beside(socket: Socket, port: u16) -> Result<TcpListener, OpenError> {
    let bound = socket.local_addr().ok().and_then(|bound| bound.as_socket());
    let address = bound.unwrap_or_else(|| SocketAddr::new(ANY[0], port));
    let listener = listening(socket).map_err(|error| OpenError { address, error })?;
    let _ = share(&listener, false);
    Ok(listener)
}

fn open_each<S: HasPort>(
    wanted: &Wanted,
    mut port: u16,
    mut open: impl FnMut(SocketAddr) -> io::Result<S>,
) -> Result<Opened<S>, OpenError> {
    let (mut sockets, mut missing, mut absent) = (Vec::<S>::new(), Vec::new(), Vec::new());
    let (mut open_at, mut first_absent) = (Vec::new(), None);
    for target in wanted.targets() {
        let there = resolved(target.ip);
        if open_at.contains(&there) {
            continue;
        }
        let address = SocketAddr::new(target.ip, port);
        let failure = match open(address) {
            Ok(socket) => {
                // With port 0 the first socket decides the port of all.
                port = socket.port().unwrap_or(port);
                sockets.push(socket);
                open_at.push(there);
                continue;
            }
            Err(error) => OpenError { address, error },
        };
        if is_absent(&failure.error) && (!target.required || wanted::is_dispensable(target.ip)) {
            if target.required {
                absent.push(target.ip);
            }
            if wanted::may_come(target.ip) {
                missing.push(target.ip);
            }
            first_absent.get_or_insert(failure);
        } else if target.required || sockets.is_empty() {
            return Err(failure);
        } else {
            if !failure.is_taken() {
                tracing::warn!(%failure, "serving without an address, which is tried again");
            }
            missing.push(target.ip);
        }
    }
    match first_absent {
        Some(failure) if sockets.is_empty() => Err(failure),
        _ => Ok(Opened { sockets, missing, absent, port }),
    }
}

/// A listener that may tell its port.
trait HasPort {
    fn port(&self) -> Option<u16>;
}

impl HasPort for TcpListener {
    fn port(&self) -> Option<u16> {
        self.local_addr().ok().map(|bound| bound.port())
    }
}

impl HasPort for Beside<Socket> {
    fn port(&self) -> Option<u16> {
        match self {
            Self::Old(_) => None,
            Self::New(socket) => port_of(socket),
        }
    }
}

/// The port of a TCP socket.
pub(crate) fn port_of(socket: impl AsFd) -> Option<u16> {
    let bound = SockRef::from(&socket.as_fd()).local_addr().ok()?;
    bound.as_socket().map(|bound| bound.port())
}

/// The addresses that a listener accepts on: one on `::` may accept IPv4 as well.
pub(crate) fn addresses_of(listener: impl AsFd) -> Vec<IpAddr> {
    let listener = listener.as_fd();
    let socket = SockRef::from(&listener);
    let bound = socket.local_addr().ok().and_then(|bound| bound.as_socket()).map(|bound| bound.ip());
    match bound {
        Some(any) if any == ANY[1] && !socket.only_v6().unwrap_or(true) => ANY.to_vec(),
        bound => bound.into_iter().collect(),
    }
}

/// Whether a descriptor is that of a TCP socket.
pub(crate) fn is_tcp(descriptor: impl AsFd) -> bool {
    let is_internet = |family| [AddressFamily::INET, AddressFamily::INET6].contains(&family);
    socket_type(descriptor.as_fd()).is_ok_and(|kind| kind == SocketType::STREAM)
        && getsockname(descriptor.as_fd()).is_ok_and(|address| is_internet(address.address_family()))
}

/// Whether a descriptor is that of a TCP socket that listens.
pub(crate) fn is_listener(descriptor: impl AsFd) -> bool {
    is_tcp(descriptor.as_fd()) && os::is_listening(descriptor)
}

/// Checks that this host has all required addresses, whoever listens there.
///
/// # Errors
///
/// The first required address that it does not have.
pub(crate) fn check(wanted: &Wanted, port: u16) -> Result<(), OpenError> {
    let exists = |ip| match bound(SocketAddr::new(ip, 0), false) {
        Err(error) if is_absent(&error) => Err(OpenError { address: SocketAddr::new(ip, port), error }),
        _ => Ok(()),
    };
    let mut named = wanted.targets().filter(|target| target.required).map(|target| target.ip);
    named.try_for_each(|ip| if wanted::is_dispensable(ip) { Ok(()) } else { exists(ip) })
}

/// Whether no process listens on this port, at any address.
pub(crate) fn is_free(port: u16) -> bool {
    let is_taken =
        |ip| bound(SocketAddr::new(ip, port), false).is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
    !ANY.into_iter().any(is_taken)
}

/// Listens on those missing addresses that are free by now. Addresses that do not exist, and will not come, are taken off
/// the list.
pub(crate) fn listen_where_free(missing: &mut Vec<IpAddr>, port: u16) -> Vec<TcpListener> {
    let mut found = Vec::new();
    missing.retain(|address| match listen(SocketAddr::new(*address, port)) {
        Ok(socket) => {
            found.push(socket);
            false
        }
        Err(error) => !is_absent(&error) || wanted::may_come(*address),
    });
    found
}

pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    listening(bound(address, false)?)
}

/// Where a socket that is bound to this address is. In a jail of FreeBSD with one address, "any" and the loopback are that
/// address.
fn resolved(ip: IpAddr) -> IpAddr {
    if os::any_excludes_others() {
        return ip;
    }
    let there = bound(SocketAddr::new(ip, 0), false).and_then(|socket| socket.local_addr());
    there.ok().and_then(|address| address.as_socket()).map_or(ip, |address| address.ip())
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        os::set_reuse_port(&socket, true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    os::bind(&socket, address)?;
    Ok(socket)
}

fn listening(socket: Socket) -> io::Result<TcpListener> {
    os::defer_accept(&socket);
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Lets other sockets of this user bind the same address, or no longer.
fn share(socket: &TcpListener, shared: bool) -> io::Result<()> {
    os::set_reuse_port(&SockRef::from(socket), shared)
}

/// Makes Linux forget that a port was shared. It remembers the `SO_REUSEPORT` of the last socket that was bound to the
/// port. So this binds one without it, at an address where nobody listens.
pub(crate) fn end_sharing(port: u16) {
    const UNUSED: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);
    let elsewhere = [IpAddr::from(UNUSED), LOOPBACKS[1]];
    let _ = elsewhere.into_iter().find_map(|address| bound(SocketAddr::new(address, port), false).ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_one_for_all_and_told() {
        let listeners = Listeners::open(&[], 0).expect("a free port");
        assert_ne!(listeners.port, 0);
        let taken = Listeners::open(&[Ipv4Addr::LOCALHOST.into()], listeners.port).expect_err("a taken port");
        assert!(taken.is_taken(), "{taken}");
    }

    // Elsewhere the kernel gives all connections to one of the listeners.
    #[cfg(target_os = "linux")]
    #[test]
    fn no_connection_ends_with_a_listener_that_is_not_kept() {
        use std::io::{Read, Write};
        use std::net::{TcpListener as StdListener, TcpStream};
        use std::time::Duration;

        let [first, second] = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
        let old = Listeners::open(&[first], 0).expect("a free port");
        let port = old.port;
        let _taken = StdListener::bind((second, port)).expect("a free port");
        let wanted = Wanted::new(&[first, second], false);
        let connect_and_answer = || {
            for answered in 0..1_000 {
                let mut client = TcpStream::connect((first, port)).expect("it listens");
                client.write_all(b"?").expect("it is connected");
                let mut accepted = loop {
                    match old.sockets[0].accept() {
                        Ok((accepted, _)) => break TcpStream::from(accepted),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            let mut none = [0];
                            client.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
                            let waits =
                                client.read(&mut none).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
                            assert!(waits, "the connection ended unanswered, after {answered}");
                        }
                        Err(error) => panic!("{error}"),
                    }
                };
                accepted.write_all(b"!").expect("it is connected");
            }
        };
        std::thread::scope(|scope| {
            let clients = scope.spawn(connect_and_answer);
            while !clients.is_finished() {
                let opened = open_beside(&wanted, &[&old.sockets[0]], |_| false, port);
                assert!(opened.expect_err("a taken address").is_taken());
            }
        });
    }

    #[test]
    fn an_address_of_nobody_is_an_error_that_names_it() {
        let address = "192.0.2.1".parse().expect("an address");
        let error = Listeners::open(&[address], 0).expect_err("not an address of this host");
        assert!(error.to_string().contains("192.0.2.1"), "{error}");
    }
}
