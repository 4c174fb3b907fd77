//! A member as a service: listeners of a socket unit, and what the service manager keeps between two lives.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::thread;

use crate::support::nodes::{all_found, fill};
use crate::support::service::Service;
use epmd_tools::client::{self, eventually, exchange, free_address, listing, register};
use epmd_tools::process::standalone;
use epmd_tools::process::Process;
use epmd_tools::request::{port_please2, Alive2};
use rustix::process::Signal;

const NODES: usize = 20;

#[test]
fn listeners_of_a_socket_unit_are_served_and_outlive_the_service() {
    let server = free_address();
    let mut service = Service::start(0, &[socket(server)], &["-port", &server.port().to_string()]);
    service.serves(server);
    let nodes = fill(server, NODES);
    all_found(server, &nodes);
    for how in [Service::kill, Service::stop] {
        how(&mut service);
        // Nobody serves, and nobody is refused: who asks waits.
        let asked = thread::spawn(move || exchange(server, &port_please2("node0")));
        assert!(client::connect(server).is_ok());
        service.start_again();
        assert_eq!(asked.join().unwrap().unwrap(), b"w\x01");
    }
}

#[test]
fn whoever_has_the_name_serves_the_listeners_of_a_socket_unit() {
    let server = free_address();
    let flags = ["-port", &server.port().to_string()];
    let mut service = Service::start(0, &[socket(server)], &flags);
    service.serves(server);
    let nodes = fill(server, NODES);
    let mut other = Process::start(server.port());
    other.stands_by();
    service.kill();
    other.serves();
    all_found(server, &nodes);

    // The service comes back to the same listeners, which are another's now, and stands by.
    service.start_again();
    eventually("it stands by", || service.is("standing by"));
    other.stop();
    service.serves(server);
    all_found(server, &nodes);

    // A last owner that is not the service leaves the socket unit's listeners open as well.
    let mut other = Process::start(server.port());
    other.stands_by();
    service.stop();
    other.serves();
    other.stop();
    assert!(client::connect(server).is_ok(), "the listener was shut");
    service.start_again();
    service.serves(server);
}

#[test]
fn a_socket_of_both_families_is_served_at_both() {
    let server = free_address();
    let mut service =
        Service::start(0, &[format!("epmd.socket=*{}", server.port())], &["-port", &server.port().to_string()]);
    for _ in 0..2 {
        service.serves(server);
        let _node = register(server, "node", 1).unwrap();
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let found = exchange(SocketAddr::new(address, server.port()), &port_please2("node"));
            assert_eq!(found.unwrap(), Alive2::new("node", 1).found(), "{address}");
        }
        service.kill();
        service.start_again();
    }
}

#[test]
fn a_standby_that_hangs_does_not_keep_the_service_from_its_sockets() {
    let server = free_address();
    let mut service = Service::start(100, &[socket(server)], &["-port", &server.port().to_string()]);
    service.serves(server);
    let nodes = fill(server, NODES);
    let other = Process::start(server.port());
    other.stands_by();
    service.has_stored(nodes.len(), 0);
    other.signal(Signal::STOP);
    service.kill();
    service.start_again();
    service.serves(server);
    all_found(server, &nodes);
    other.signal(Signal::CONT);
    other.stands_by();
    assert!(service.is("serving"), "two serve");
    all_found(server, &nodes);
}

#[test]
fn a_service_whose_addresses_have_changed_keeps_its_nodes() {
    let server = free_address();
    let flags = std::env::temp_dir().join(format!("service_flags_{}_{}", std::process::id(), server.port()));
    let addresses =
        |addresses: &str| fs::write(&flags, format!("-port {} -address {addresses}", server.port())).unwrap();
    addresses("127.0.0.1");
    let mut service = Service::start_with_flags_of(&flags, 100);
    service.serves(server);
    let nodes = fill(server, NODES);
    service.has_stored(nodes.len(), 1);
    let other = SocketAddr::from(([127, 0, 0, 2], server.port()));
    assert!(exchange(other, &port_please2("node0")).is_err());
    for (named, listeners, there) in [("127.0.0.1,127.0.0.2", 2, true), ("127.0.0.1", 1, false)] {
        service.kill();
        addresses(named);
        service.start_again();
        service.serves(server);
        all_found(server, &nodes);
        assert_eq!(exchange(other, &port_please2("node0")).is_ok(), there, "{named}");
        service.has_stored(nodes.len(), listeners);
    }
    fs::remove_file(flags).unwrap();
}

