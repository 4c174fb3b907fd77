//! Which port a node is to listen on, out of a range: the same at each start, and no two nodes the same.
//!
//! The plan is the table itself: the ports of the registered nodes, and of the names that left. So it goes wherever the
//! table goes. Beside it stands for a moment what was promised to nodes that are about to listen.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::address;
use crate::node::NodeName;

/// How long a promise holds. A node listens on its port within milliseconds, and registers right after that.
const PROMISED_FOR: Duration = Duration::from_secs(10);

/// A port for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// `None` if all ports of the range are taken.
    pub port: Option<u16>,
    /// The first port that would have been the node's, and that a process has which is no node of the table.
    pub stepped_over: Option<u16>,
}

/// The ports that were promised a moment ago: to whom, as the hash of a name, and until when.
#[derive(Debug, Default)]
pub(super) struct Promises(BTreeMap<u16, (u32, Instant)>);

/// How much speaks against giving a port to a name. The least is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// It was the name's.
    Own,
    Nobody,
    /// A name that left had it.
    Left,
    /// It was promised to another.
    Promised,
    /// A node is registered with it. If nobody listens there, that is no node.
    Registered,
}

/// Plans a port where no table of this library has the plan, from the nodes that another EPMD knows and knew.
pub fn plan<'a>(
    name: &NodeName,
    range: RangeInclusive<u16>,
    nodes: &[u16],
    left: impl Iterator<Item = (&'a [u8], u16)>,
) -> Planned {
    Promises::default().plan(name, range, &Ports::of(name, nodes.iter().copied(), left), address::is_free)
}

/// The ports that a table knows.
#[derive(Debug)]
pub(super) struct Ports {
    /// Those of registered nodes.
    nodes: Vec<u16>,
    /// Those of names that left, the first to leave first, and whether it is the name that is asked about.
    left: Vec<(u16, bool)>,
}

impl Ports {
    /// Sorts them for this name.
    pub(super) fn of<'a>(
        name: &NodeName,
        nodes: impl Iterator<Item = u16>,
        left: impl Iterator<Item = (&'a [u8], u16)>,
    ) -> Self {
        let name = name.as_str().as_bytes();
        Self { nodes: nodes.collect(), left: left.map(|(other, port)| (port, other == name)).collect() }
    }
}

impl Promises {
    /// Plans and promises a port for a name. `is_free` tries whether nobody listens on a port.
    pub(super) fn plan(
        &mut self,
        name: &NodeName,
        range: RangeInclusive<u16>,
        known: &Ports,
        is_free: impl Fn(u16) -> bool,
    ) -> Planned {
        let (hash, now) = (hash(name.as_str().as_bytes()), Instant::now());
        self.0.retain(|_, (_, until)| *until > now);
        let mut claims = HashMap::new();
        claims.extend(known.left.iter().map(|(port, is_own)| (*port, if *is_own { Claim::Own } else { Claim::Left })));
        let others = self.0.iter().filter(|(_, (whose, _))| *whose != hash);
        claims.extend(others.map(|(port, _)| (*port, Claim::Promised)));
        claims.extend(known.nodes.iter().map(|port| (*port, Claim::Registered)));
        let claim = |port: &u16| claims.get(port).copied().unwrap_or(Claim::Nobody);

        let mut ports: Vec<u16> = from_hash(hash, range).collect();
        ports.sort_by_key(claim);
        let mut stepped_over = None;
        let port = ports.into_iter().find(|port| {
            let free = is_free(*port);
            if !free && claim(port) < Claim::Promised {
                stepped_over.get_or_insert(*port);
            }
            free
        });
        if let Some(port) = port {
            self.0.insert(port, (hash, now + PROMISED_FOR));
        }
        Planned { port, stepped_over }
    }
}

/// The ports of a range, from one on that depends on the name alone.
fn from_hash(hash: u32, range: RangeInclusive<u16>) -> impl Iterator<Item = u16> {
    let (first, last) = (*range.start(), *range.end());
    let start = first + (hash % (u32::from(last - first) + 1)) as u16;
    (start..=last).chain(first..start)
}

/// FNV-1a: the same on every machine and in every version.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const RANGE: RangeInclusive<u16> = 9100..=9109;

    /// Plans for a name among these nodes and names that left, where these ports are taken.
    fn plan(promises: &mut Promises, name: &str, nodes: &[u16], left: &[(&str, u16)], taken: &[u16]) -> Planned {
        let name = NodeName::new(name.as_bytes()).expect("a valid name");
        let left = left.iter().map(|(name, port)| (name.as_bytes(), *port));
        promises.plan(&name, RANGE, &Ports::of(&name, nodes.iter().copied(), left), |port| !taken.contains(&port))
    }

    fn port(name: &str, nodes: &[u16], left: &[(&str, u16)], taken: &[u16]) -> Option<u16> {
        plan(&mut Promises::default(), name, nodes, left, taken).port
    }

    #[test]
    fn a_name_gets_the_port_that_it_had() {
        for had in RANGE {
            assert_eq!(port("a", &[], &[("b", 9100), ("a", had)], &[]), Some(had));
        }
        assert!(RANGE.contains(&port("a", &[], &[("a", 80)], &[]).expect("one of the range")));
        assert_eq!(port("a", &[], &[], &[]), port("a", &[], &[], &[]));
    }

    #[test]
    fn names_that_start_at_once_get_different_ports() {
        let mut promises = Promises::default();
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let ports: BTreeSet<_> =
            names.iter().filter_map(|name| plan(&mut promises, name, &[], &[], &[]).port).collect();
        assert_eq!(ports.len(), names.len());
        let again = plan(&mut promises, "a", &[], &[], &[]);
        assert_eq!(again.port, plan(&mut promises, "a", &[], &[], &[]).port);
    }

    #[test]
    fn ports_of_others_are_the_last() {
        let all: Vec<_> = RANGE.collect();
        let left: Vec<_> = all[1..].iter().map(|port| ("other", *port)).collect();
        assert_eq!(port("a", &[], &left, &[]), Some(all[0]));
        // A new name takes that of one that left rather than that of a node.
        assert_eq!(port("a", &all[1..], &[("other", all[0])], &[]), Some(all[0]));
        // Nobody listens where a node says that it does.
        assert_eq!(port("a", &all, &[], &all[1..]), Some(all[0]));
        assert_eq!(port("a", &all, &[], &all), None);
        // Promises keep nobody out for good.
        let mut promises = Promises::default();
        for name in 0..20 {
            assert!(plan(&mut promises, &name.to_string(), &[], &[], &[]).port.is_some());
        }
    }

    #[test]
    fn a_port_that_is_taken_is_stepped_over_and_told() {
        let planned = |taken: &[u16]| plan(&mut Promises::default(), "a", &[9105], &[("a", 9103)], taken);
        assert_eq!(planned(&[9105]), Planned { port: Some(9103), stepped_over: None });
        let over = planned(&[9103]);
        assert_eq!(over.stepped_over, Some(9103));
        assert!(over.port.is_some_and(|port| ![9103, 9105].contains(&port)));
        let all: Vec<_> = RANGE.collect();
        assert_eq!(planned(&all), Planned { port: None, stepped_over: Some(9103) });
    }

    #[test]
    fn a_range_may_be_one_port_or_the_last() {
        let name = NodeName::new(b"a").expect("a valid name");
        let one = |range| Promises::default().plan(&name, range, &Ports { nodes: vec![], left: vec![] }, |_| true).port;
        assert_eq!(one(9100..=9100), Some(9100));
        assert_eq!(one(65535..=65535), Some(65535));
    }
}
