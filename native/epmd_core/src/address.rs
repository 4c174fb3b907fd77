//! Where to listen: from a list of addresses to bound listeners.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};

use crate::os;

/// As many connections as the kernel lets wait; it lowers the number to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Parses a list of IPv4 and IPv6 addresses, separated by commas or blanks, as in `ERL_EPMD_ADDRESS`.
pub fn parse_addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let items = text.split([',', ' ']).filter(|item| !item.is_empty());
    items.map(|item| item.parse().map_err(|_| format!("expected an IPv4 or IPv6 address, got {item:?}"))).collect()
}

/// The bound listeners, the first of them the one that decides who serves.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) sockets: Vec<TcpListener>,
    /// Addresses that nobody named and somebody still has.
    missing: Vec<IpAddr>,
    /// The port in use; the one that was asked for unless that was 0.
    pub port: u16,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct OpenError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub error: io::Error,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.error)
    }
}

impl OpenError {
    pub(crate) fn is_taken(&self) -> bool {
        self.error.kind() == ErrorKind::AddrInUse
    }

    /// Where whoever holds the address can be reached.
    pub(crate) fn holder(&self) -> SocketAddr {
        reachable(self.address)
    }
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
    /// Binds the addresses; no addresses means any, of both families where the host has both.
    pub fn open(addresses: &[IpAddr], mut port: u16) -> Result<Self, OpenError> {
        let (mut sockets, mut missing) = (Vec::<TcpListener>::new(), Vec::new());
        for (address, named) in with_loopbacks(addresses) {
            match listen(SocketAddr::new(address, port)) {
                Ok(socket) => {
                    // With port 0 the first socket decides for all of them.
                    port = socket.local_addr().map_or(port, |bound| bound.port());
                    sockets.push(socket);
                }
                // What nobody named may be missing: a host without IPv6, an IPv6 port of somebody else's.
                Err(error) if !named && !sockets.is_empty() => {
                    if error.kind() == ErrorKind::AddrInUse {
                        missing.push(address);
                    }
                }
                Err(error) => return Err(OpenError { address: SocketAddr::new(address, port), error }),
            }
        }
        Ok(Self { sockets, missing, port })
    }

    /// Listeners that were another process's.
    pub(crate) fn inherited(sockets: Vec<std::net::TcpListener>, wanted: &[IpAddr], port: u16) -> Self {
        let sockets: Vec<_> = sockets.into_iter().map(TcpListener::from_std).collect();
        let mut listeners = Self { sockets, missing: Vec::new(), port };
        let bound = listeners.addresses();
        listeners.missing = wanted.iter().copied().filter(|address| !bound.contains(address)).collect();
        listeners
    }

    /// Tries again to get what somebody still had; whether nothing is missing any more.
    pub(crate) fn complete(&mut self) -> bool {
        let (sockets, port) = (&mut self.sockets, self.port);
        self.missing.retain(|address| match listen(SocketAddr::new(*address, port)) {
            Ok(socket) => {
                sockets.push(socket);
                false
            }
            Err(_) => true,
        });
        self.missing.is_empty()
    }

    /// The addresses that are listened on.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).map(|bound| bound.ip()).collect()
    }
}

/// The addresses that a list stands for.
pub(crate) fn wanted(addresses: &[IpAddr]) -> Vec<IpAddr> {
    with_loopbacks(addresses).into_iter().map(|(address, _)| address).collect()
}

/// Whether whoever dials `address` reaches a listener on one of these addresses of this host.
pub(crate) fn covers(listening: &[IpAddr], address: IpAddr) -> bool {
    listening.iter().any(|bound| {
        *bound == address || (bound.is_unspecified() && bound.is_ipv4() == address.is_ipv4() && is_own(address))
    })
}

