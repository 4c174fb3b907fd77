//! The owner's table in every member: what members know of it, and what their observers are told.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use crate::support::member::Running;
use epmd_core::{Answer, Change, HandOver, Journal, Settings, Table};
use epmd_tools::client::{self, eventually, register};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const MEMBERS: u16 = 4;

/// A member, and the changes that its observer was told of, without roles.
struct Observed {
    member: Running,
    /// The port of its node.
    port: u16,
    told: Arc<Mutex<Vec<Change>>>,
}

impl Observed {
    fn start(port: u16, addresses: &[IpAddr], hand_over: HandOver) -> Self {
        let told = Arc::<Mutex<Vec<Change>>>::default();
        let observer = Arc::clone(&told);
        let journal = Journal::observed_by(Arc::new(move |_, change| {
            if !matches!(change, Change::Role(_)) {
                observer.lock().unwrap().push(change);
            }
        }));
        let settings = crate::support::member::settings(addresses, port);
        Self { member: Running::start(Settings { journal, hand_over, ..settings }), port: 0, told }
    }

    fn told(&self) -> Vec<Change> {
        self.told.lock().unwrap().clone()
    }

    /// Forgets what was told so far.
    fn forget(&self) {
        self.told.lock().unwrap().clear();
    }

    /// The nodes in its snapshot.
    fn nodes(&self) -> Vec<(String, u16, u32)> {
        let node = |entry: &Arc<epmd_core::registry::Entry>| {
            (String::from_utf8(entry.name().to_vec()).unwrap(), entry.port(), entry.creation())
        };
        self.member.handle.snapshot().nodes.iter().map(node).collect()
    }

    /// The nodes that an observer knows who was told every change.
    fn heard(&self) -> BTreeSet<(String, u16)> {
        let mut nodes = BTreeSet::new();
        for change in self.told() {
            match change {
                Change::Registered { name, port, .. } => {
                    assert!(nodes.insert((name.clone(), port)), "{name} was told twice");
                }
                Change::Unregistered { name, port } => {
                    assert!(nodes.remove(&(name.clone(), port)), "{name} was not told");
                }
                _ => {}
            }
        }
        nodes
    }

    fn table(&self) -> Table {
        self.member.handle.status().table
    }
}

/// Members of which the first serves, each with a node, once all have the table.
fn host(port: u16) -> Vec<Observed> {
    let members: Vec<_> = (0..MEMBERS).map(|n| started(port, n, &[LOOPBACK.into()])).collect();
    assert_eq!(members[0].table(), Table::Here);
    eventually("everybody has the table", || members.iter().all(|one| one.nodes() == members[0].nodes()));
    members
}

fn started(port: u16, n: u16, addresses: &[IpAddr]) -> Observed {
    let observed = Observed { port: 9_000 + n, ..Observed::start(port, addresses, HandOver::default()) };
    observed.member.register(&name(observed.port), observed.port).unwrap();
    observed
}

#[test]
fn every_member_tells_what_its_owner_tells_and_looks_up_in_memory() {
    let (port, server) = free();
    let members = host(port);
    assert!(members[1..].iter().all(|one| one.table() == Table::Copy));
    members.iter().for_each(Observed::forget);
    let mut nodes: Vec<_> = (0..50).map(|n| register(server, format!("node{n}"), n + 1).unwrap()).collect();
    nodes.drain(..25).for_each(client::close);
    assert!(register(server, "node49", 1).is_err());
    assert!(register(server, "a\nb", 1).is_err());
    eventually("the owner knows of all", || members[0].told().len() == 77);
    for one in &members {
        eventually("the same events", || one.told() == members[0].told());
        assert_eq!(one.nodes(), members[0].nodes());
        assert!(
            matches!(one.member.handle.find(LOOPBACK.into(), "node49"), Answer::Found(entry) if entry.port() == 50)
        );
    }
    // It may not have reached the copy yet.
    assert!(matches!(members[1].member.handle.find(LOOPBACK.into(), "node0"), Answer::AskOwner));
}