#[test]
fn thousands_of_nodes_are_kept_and_no_more() {
    const KEPT: usize = 4_000;
    let server = free_address();
    let mut service = started(6_000, server);
    let nodes: Vec<_> = (0..KEPT + 50).map(|n| register(server, format!("node{n}"), 1).unwrap()).collect();
    for how in [Service::kill, Service::stop] {
        service.has_stored(KEPT, 1);
        how(&mut service);
        service.start_again();
        service.serves(server);
        assert_eq!(listing(server).unwrap().matches("name node").count(), KEPT);
        assert!(!nodes[..KEPT].iter().any(client::is_closed), "a connection ended");
    }
}

#[test]
fn settings_that_contradict_the_socket_unit_are_told() {
    let (server, other) = (free_address(), free_address());
    let flags = |port: u16, address: &str| ["-port".into(), port.to_string(), "-address".into(), address.to_string()];
    for (named, flags, sentence) in [
        (socket(server), flags(other.port(), "127.0.0.1"), format!("but the settings say {}", other.port())),
        (socket(server), flags(server.port(), "127.0.0.2"), "but the settings say 127.0.0.2".into()),
    ] {
        let mut command = Command::new("timeout");
        // It ends with the manager's input, of which there is none.
        command.arg("10").arg(crate::support::service::stand_in()).args(["0", &named, "--"]).arg(standalone());
        command.arg("-member").args(flags).stdin(Stdio::piped());
        let mut manager = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(manager.stderr.take().unwrap()).lines();
        let said = lines.next().unwrap().unwrap();
        drop(manager.stdin.take());
        manager.wait().unwrap();
        assert!(said.contains(&sentence), "{said}");
    }
}

#[test]
fn what_was_registered_outlives_the_service_in_the_store() {
    let server = free_address();
    let mut service = started(100, server);
    let mut nodes = fill(server, NODES);
    for how in [Service::kill, Service::stop, Service::kill] {
        service.has_stored(nodes.len(), 1);
        how(&mut service);
        let asked = thread::spawn(move || exchange(server, &port_please2("node0")));
        service.start_again();
        assert_eq!(asked.join().unwrap().unwrap(), Alive2::new("node0", 1).found());
        service.serves(server);
        all_found(server, &nodes);
        service.has_stored(nodes.len(), 1);
    }
    // What ends while nobody serves has ended.
    service.kill();
    client::close(nodes.pop().unwrap());
    service.start_again();
    service.serves(server);
    let last = format!("node{}", NODES - 1);
    eventually("it is not found", || exchange(server, &port_please2(&last)).unwrap() == b"w\x01");
    assert_eq!(exchange(server, &port_please2("node0")).unwrap(), Alive2::new("node0", 1).found());
    assert!(!nodes.iter().any(client::is_closed));
    service.has_stored(nodes.len(), 1);
}

#[test]
fn what_was_registered_a_moment_ago_outlives_an_orderly_end_and_is_free_again_after_another() {
    let server = free_address();
    let mut service = started(100, server);
    let nodes = fill(server, NODES);
    service.has_stored(nodes.len(), 1);
    let mut young = register(server, "young", 1).unwrap();
    service.stop();
    service.start_again();
    service.serves(server);
    let found = || exchange(server, &port_please2("young")).unwrap();
    assert_eq!(found(), Alive2::new("young", 1).found());
    assert!(!client::is_closed(&young));
    // What is in the store by now is not to end.
    client::close(young);
    eventually("its name is free", || found() == b"w\x01");
    young = register(server, "young", 1).unwrap();
    service.kill();
    // A machine that needs a second for that has stored it.
    let is_stored = service.stored().len() > NODES + 2;
    // Otherwise its node notices, and registers again.
    eventually("its connection ends, or goes on", || is_stored || client::is_closed(&young));
    service.start_again();
    service.serves(server);
    assert_eq!(found() != b"w\x01", is_stored);
    let _again = (!is_stored).then(|| register(server, "young", 1).unwrap());
    all_found(server, &nodes);
}

