//! What a list of addresses stands for, and who serves which of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use epmd_core::{parse_addresses, RegisterError, Role};

use crate::addresses::{listening, local, ports, start, PORT};
use crate::support::member::{settings, Running};
use crate::support::network::Network;
use epmd_tools::client::{self, eventually, exchange, register};
use epmd_tools::request::{port_please2, Alive2};

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
        let said = member.log.lines("an address that this host does not have");
        assert!(matches!(&said[..], [line] if line.starts_with("WARN") && line.contains("address=::1")), "{said:?}");
        drop(member);
        // OTP's daemon would serve 127.0.0.1 as well.
        let member = start("::1");
        assert_eq!(listening(), ["127.0.0.1".parse().unwrap()].into());
        drop(member);
        let unnamed = start("10.77.0.1");
        assert_eq!(unnamed.log.lines("an address that this host").len(), 0, "nobody asked for it");
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
