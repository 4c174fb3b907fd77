//! Where connections come from, and which of them gives way to another: what is local is served before what is not, and
//! whoever has the most gives way.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use super::access::Origin;

/// The bits of an IPv6 address that tell its network: a host has all addresses of its own.
const IPV6_NETWORK: u128 = !0 << 64;

/// Where a connection comes from, as far as shares are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// A user of this host, if it is known who.
    Local(Option<u32>),
    /// An IPv4 address, or a network of IPv6 with the other bits 0.
    Remote(IpAddr),
}

impl Source {
    pub(super) fn of(origin: Origin, user: impl FnOnce() -> Option<u32>) -> Self {
        match origin {
            Origin::Local => Self::Local(user()),
            Origin::Remote(IpAddr::V6(address)) => {
                Self::Remote(Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK).into())
            }
            Origin::Remote(address) => Self::Remote(address),
        }
    }

    pub(super) fn is_remote(self) -> bool {
        matches!(self, Self::Remote(_))
    }
}

/// Connections by their sources. Each has a number; the smaller, the older.
#[derive(Debug, Default)]
pub(super) struct Sources {
    by_source: HashMap<Source, BTreeSet<u64>>,
    /// The last one gives way to the others.
    ranked: BTreeMap<Rank, Source>,
}

/// Whether a source is remote, how many connections it has, and the oldest of them.
type Rank = (bool, usize, Reverse<u64>);

impl Sources {
    pub(super) fn insert(&mut self, source: Source, number: u64) {
        self.change(source, |connections| connections.insert(number));
    }

    pub(super) fn remove(&mut self, source: Source, number: u64) {
        self.change(source, |connections| connections.remove(&number));
    }

    fn change(&mut self, source: Source, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let connections = self.by_source.entry(source).or_default();
        if let Some(rank) = rank(source, connections) {
            self.ranked.remove(&rank);
        }
        change(connections);
        match rank(source, connections) {
            Some(rank) => self.ranked.insert(rank, source),
            None => self.by_source.remove(&source).and(None),
        };
    }

    /// How many come from there.
    pub(super) fn count(&self, source: Source) -> usize {
        self.by_source.get(&source).map_or(0, BTreeSet::len)
    }

    /// The oldest that comes from there.
    pub(super) fn oldest(&self, source: Source) -> Option<u64> {
        self.by_source.get(&source)?.first().copied()
    }

    /// The one that gives way: the oldest of the remote source that has the most or, of two that have as many, of that
    /// with the oldest. If all are local, the same of the users.
    pub(super) fn gives_way(&self) -> Option<u64> {
        self.ranked.last_key_value().map(|((_, _, Reverse(oldest)), _)| *oldest)
    }
}

fn rank(source: Source, connections: &BTreeSet<u64>) -> Option<Rank> {
    Some((source.is_remote(), connections.len(), Reverse(*connections.first()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(address: &str) -> Source {
        Source::of(Origin::Remote(address.parse().expect("an address")), || unreachable!("it is not asked for"))
    }

    /// Those that are open, numbered in their order.
    fn sources(open: &[Source]) -> Sources {
        let mut sources = Sources::default();
        (0..).zip(open).for_each(|(number, source)| sources.insert(*source, number));
        sources
    }

    /// All of them, in the order in which they give way.
    fn order(mut sources: Sources, open: &[Source]) -> Vec<u64> {
        let mut order = Vec::new();
        while let Some(number) = sources.gives_way() {
            sources.remove(open[number as usize], number);
            order.push(number);
        }
        assert!(sources.by_source.is_empty() && sources.ranked.is_empty(), "something is left");
        order
    }

    #[test]
    fn the_source_with_the_most_gives_way_and_this_host_last() {
        let (one, other) = (remote("192.0.2.1"), remote("192.0.2.2"));
        let [user, another, unknown] = [Some(1), Some(2), None].map(Source::Local);
        let open = [user, one, other, other, another, one, other, another, unknown];
        assert_eq!(sources(&open).count(other), 3);
        assert_eq!(order(sources(&open), &open), [2, 1, 3, 5, 6, 4, 0, 7, 8]);
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_an_ipv4_address_another_however_it_is_written() {
        assert_eq!(remote("2001:db8::1"), remote("2001:db8::ffff:0:0:2"));
        assert_ne!(remote("2001:db8::1"), remote("2001:db8:0:1::1"));
        assert_ne!(remote("192.0.2.1"), remote("192.0.2.2"));
        let mapped =
            Origin::new("::ffff:192.0.2.1".parse().expect("an address"), || Err(std::io::ErrorKind::Other.into()));
        assert_eq!(Source::of(mapped, || None), remote("192.0.2.1"));
    }

    #[test]
    fn each_change_is_followed() {
        let (one, other) = (remote("192.0.2.1"), remote("192.0.2.2"));
        let mut sources = sources(&[one, one, other]);
        assert_eq!(sources.gives_way(), Some(0));
        // Both have one, and the older is the other's.
        sources.remove(one, 0);
        sources.remove(one, 1);
        sources.insert(one, 3);
        assert_eq!((sources.gives_way(), sources.oldest(one)), (Some(2), Some(3)));
        sources.remove(one, 3);
        // What is not there is not removed.
        sources.remove(one, 3);
        assert_eq!((sources.count(one), sources.oldest(one), sources.gives_way()), (0, None, Some(2)));
    }
}
