//! The addresses that a configured list stands for, and which of them decides who serves.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::os;

/// Where OTP's clients register: at the first, or with `inet6_tcp` at the second. No other host can reach them.
pub(crate) const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
pub(crate) const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// The addresses that a configured list stands for, in the order in which they are bound. The first one that exists
/// decides who serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted(Vec<Target>);

/// An address to bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) ip: IpAddr,
    /// If not, it may be missing from this host, or another process may have it.
    pub(super) required: bool,
}

impl Wanted {
    /// The addresses for a list. An empty list means any address, of both families where the host has both.
    ///
    /// A list with an address that other hosts reach gets both loopbacks in front: nodes register there, so they
    /// decide. In a list of loopbacks only, the first named one decides. The loopback where this VM's nodes register
    /// comes last.
    pub(crate) fn new(addresses: &[IpAddr], inet6: bool) -> Self {
        Self::on_a_system(addresses, inet6, os::any_excludes_others())
    }

    /// These addresses and no others, in the order in which a list of them would be bound.
    pub(crate) fn exactly(addresses: &[IpAddr]) -> Self {
        let mut wanted = Self::new(addresses, false);
        wanted.0.retain(|target| addresses.contains(&target.ip));
        wanted
    }

    fn on_a_system(addresses: &[IpAddr], inet6: bool, any_excludes_others: bool) -> Self {
        let mut wanted = Self(Vec::new());
        if addresses.is_empty() {
            for any in ANY {
                wanted.add(any, false, any_excludes_others);
            }
            return wanted;
        }
        let any_of = |ip: &IpAddr| if ip.is_ipv4() { ANY[0] } else { ANY[1] };
        // It could not be bound beside "any" of its family.
        let covered = |ip: &IpAddr| !ip.is_unspecified() && addresses.contains(&any_of(ip));
        let is_local = |ip: &IpAddr| ip.is_loopback() || ip.is_unspecified();
        let only_local = addresses.iter().all(is_local);
        if !only_local {
            for local in LOOPBACKS {
                let ip = if covered(&local) { any_of(&local) } else { local };
                wanted.add(ip, addresses.contains(&ip), any_excludes_others);
            }
        }
        for ip in addresses.iter().filter(|ip| !covered(ip)) {
            wanted.add(*ip, true, any_excludes_others);
        }
        let registers_there = |local: &IpAddr| local.is_ipv4() || inet6;
        for local in LOOPBACKS.iter().filter(|local| registers_there(local) && !covered(local)) {
            wanted.add(*local, false, any_excludes_others);
        }
        wanted
    }

    fn add(&mut self, ip: IpAddr, required: bool, any_excludes_others: bool) {
        if self.addresses().all(|have| have != ip) {
            self.0.push(Target { ip, required });
        }
        if any_excludes_others {
            return;
        }
        // Otherwise another process could bind the loopback, and get all connections from this host.
        if let Some(family) = ANY.iter().position(|any| *any == ip) {
            self.add(LOOPBACKS[family], true, true);
        }
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.iter().map(|target| target.ip)
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        self.0.iter().copied()
    }

    /// The address that decides who serves, if it exists.
    pub(crate) fn first(&self) -> IpAddr {
        self.0.first().map_or(ANY[0], |target| target.ip)
    }

    /// Whether a connection to `address` reaches a listener on one of these.
    pub(crate) fn covers(&self, address: IpAddr) -> bool {
        covers(self.addresses(), address)
    }
}

/// Whether a connection to `address` reaches a listener on one of these addresses of this host.
pub(crate) fn covers(listening: impl IntoIterator<Item = IpAddr>, address: IpAddr) -> bool {
    listening.into_iter().any(|bound| {
        bound == address || (bound.is_unspecified() && bound.is_ipv4() == address.is_ipv4() && is_own(address))
    })
}

/// Whether listeners on these two addresses exclude each other.
pub(crate) fn overlap(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4() && (one == other || one.is_unspecified() || other.is_unspecified())
}

