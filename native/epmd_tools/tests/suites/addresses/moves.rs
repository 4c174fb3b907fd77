//! Members that change to other addresses while they run.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use epmd_core::{parse_addresses, ListenError, Role};

use crate::addresses::{bound, listening, local, move_to, ports, start, PORT};
use crate::support::network::Network;
use epmd_tools::client::{self, eventually, register, PATIENCE};
use epmd_tools::request::names;

#[test]
fn an_owner_moves_and_keeps_registrations_links_and_its_standby() {
    for (from, to) in [("", "127.0.0.1"), ("127.0.0.1", ""), ("127.0.0.1,10.77.0.1", "127.0.0.1"), ("::", "::1")] {
        // Each in a network of its own: a process that another test is just starting may still have the last listeners.
        Network::new().on_server_host(|| {
            let owner = start(from);
            let standby = start(from);
            owner.register("owner", 1).unwrap();
            standby.register("standby", 2).unwrap();
            standby.stands_by_for(&owner);
            let at = |list: &str| {
                SocketAddr::new(if list.starts_with("::") { "::1" } else { "127.0.0.1" }.parse().unwrap(), PORT)
            };
            let node = register(at(from), "node", 3).unwrap();

            move_to(&owner, to);
            assert_eq!(listening(), bound(to), "{from} to {to}");
            assert_eq!(owner.handle.status().addresses.into_iter().collect::<BTreeSet<_>>(), bound(to));
            assert_eq!(ports(at(to)), [1, 2, 3], "{from} to {to}");
            // The standby's copies of the listeners that were shut are useless.
            eventually("it stands by no more", || !standby.handle.status().stands_by);
            move_to(&standby, to);
            standby.stands_by_for(&owner);
            assert_eq!((owner.handle.status().role, standby.handle.status().role), (Role::Serving, Role::Joined));
            assert_eq!((owner.handle.status().changes, standby.handle.status().changes), (1, 1), "{from} to {to}");

            owner.kill();
            standby.serves();
            assert_eq!(listening(), bound(to), "{from} to {to}");
            assert_eq!(ports(at(to)), [2, 3], "{from} to {to}");
            assert!(!client::is_closed(&node));
        });
    }
}

#[test]
fn a_member_that_has_joined_moves_first_and_stands_by_when_its_owner_follows() {
    // In the first case the rendezvous changes with the first address, in the second it does not.
    for (from, to) in [("", "127.0.0.1"), ("127.0.0.1", "10.77.0.1")] {
        Network::new().on_server_host(|| {
            let owner = start(from);
            let member = start(from);
            member.register("member", 2).unwrap();
            member.stands_by_for(&owner);
            move_to(&member, to);
            assert_eq!(member.handle.status().role, Role::Joined);
            assert_eq!(ports(local()), [2], "the link stays");
            move_to(&owner, to);
            member.stands_by_for(&owner);
            assert_eq!(ports(local()), [2]);
            assert_eq!(member.handle.status().changes, 1, "it has not left its owner");
            owner.stop();
            member.serves();
            assert_eq!(listening(), bound(to));
            assert_eq!(ports(local()), [2]);
        });
    }
}

#[test]
fn registrations_that_arrive_while_an_owner_moves_are_kept() {
    const KEPT: usize = 100;
    let network = Network::new();
    network.on_server_host(|| {
        let owner = start("");
        let (over, registered) = (AtomicBool::new(false), AtomicUsize::new(0));
        let nodes = thread::scope(|scope| {
            let registering = scope.spawn(|| {
                let mut nodes = Vec::new();
                for number in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let node = register(local(), format!("node{number}"), nodes.len() as u16 + 1);
                    let node = node.unwrap_or_else(|error| panic!("the registration {number} was lost: {error}"));
                    registered.fetch_add(1, Ordering::Relaxed);
                    // This process has not enough descriptors to keep all of them.
                    if nodes.len() < KEPT {
                        nodes.push(node);
                    } else {
                        client::close(node);
                    }
                }
                nodes
            });
            let mut moves = 0;
            while moves < 5 || registered.load(Ordering::Relaxed) < 2 * KEPT {
                for list in ["127.0.0.1,127.0.0.2", "127.0.0.1", "127.0.0.1,10.77.0.1"] {
                    move_to(&owner, list);
                }
                moves += 1;
            }
            over.store(true, Ordering::Relaxed);
            registering.join().unwrap()
        });
        assert_eq!(nodes.len(), KEPT);
        eventually("the others have left", || ports(local()).len() == KEPT);
        assert_eq!(ports(local()), (1..=KEPT as u16).collect::<Vec<_>>());
        assert!(nodes.iter().all(|node| !client::is_closed(node)));
    });
}