/// Whether an address is this host's: what goes there also comes from there. Nothing is sent to find out.
fn is_own(address: IpAddr) -> bool {
    const DISCARD: u16 = 9;
    let any = if address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let comes_from = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, DISCARD))?;
        socket.local_addr()
    };
    address.is_loopback() || comes_from().is_ok_and(|own| own.ip() == address)
}

/// The addresses to bind, and whether each must succeed.
///
/// Any and loopback addresses are taken as they stand. Beside any other address OTP's daemon also listens on
/// 127.0.0.1 and ::1, since that is where nodes register; so do we, unless the list has an address of that kind.
fn with_loopbacks(addresses: &[IpAddr]) -> Vec<(IpAddr, bool)> {
    if addresses.is_empty() {
        return vec![(Ipv4Addr::UNSPECIFIED.into(), false), (Ipv6Addr::UNSPECIFIED.into(), false)];
    }
    let serves_locals = |ip: &IpAddr| ip.is_loopback() || ip.is_unspecified();
    // An address that "any" of its family covers would collide with it.
    let covered = |ip: &IpAddr| {
        !ip.is_unspecified() && addresses.iter().any(|a| a.is_unspecified() && a.is_ipv4() == ip.is_ipv4())
    };
    let mut all: Vec<(IpAddr, bool)> = Vec::new();
    if !addresses.iter().all(serves_locals) {
        for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            if !addresses.iter().any(|ip| ip.is_ipv4() == loopback.is_ipv4() && serves_locals(ip)) {
                all.push((loopback, false));
            }
        }
    }
    for address in addresses.iter().filter(|ip| !covered(ip)) {
        if !all.iter().any(|(have, _)| have == address) {
            all.push((*address, true));
        }
    }
    all
}

pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    os::defer_accept(&socket);
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(list: &str) -> Vec<String> {
        let addresses = parse_addresses(list).expect("addresses");
        with_loopbacks(&addresses).iter().map(|(ip, _)| ip.to_string()).collect()
    }

    #[test]
    fn loopbacks_are_added_only_where_nothing_serves_locals() {
        assert_eq!(bound(""), ["0.0.0.0", "::"]);
        assert_eq!(bound("127.0.0.2"), ["127.0.0.2"]);
        assert_eq!(bound("0.0.0.0, 127.0.0.1"), ["0.0.0.0"]);
        assert_eq!(bound("10.0.0.5"), ["127.0.0.1", "::1", "10.0.0.5"]);
        assert_eq!(bound("10.0.0.5 127.0.0.2"), ["::1", "10.0.0.5", "127.0.0.2"]);
        assert_eq!(bound("::1,::1"), ["::1"]);
    }

    #[test]
    fn any_covers_this_hosts_addresses_of_its_family() {
        let covers = |list: &str, address: &str| {
            covers(&wanted(&parse_addresses(list).expect("addresses")), address.parse().expect("an address"))
        };
        assert!(covers("", "127.0.1.1"));
        assert!(covers("0.0.0.0", "127.0.0.1"));
        assert!(!covers("0.0.0.0", "::1"));
        assert!(!covers("", "192.0.2.1"));
        assert!(covers("127.0.0.2", "127.0.0.2"));
        assert!(!covers("127.0.0.2", "127.0.0.3"));
        assert!(!covers("127.0.0.2", "127.0.0.1"));
    }

    #[test]
    fn the_port_is_one_for_all_and_told() {
        let listeners = Listeners::open(&[], 0).expect("a free port");
        assert_ne!(listeners.port, 0);
        let taken = Listeners::open(&[Ipv4Addr::LOCALHOST.into()], listeners.port).expect_err("a taken port");
        assert!(taken.is_taken(), "{taken}");
    }

    #[test]
    fn an_address_of_nobody_is_an_error_that_names_it() {
        let address = "192.0.2.1".parse().expect("an address");
        let error = Listeners::open(&[address], 0).expect_err("not an address of this host");
        assert!(error.to_string().contains("192.0.2.1"), "{error}");
    }
}