/// Whether a host without this address can do without it: no other host could reach it there. A host may lack a whole
/// family; macOS and the BSDs have no loopback but 127.0.0.1 and `::1` until one is added.
pub(super) fn is_dispensable(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// Whether this host may get this address while the server runs.
pub(super) fn may_come(address: IpAddr) -> bool {
    address.is_loopback() && !LOOPBACKS.contains(&address)
}

/// Whether an address is this host's. What the kernel said counts for a second: lookups ask all the time.
fn is_own(address: IpAddr) -> bool {
    const VALID: Duration = Duration::from_secs(1);
    const MAX_KNOWN: usize = 256;
    static KNOWN: Mutex<BTreeMap<IpAddr, (Instant, bool)>> = Mutex::new(BTreeMap::new());
    if address.is_loopback() {
        return true;
    }
    let mut known = KNOWN.lock();
    match known.get(&address) {
        Some((since, own)) if since.elapsed() < VALID => return *own,
        None if known.len() >= MAX_KNOWN => known.clear(),
        _ => {}
    }
    let own = is_source(address).unwrap_or_else(|_| known.get(&address).is_some_and(|(_, own)| *own));
    known.insert(address, (Instant::now(), own));
    own
}

/// Whether the kernel chooses this address as the source of packets to itself, as it does for its own. Nothing is sent.
fn is_source(address: IpAddr) -> io::Result<bool> {
    const DISCARD: u16 = 9;
    let any = if address.is_ipv4() { ANY[0] } else { ANY[1] };
    let socket = UdpSocket::bind((any, 0))?;
    match socket.connect((address, DISCARD)) {
        // No route leads there.
        Err(_) => Ok(false),
        Ok(()) => Ok(socket.local_addr()?.ip() == address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::parse_addresses;

    fn of(list: &str) -> Wanted {
        Wanted::new(&parse_addresses(list).expect("addresses"), false)
    }

    /// In the order of binding, with those that are not required in brackets.
    fn shown(wanted: &Wanted) -> String {
        let shown = |target: Target| if target.required { target.ip.to_string() } else { format!("({})", target.ip) };
        wanted.targets().map(shown).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_loopback_where_nodes_register_is_added_and_decides_only_beside_a_network() {
        for (list, expected) in [
            ("", "(0.0.0.0) (::)"),
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "0.0.0.0"),
            ("0.0.0.0, 127.0.0.1", "0.0.0.0"),
            ("127.0.0.2", "127.0.0.2 (127.0.0.1)"),
            ("127.0.1.1", "127.0.1.1 (127.0.0.1)"),
            ("127.0.0.2 127.0.0.1", "127.0.0.2 127.0.0.1"),
            ("::", ":: (127.0.0.1)"),
            ("::1,::1", "::1 (127.0.0.1)"),
            ("::1 ::", ":: (127.0.0.1)"),
            ("10.0.0.5", "(127.0.0.1) (::1) 10.0.0.5"),
            ("10.0.0.5 127.0.0.1", "127.0.0.1 (::1) 10.0.0.5"),
            ("10.0.0.5 127.0.0.2", "(127.0.0.1) (::1) 10.0.0.5 127.0.0.2"),
            ("10.0.0.5 ::", "(127.0.0.1) :: 10.0.0.5"),
            ("fd00::1 0.0.0.0", "0.0.0.0 (::1) fd00::1"),
        ] {
            assert_eq!(shown(&of(list)), expected, "{list:?}");
        }
    }

    #[test]
    fn nodes_of_inet6_tcp_register_at_the_loopback_of_ipv6() {
        for (list, expected) in [
            ("", "(0.0.0.0) (::)"),
            ("127.0.0.1", "127.0.0.1 (::1)"),
            ("127.0.0.2", "127.0.0.2 (127.0.0.1) (::1)"),
            ("::1", "::1 (127.0.0.1)"),
            ("0.0.0.0", "0.0.0.0 (::1)"),
            ("::", ":: (127.0.0.1)"),
        ] {
            let wanted = Wanted::new(&parse_addresses(list).expect("addresses"), true);
            assert_eq!(shown(&wanted), expected, "{list:?}");
        }
    }

    #[test]
    fn where_others_can_bind_the_loopback_beside_any_both_are_taken() {
        for (list, expected) in [
            ("", "(0.0.0.0) 127.0.0.1 (::) ::1"),
            ("0.0.0.0", "0.0.0.0 127.0.0.1"),
            ("127.0.0.1 0.0.0.0 10.0.0.5", "0.0.0.0 127.0.0.1 (::1)"),
            ("127.0.0.1", "127.0.0.1"),
            ("::", ":: ::1 (127.0.0.1)"),
        ] {
            let wanted = Wanted::on_a_system(&parse_addresses(list).expect("addresses"), false, false);
            assert_eq!(shown(&wanted), expected, "{list:?}");
        }
    }

    #[test]
    fn any_covers_this_hosts_addresses_of_its_family() {
        let covers = |list: &str, address: &str| of(list).covers(address.parse().expect("an address"));
        assert!(covers("", "127.0.1.1"));
        assert!(covers("0.0.0.0", "127.0.0.1"));
        assert!(!covers("0.0.0.0", "::1"));
        assert!(!covers("", "192.0.2.1"));
        assert!(covers("127.0.0.2", "127.0.0.2"));
        assert!(!covers("127.0.0.2", "127.0.0.3"));
        assert!(covers("127.0.0.2", "127.0.0.1"));
    }
}