#[test]
fn a_standby_goes_on_and_the_store_is_emptied() {
    let server = free_address();
    let mut service = started(100, server);
    let nodes = fill(server, NODES);
    let other = Process::start(server.port());
    other.stands_by();
    service.has_stored(nodes.len(), 1);
    service.kill();
    other.serves();
    service.start_again();
    eventually("it stands by", || service.is("standing by"));
    eventually("the store is empty", || service.stored().is_empty());
    all_found(server, &nodes);
    drop(other);
    service.serves(server);
    all_found(server, &nodes);
    service.has_stored(nodes.len(), 1);

    // In order: a standby that goes on needs no store either.
    let other = Process::start(server.port());
    other.stands_by();
    service.stop();
    other.serves();
    eventually("the store is empty", || service.stored().is_empty());
    all_found(server, &nodes);
}

#[test]
fn a_service_that_has_its_listeners_back_in_another_order_stands_by() {
    let server = free_address();
    let addresses = ["-address", "127.0.0.1,127.0.0.2"];
    let mut service = Service::start(100, &[], &[&addresses[..], &["-port", &server.port().to_string()]].concat());
    service.serves(server);
    let nodes = fill(server, NODES);
    let other = Process::start_named(server.port(), "other", &addresses);
    other.stands_by();
    // The other one's node, too.
    service.has_stored(nodes.len() + 1, 2);
    service.kill();
    other.serves();
    service.start_again();
    eventually("it stands by", || service.is("standing by"));
    eventually("the store is empty", || service.stored().is_empty());
    assert!(other.is("serving"));
    all_found(server, &nodes);
}

#[test]
fn a_store_that_is_full_keeps_what_fits() {
    let server = free_address();
    let mut service = started(8, server);
    let nodes = fill(server, NODES);
    eventually("the store is full", || service.stored().len() == 8);
    for _ in 0..2 {
        service.kill();
        service.start_again();
        service.serves(server);
        for n in 0..6 {
            let name = format!("node{n}");
            assert_eq!(exchange(server, &port_please2(&name)).unwrap(), Alive2::new(&name, n + 1).found());
        }
        assert_eq!(exchange(server, &port_please2("node10")).unwrap(), b"w\x01");
        assert!(!nodes[..6].iter().any(client::is_closed));
    }
}

#[test]
fn a_table_that_has_grown_is_replaced() {
    let server = free_address();
    let mut service = started(100, server);
    let nodes = fill(server, NODES);
    service.has_stored(nodes.len(), 1);
    let table = |service: &mut Service| service.stored().into_iter().filter(|name| name.contains("table")).collect();
    let before: Vec<String> = table(&mut service);
    // No time is set for this: it is not waited for but worked for, and how long that takes is the machine's affair.
    let is_replaced = (0..100).any(|round| {
        (0..500).for_each(|n| {
            client::close(register(server, format!("passing{round}_{n}"), 1).unwrap());
        });
        let tables: Vec<String> = table(&mut service);
        tables.len() == 1 && tables != before
    });
    assert!(is_replaced, "no other table after 50,000 registrations");
    service.kill();
    service.start_again();
    service.serves(server);
    all_found(server, &nodes);
}

fn started(store: usize, server: SocketAddr) -> Service {
    let service = Service::start(store, &[], &["-address", "127.0.0.1", "-port", &server.port().to_string()]);
    service.serves(server);
    service
}

fn socket(server: SocketAddr) -> String {
    format!("app-epmd.socket={}", server.port())
}
