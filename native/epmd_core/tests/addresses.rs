//! Where members listen, and how they change to other addresses. Each test runs as root in network namespaces of its
//! own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use epmd_core::{parse_addresses, ListenError, RegisterError, Role};
use support::client::{self, eventually, exchange, register, PATIENCE};
use support::member::{settings, Running};
use support::network::Network;
use support::request::{names, port_please2, Alive2};

/// In a new network namespace every port is free.
const PORT: u16 = 4369;

#[test]
fn an_owner_moves_and_keeps_registrations_links_and_its_standby() {
    let network = Network::new();
    network.on_server_host(|| {
        for (from, to) in [("", "127.0.0.1"), ("127.0.0.1", ""), ("127.0.0.1,10.77.0.1", "127.0.0.1"), ("::", "::1")] {
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
        }
    });
}

#[test]
fn a_member_that_has_joined_moves_first_and_stands_by_when_its_owner_follows() {
    let network = Network::new();
    network.on_server_host(|| {
        // In the first case the rendezvous changes with the first address, in the second it does not.
        for (from, to) in [("", "127.0.0.1"), ("127.0.0.1", "10.77.0.1")] {
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
        }
    });
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

#[test]
fn what_a_standby_lacks_comes_to_it_while_it_stands_by() {
    let network = Network::new();
    network.on_server_host(|| {
        let other = start("127.0.0.1");
        let owner = start("127.0.0.2");
        let standby = start("127.0.0.2");
        standby.stands_by_for(&owner);
        assert_eq!(owner.handle.status().addresses, ["127.0.0.2".parse::<IpAddr>().unwrap()]);
        other.stop();
        eventually("the owner takes 127.0.0.1", || owner.handle.status().addresses.len() == 2);
        let node = register(local(), "node", 3).unwrap();
        owner.kill();
        standby.serves();
        assert_eq!(ports(local()), [3]);
        assert!(!client::is_closed(&node));
    });
}

#[test]
fn loopbacks_of_a_family_that_the_host_lacks_are_left_out_and_said_once() {
    let network = Network::new();
    without_ipv6(&network);
    network.on_server_host(|| {
        let member = start("127.0.0.1,::1");
        assert_eq!(listening(), ["127.0.0.1".parse().unwrap()].into());
        let said = member.log.lines("a family that this host does not have");
        assert!(matches!(&said[..], [line] if line.starts_with("WARN") && line.contains("address=::1")), "{said:?}");
        drop(member);
        // OTP's daemon would serve 127.0.0.1 as well.
        let member = start("::1");
        assert_eq!(listening(), ["127.0.0.1".parse().unwrap()].into());
        drop(member);
        let unnamed = start("10.77.0.1");
        assert_eq!(unnamed.log.lines("a family that this host").len(), 0, "nobody asked for it");
        drop(unnamed);
        for list in ["fd77::1", "127.0.0.1,10.77.0.200"] {
            let error = Running::try_start(settings(&parse_addresses(list).unwrap(), PORT)).err().expect(list);
            assert!(error.contains("cannot listen on"), "{list}: {error}");
        }
    });
    let lonely = Network::new();
    without_ipv6(&lonely);
    run("ip", &["-n", &lonely.server_host, "address", "flush", "dev", "lo"]);
    lonely.on_server_host(|| {
        let error = Running::try_start(settings(&parse_addresses("127.0.0.1,::1").unwrap(), PORT)).err().unwrap();
        assert!(error.contains("cannot listen on 127.0.0.1:4369"), "{error}");
    });
}

#[test]
fn where_nodes_can_register_with_the_daemon_they_can_register_with_us() {
    let network = Network::new();
    network.on_server_host(|| {
        let ways = ["127.0.0.1", "::1", "127.0.0.2", "127.0.1.1", "10.77.0.1", "fd77::1"];
        let works = || -> BTreeSet<&str> {
            let can_register = |way: &&str| {
                let server = SocketAddr::new(way.parse().unwrap(), PORT);
                register(server, "node", 1).map(client::reset).is_ok()
            };
            ways.into_iter().filter(can_register).collect()
        };
        for list in [
            "127.0.0.1",
            "127.0.0.2",
            "127.0.1.1",
            "::1",
            "127.0.0.2,::1",
            "10.77.0.1",
            "fd77::1",
            "10.77.0.1,127.0.0.2",
        ] {
            let daemon = Daemon::start(list);
            let with_daemon = works();
            drop(daemon);
            assert!(with_daemon.contains("127.0.0.1"), "{list}: {with_daemon:?}");
            let mut ours = settings(&parse_addresses(list).unwrap(), PORT);
            ours.inet6 = true;
            let member = Running::start(ours);
            let with_us = works();
            assert!(with_us.is_superset(&with_daemon), "{list}: {with_daemon:?} with the daemon, {with_us:?} with us");
            drop(member);
        }
        // OTP's daemon cannot be told to listen on "any" of one family, so ours is tried alone.
        for list in ["::", "0.0.0.0"] {
            let member = start(list);
            assert!(works().contains("127.0.0.1"), "{list}");
            drop(member);
        }
    });
}

#[test]
fn two_with_a_loopback_each_do_not_disturb_each_other() {
    let network = Network::new();
    network.on_server_host(|| {
        let (one, two) = (start("127.0.0.2"), start("127.0.0.3"));
        one.register("one", 1).unwrap();
        two.register("two", 2).unwrap();
        assert_eq!((one.handle.status().role, two.handle.status().role), (Role::Serving, Role::Serving));
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), PORT);
        assert_eq!((ports(at("127.0.0.2")), ports(at("127.0.0.3")), ports(local())), (vec![1], vec![2], vec![1]));
        one.stop();
        eventually("the other one takes 127.0.0.1", || client::listing(local()).is_ok());
        assert_eq!((ports(at("127.0.0.3")), ports(local())), (vec![2], vec![2]));
        // Members with the same named addresses stand by for each other, whichever loopbacks they lack or want beside.
        let mut wants_more = settings(&parse_addresses("127.0.0.3").unwrap(), PORT);
        wants_more.inet6 = true;
        let standby = Running::start(wants_more);
        standby.stands_by_for(&two);
        two.kill();
        standby.serves();
        assert_eq!(listening(), ["127.0.0.3", "127.0.0.1", "::1"].map(|ip| ip.parse().unwrap()).into());
    });
}