#[test]
fn a_change_of_owner_tells_what_has_changed_and_nothing_else() {
    let (port, server) = free();
    let mut members = host(port);
    let _nodes: Vec<_> = (0..20).map(|n| register(server, format!("node{n}"), n + 1).unwrap()).collect();
    for round in 0..6_u16 {
        eventually("the same table", || members.iter().all(|one| one.nodes() == members[0].nodes()));
        eventually("some can go on for the owner", || members[0].member.handle.status().standbys.len() == 2);
        members.iter().for_each(Observed::forget);
        let owner = members.remove(0);
        let (before, gone) = (owner.nodes().len(), owner.port);
        if round % 2 == 0 {
            owner.member.kill();
        } else {
            owner.member.stop();
        }
        // The copy answers while the port changes owners.
        for one in &members {
            assert!(matches!(one.member.handle.find(LOOPBACK.into(), "node7"), Answer::Found(_)));
        }
        let mut at = None;
        eventually("one serves", || {
            at = members.iter().position(|one| one.table() == Table::Here);
            at.is_some()
        });
        members.swap(0, at.unwrap());
        // A refusal of the new owner also reaches members that do not follow it yet.
        assert!(register(server, "node7", 1).is_err());
        let unregistered = Change::Unregistered { name: name(gone), port: gone };
        for one in &members {
            eventually("the end of one node, and a refusal", || {
                one.told().len() >= 2 && one.nodes().len() == before - 1
            });
            let told = one.told();
            let refused = |change: &&Change| matches!(change, Change::Refused { name, .. } if name == "node7");
            assert_eq!(told.iter().filter(refused).count(), 1, "{told:?}");
            assert!(told.contains(&unregistered) && told.len() == 2, "{told:?}");
        }
        members.push(started(port, MEMBERS + round, &[LOOPBACK.into()]));
    }
}

#[test]
fn a_table_that_fills_again_tells_of_the_end_of_those_that_did_not_come_back() {
    let (port, server) = free();
    // With different addresses they do not stand by for each other.
    let addresses = |n: u16| [LOOPBACK.into(), Ipv4Addr::new(127, 0, 0, 2 + n as u8).into()];
    let owner = Observed::start(port, &[LOOPBACK.into()], HandOver::default());
    let members: Vec<_> = (0..MEMBERS).map(|n| started(port, n, &addresses(n))).collect();
    let _nodes: Vec<_> = (0..200).map(|n| register(server, format!("node{n}"), n + 1).unwrap()).collect();
    eventually("everybody has the table", || members.iter().all(|one| one.nodes() == owner.nodes()));
    assert!(members.iter().all(|one| !one.member.handle.status().stands_by));
    owner.member.kill();
    let own: BTreeSet<_> = (0..MEMBERS).map(|n| (name(9_000 + n), 9_000 + n)).collect();
    for one in &members {
        eventually("only the members are left", || one.heard() == own);
    }
    let server = members.iter().find(|one| one.table() == Table::Here).unwrap();
    for one in &members {
        eventually("the same table", || one.table() != Table::Owner && one.nodes() == server.nodes());
    }
}

#[test]
fn without_a_hand_over_the_owner_is_asked_and_its_copy_is_given_up() {
    let (port, server) = free();
    let owner = Observed::start(port, &[LOOPBACK.into()], HandOver::default());
    let _node = register(server, "node", 1).unwrap();
    let member = Observed::start(port, &[LOOPBACK.into()], HandOver::default());
    let alone = Observed::start(port, &[LOOPBACK.into()], HandOver::off());
    eventually("the copy is there", || member.table() == Table::Copy);
    assert_eq!(alone.table(), Table::Owner);
    assert!(alone.member.handle.entries().is_none() && alone.nodes().is_empty());
    assert!(matches!(alone.member.handle.find(LOOPBACK.into(), "node"), Answer::AskOwner));
    assert_eq!(alone.told(), []);

    // The handover can be switched off and on in a running member.
    member.forget();
    let settings = crate::support::member::settings(&[LOOPBACK.into()], port);
    member.member.handle.configure(settings.policy.clone(), settings.limits.clone(), HandOver::off());
    eventually("the copy is given up", || member.table() == Table::Owner);
    assert_eq!(member.told(), [Change::Lost]);
    member.member.handle.configure(settings.policy, settings.limits, HandOver::default());
    eventually("the copy is there again", || member.table() == Table::Copy);
    assert_eq!(member.nodes(), owner.nodes());
    assert!(matches!(&member.told()[1..], [Change::Registered { name, .. }] if name == "node"));
}

fn name(port: u16) -> String {
    format!("member{port}")
}

fn free() -> (u16, SocketAddr) {
    let server = client::free_address();
    (server.port(), server)
}