#[test]
fn who_was_connecting_when_the_owner_moved_is_answered() {
    let network = Network::new();
    network.on_server_host(|| {
        let owner = start("");
        let loopback = bound("127.0.0.1");
        // The request must arrive within 100 ms, which a busy machine may miss.
        let answered = (0..500).any(|_| {
            let stream = client::connect(local()).unwrap();
            let reply = thread::scope(|scope| {
                scope.spawn(|| move_to(&owner, "127.0.0.1"));
                eventually("the new listener is there", || listening().is_superset(&loopback));
                client::converse(stream, &names()).unwrap()
            });
            move_to(&owner, "");
            !reply.is_empty()
        });
        assert!(answered, "its request was lost 500 times");
    });
}

#[test]
fn nobody_else_gets_the_port_by_a_move() {
    let network = Network::new();
    network.on_server_host(|| {
        let owner = start("");
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let thief = scope.spawn(|| {
                let mut tries = 0;
                while !over.load(Ordering::Relaxed) {
                    assert!(!can_listen("127.0.0.1", false), "somebody else listens on 127.0.0.1");
                    tries += 1;
                }
                tries
            });
            move_to(&owner, "127.0.0.1");
            over.store(true, Ordering::Relaxed);
            assert!(thief.join().unwrap() > 0);
        });
        for address in ["127.0.0.1", "0.0.0.0"] {
            for shared in [false, true] {
                assert!(!can_listen(address, shared), "{address}, with SO_REUSEPORT: {shared}");
            }
        }
        assert!(can_listen("127.0.0.2", false), "an address that was given up");
    });
}

#[test]
fn addresses_that_cannot_be_listened_on_leave_everything_as_it_was() {
    let network = Network::new();
    network.on_server_host(|| {
        let owner = start("127.0.0.1");
        let member = start("127.0.0.1");
        member.register("member", 2).unwrap();
        member.stands_by_for(&owner);
        for one in [&owner, &member] {
            let error = one.handle.listen_on(parse_addresses("127.0.0.1,192.0.2.1").unwrap(), PATIENCE).unwrap_err();
            assert!(matches!(error, ListenError::Open(_)));
            assert!(error.to_string().contains("192.0.2.1"), "{error}");
        }
        assert_eq!(listening(), bound("127.0.0.1"));
        assert!(member.handle.status().stands_by && !owner.handle.status().standbys.is_empty());
        // The list that a member has already changes nothing either.
        move_to(&owner, "127.0.0.1");
        move_to(&member, "127.0.0.1");
        assert!(member.handle.status().stands_by && !owner.handle.status().standbys.is_empty());
        owner.kill();
        member.serves();
        assert_eq!(listening(), bound("127.0.0.1"));
        let handle = member.handle.clone();
        member.stop();
        assert!(matches!(handle.listen_on(Vec::new(), PATIENCE), Err(ListenError::Stopped)));
    });
}

#[test]
fn a_member_that_moves_where_nobody_is_serves_there() {
    let network = Network::new();
    network.on_server_host(|| {
        let owner = start("127.0.0.1");
        let member = start("127.0.0.1");
        member.register("member", 2).unwrap();
        move_to(&member, "127.0.0.3");
        member.serves();
        assert_eq!(ports(SocketAddr::new("127.0.0.3".parse().unwrap(), PORT)), [2]);
        eventually("it has left its owner", || ports(local()).is_empty());
        // 127.0.0.1 is the owner's until that ends.
        owner.stop();
        eventually("it serves 127.0.0.1 as well", || client::listing(local()).is_ok());
        assert_eq!(ports(local()), [2]);
        eventually("it says so", || member.handle.status().addresses.len() == 2);
        // A standby gets the listener that was added later, too.
        let standby = start("127.0.0.3");
        standby.stands_by_for(&member);
        member.kill();
        standby.serves();
        assert_eq!(listening(), ["127.0.0.3", "127.0.0.1"].map(|ip| ip.parse().unwrap()).into());
    });
}

/// Whether another socket can listen on the port.
fn can_listen(address: &str, shared: bool) -> bool {
    use rustix::net::{bind, listen, socket, sockopt, AddressFamily, SocketType};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    sockopt::set_socket_reuseport(&socket, shared).unwrap();
    let address = SocketAddr::new(address.parse().unwrap(), PORT);
    bind(&socket, &address).and_then(|()| listen(&socket, 1)).is_ok()
}