#[test]
fn a_node_is_registered_once() {
    let network = Network::new();
    network.on_server_host(|| {
        let owner = start("127.0.0.1");
        let member = start("127.0.0.1");
        for (one, name, port) in [(&owner, "owner", 1), (&member, "member", 2)] {
            let creation = one.register(name, port).unwrap();
            assert_eq!(one.register("another", 3), Err(RegisterError::AlreadyRegistered));
            assert_eq!(one.register(name, port), Err(RegisterError::AlreadyRegistered));
            let found = exchange(local(), &port_please2(name)).unwrap();
            assert_eq!(found, Alive2::new(name, port).found(), "creation {creation}");
            one.handle.unregister();
            one.register(name, port).unwrap();
        }
        assert_eq!(ports(local()), [1, 2]);
    });
}

fn start(list: &str) -> Running {
    Running::start(settings(&parse_addresses(list).unwrap(), PORT))
}

fn move_to(member: &Running, list: &str) {
    member.handle.listen_on(parse_addresses(list).unwrap(), PATIENCE).unwrap_or_else(|error| panic!("{list}: {error}"));
}

fn local() -> SocketAddr {
    SocketAddr::new("127.0.0.1".parse().unwrap(), PORT)
}

/// The ports of the nodes that a server lists, sorted.
fn ports(server: SocketAddr) -> Vec<u16> {
    let reply = exchange(server, &names()).unwrap();
    let text = String::from_utf8(reply[4..].to_vec()).unwrap();
    let mut ports: Vec<u16> = text.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    ports.sort_unstable();
    ports
}

/// The addresses that a list stands for in these tests.
fn bound(list: &str) -> BTreeSet<IpAddr> {
    let addresses = match list {
        "" => "0.0.0.0,::",
        "10.77.0.1" => "127.0.0.1,::1,10.77.0.1",
        "::1" => "::1,127.0.0.1",
        list => list,
    };
    parse_addresses(addresses).unwrap().into_iter().collect()
}

/// The addresses of this namespace at which somebody listens on the port.
fn listening() -> BTreeSet<IpAddr> {
    let address = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = words[1].split_once(':')?;
        let listens = words[3] == "0A" && u16::from_str_radix(port, 16) == Ok(PORT);
        let word = |at: usize| u32::from_str_radix(&ip[at..at + 8], 16).unwrap().to_ne_bytes();
        listens.then(|| match ip.len() {
            8 => IpAddr::from(word(0)),
            _ => IpAddr::from(<[u8; 16]>::try_from([word(0), word(8), word(16), word(24)].concat()).unwrap()),
        })
    };
    let table = |table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    let lines = table("tcp") + &table("tcp6");
    lines.lines().filter(|line| line.contains(" 0A ")).filter_map(address).collect()
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

fn without_ipv6(network: &Network) {
    run("ip", &["netns", "exec", &network.server_host, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// OTP's daemon on a list of addresses, in the namespace of this thread.
struct Daemon(std::process::Child);

impl Daemon {
    fn start(list: &str) -> Self {
        let spawn = || Command::new("epmd").args(["-port", &PORT.to_string(), "-address", list]).spawn().unwrap();
        let mut daemon = Self(spawn());
        eventually("the daemon answers", || {
            // It ends at once if the last server has not quite gone.
            if daemon.0.try_wait().unwrap().is_some() {
                daemon = Self(spawn());
            }
            listening().is_superset(&parse_addresses(list).unwrap().into_iter().collect())
        });
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
