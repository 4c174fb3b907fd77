//! Each name gets the same port at each start, and no two the same, whoever owns the EPMD's port meanwhile.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::rounds::rounds;
use epmd_core::protocol::plan_request;
use epmd_tools::client::{close, connect, free_address, register, PATIENCE};
use epmd_tools::process::Process;
use epmd_tools::random::Random;
use rustix::net::{shutdown, Shutdown};

const NAMES: usize = 60;

/// What an owner replies to a node that asks for its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planned {
    Port { port: u16, stepped_over: u16 },
    NameRegistered,
}

/// Asks until an owner replies.
fn ask(server: SocketAddr, name: &str, ports: &RangeInclusive<u16>) -> Planned {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut reply = [0; 6];
        let asked = connect(server).and_then(|mut stream| {
            stream.write_all(&plan_request(name, ports.clone()))?;
            stream.read_exact(&mut reply)
        });
        match (asked, reply) {
            (Ok(()), [b'p', 0, a, b, c, d]) => {
                let [port, stepped_over] = [[a, b], [c, d]].map(u16::from_be_bytes);
                return Planned::Port { port, stepped_over };
            }
            (Ok(()), [b'p', 1, ..]) => return Planned::NameRegistered,
            (Ok(()), other) => panic!("no reply to a plan: {other:?}"),
            (Err(error), _) => assert!(Instant::now() < deadline, "{name}: {error}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn port(server: SocketAddr, name: &str, ports: &RangeInclusive<u16>) -> u16 {
    match ask(server, name, ports) {
        Planned::Port { port, .. } if ports.contains(&port) => port,
        other => panic!("{name}: {other:?}"),
    }
}

fn listen(port: u16) -> TcpListener {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
}

/// A range of this many ports that are free now, below those that Elixir's tests and the system take.
fn free_range(count: u16) -> RangeInclusive<u16> {
    let mut random = Random::new(u64::from(std::process::id()));
    loop {
        let first = 7_000 + random.below(3_000 - usize::from(count)) as u16;
        let ports = first..=first + count - 1;
        if ports.clone().all(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()) {
            return ports;
        }
    }
}

/// A node that starts, runs for a moment and ends. Returns the port that it listened on.
fn live(server: SocketAddr, name: &str, ports: &RangeInclusive<u16>, random: &mut Random) -> u16 {
    let port = port(server, name, ports);
    let listener = listen(port);
    let deadline = Instant::now() + PATIENCE;
    let node = loop {
        match register(server, name, port) {
            Ok(node) => break node,
            Err(error) => assert!(Instant::now() < deadline, "{name}: {error}"),
        }
    };
    thread::sleep(Duration::from_micros(random.below(20_000) as u64));
    // A process that another thread is just starting may have a copy.
    shutdown(&listener, Shutdown::Both).unwrap();
    close(node);
    port
}

#[test]
fn each_name_has_its_port_through_restarts_and_changes_of_owner() {
    let server = free_address();
    let ports = free_range(100);
    let member = |number: usize| Process::start_named(server.port(), &format!("member{number}"), &[]);
    let mut owner = member(0);
    owner.serves();
    let mut standby = member(1);
    standby.stands_by();

    let names: Vec<_> = (0..NAMES).map(|number| format!("node{number}")).collect();
    let begun: Vec<_> = thread::scope(|scope| {
        let ports = &ports;
        let start = |name: &String| {
            let name = name.clone();
            scope.spawn(move || live(server, &name, ports, &mut Random::new(1)))
        };
        let nodes: Vec<_> = names.iter().map(start).collect();
        nodes.into_iter().map(|node| node.join().unwrap()).collect()
    });
    assert_eq!(begun.iter().collect::<BTreeSet<_>>().len(), NAMES, "no two names have one port: {begun:?}");

    // Another program takes the port of one name, which gets one that nobody had.
    let taken = begun[0];
    let other = listen(taken);
    let Planned::Port { port: moved, stepped_over } = ask(server, &names[0], &ports) else { panic!("it is not there") };
    assert_eq!(stepped_over, taken);
    assert!(!begun.contains(&moved) && ports.contains(&moved));
    let mut planned = begun;
    planned[0] = moved;

    let restarts = rounds(5, 20);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let nodes = names.iter().zip(&planned).enumerate().map(|(number, (name, port))| {
            let ports = &ports;
            scope.spawn(move || {
                let mut random = Random::new(number as u64);
                for _ in 0..restarts {
                    assert_eq!(live(server, name, ports, &mut random), *port, "{name}");
                }
            })
        });
        let nodes: Vec<_> = nodes.collect();
        scope.spawn(|| {
            let mut number = 2;
            while !is_over.load(Ordering::Relaxed) {
                owner.kill();
                standby.serves();
                owner = std::mem::replace(&mut standby, member(number));
                standby.stands_by();
                number += 1;
            }
            assert!(number > 3, "owners have changed");
        });
        let ended: Vec<_> = nodes.into_iter().map(|node| node.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|node| node.unwrap());
    });
    // It stays where it is, although its first port is free again.
    drop(other);
    assert_eq!(port(server, &names[0], &ports), moved);
}

#[test]
fn a_name_that_is_registered_gets_none_and_a_full_range_has_none() {
    let server = free_address();
    let member = Process::start(server.port());
    member.serves();
    let ports = free_range(2);
    let first = port(server, "a", &ports);
    let node = register(server, "a", first).unwrap();
    assert_eq!(ask(server, "a", &ports), Planned::NameRegistered);
    // Whoever ends and asks at once is not taken for one that runs.
    close(node);
    assert_eq!(port(server, "a", &ports), first);

    let listeners = ports.clone().map(listen);
    let listeners: Vec<_> = listeners.collect();
    assert_eq!(ask(server, "a", &ports), Planned::Port { port: 0, stepped_over: first });
    drop(listeners);
    assert_eq!(port(server, "a", &ports), first);
}
