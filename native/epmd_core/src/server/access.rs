//! Who may ask what, decided here and nowhere else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use rustix::fd::AsFd;
use rustix::net::getsockname;

use crate::protocol::Request;
use crate::reserved_names::ReservedNames;

const NOT_ALLOWED: &str = "its address is in no network of :allow";

/// What a server lets its peers do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Local peers may end registrations (`STOP_REQ`, and `KILL_REQ` while nodes are registered).
    pub relaxed: bool,
    /// Remote peers may list the names.
    pub remote_names: bool,
    /// The networks that may look nodes up; all of them when there is no list. Local peers always may.
    pub allow: Option<Vec<Network>>,
    /// The port also answers probes over HTTP, of those who may look nodes up.
    pub health: bool,
    /// The names that the processes of certain users may register, and nobody else.
    pub reserved_names: ReservedNames,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Local,
    Remote(IpAddr),
}

impl Policy {
    /// Why a peer may not ask this; nothing if it may.
    pub(crate) fn refuses(&self, request: &Request<'_>, origin: Origin) -> Option<&'static str> {
        match (request, origin) {
            (Request::Stop(_), Origin::Local) if !self.relaxed => Some("registrations end so only with relaxed: true"),
            (_, Origin::Local) => None,
            (Request::PortPlease2(_) | Request::Names, Origin::Remote(address)) if !self.allows(address) => {
                Some(NOT_ALLOWED)
            }
            (Request::Names, Origin::Remote(_)) if !self.remote_names => {
                Some("other hosts list names only with remote_names: true")
            }
            (Request::PortPlease2(_) | Request::Names, Origin::Remote(_)) => None,
            (_, Origin::Remote(_)) => Some("it comes from another host"),
        }
    }

    /// Why a peer may not probe the VM's health; nothing if it may.
    pub(crate) fn refuses_probes(&self, origin: Origin) -> Option<&'static str> {
        match origin {
            Origin::Remote(address) if !self.allows(address) => Some(NOT_ALLOWED),
            Origin::Local | Origin::Remote(_) => None,
        }
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.allow.as_ref().is_none_or(|networks| networks.iter().any(|network| network.contains(address)))
    }
}

impl Origin {
    /// Where the peer of a connection is.
    pub(crate) fn from_connection(peer: SocketAddr, connection: impl AsFd) -> Self {
        Self::new(peer.ip(), || Ok(SocketAddr::try_from(getsockname(connection.as_fd())?)?))
    }

    /// A peer is local when it comes from a loopback address, or from the very address it dialled.
    pub(crate) fn new(peer: IpAddr, own: impl FnOnce() -> std::io::Result<SocketAddr>) -> Self {
        let peer = peer.to_canonical();
        let is_own = || own().is_ok_and(|own| own.ip().to_canonical() == peer);
        if peer.is_loopback() || is_own() {
            Self::Local
        } else {
            Self::Remote(peer)
        }
    }
}

/// A network in CIDR notation: `10.0.0.0/8`, `fd00::/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                (u32::from(net) ^ u32::from(ip)).leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                (u128::from(net) ^ u128::from(ip)).leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected a network such as 10.0.0.0/8 or fd00::/8, got {text:?}");
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| expected())?;
        let width = if matches!(address, IpAddr::V4(Ipv4Addr { .. })) { 32 } else { 128 };
        let bits = bits.map_or(Ok(width), |bits| bits.parse().map_err(|_| expected()))?;
        // Peers are compared by their IPv4 addresses, where they have one.
        match address.to_canonical() {
            canonical if canonical == address && bits <= width => Ok(Self { address, bits }),
            address if address.is_ipv4() && (96..=128).contains(&bits) => Ok(Self { address, bits: bits - 96 }),
            _ => Err(expected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(peer: &str, own: &str) -> Origin {
        let own = SocketAddr::new(own.parse().expect("an address"), 1);
        Origin::new(peer.parse().expect("an address"), || Ok(own))
    }

    #[test]
    fn local_is_loopback_or_the_same_address() {
        for (peer, own) in [
            ("127.0.0.2", "127.0.0.1"),
            ("::1", "::1"),
            ("::ffff:127.0.0.2", "::ffff:127.0.0.1"),
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
            ("fd00::1", "fd00::1"),
        ] {
            assert_eq!(origin(peer, own), Origin::Local, "{peer} to {own}");
        }
        assert!(matches!(origin("10.0.0.2", "10.0.0.1"), Origin::Remote(_)));
        assert!(matches!(origin("10.0.0.1", "127.0.0.1"), Origin::Remote(_)));
    }

    #[test]
    fn networks_contain_their_addresses() {
        let contains = |network: &str, address: &str| {
            let network: Network = network.parse().expect("a network");
            network.contains(address.parse().expect("an address"))
        };
        assert!(contains("10.1.0.0/16", "10.1.255.255"));
        assert!(!contains("10.1.0.0/16", "10.2.0.0"));
        assert!(contains("0.0.0.0/0", "192.0.2.1"));
        assert!(contains("fd00::/8", "fd12::1"));
        assert!(!contains("fd00::/8", "10.0.0.1"));
        assert!(contains("192.0.2.1", "192.0.2.1"));
        assert!(contains("::ffff:10.1.0.0/112", "10.1.255.255"));
        assert!(!contains("::ffff:10.1.0.0/112", "10.2.0.0"));
        assert!("::ffff:10.1.0.0/95".parse::<Network>().is_err());
        assert!("10.0.0.0/33".parse::<Network>().is_err());
        assert!("ten".parse::<Network>().is_err());
    }

    #[test]
    fn the_table() {
        let strict = Policy::default();
        let remote = Origin::Remote(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        assert!(strict.refuses(&Request::PortPlease2("a"), remote).is_none());
        for request in [Request::Names, Request::Dump, Request::Kill, Request::Stop(b"a")] {
            assert!(strict.refuses(&request, remote).is_some(), "{request:?}");
        }
        assert!(strict.refuses(&Request::Stop(b"a"), Origin::Local).is_some());
        let open = Policy { relaxed: true, remote_names: true, ..Policy::default() };
        assert!(open.refuses(&Request::Names, remote).is_none());
        assert!(open.refuses(&Request::Stop(b"a"), Origin::Local).is_none());
        assert!(open.refuses(&Request::Stop(b"a"), remote).is_some());
        let closed = Policy { allow: Some(vec![]), ..open };
        assert!(closed.refuses(&Request::PortPlease2("a"), remote).is_some());
        assert!(closed.refuses(&Request::Names, remote).is_some());
        assert!(closed.refuses_probes(remote).is_some() && closed.refuses_probes(Origin::Local).is_none());
        assert!(strict.refuses_probes(remote).is_none());
    }
}
