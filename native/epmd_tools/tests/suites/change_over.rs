//! Members without a standby, whose owner is killed again and again.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::member::{settings, Running};
use epmd_core::{Answer, HandOver, NodeName, Role, Settings};
use epmd_tools::client::{eventually, free_address, listing, register};
use epmd_tools::process::Process;

const MEMBERS: usize = 10;
const KILLS: usize = 14;
/// The moment when a member begins to serve is short: about one of a hundred times a lookup falls into it.
const ROUNDS: usize = 300;

#[test]
fn the_next_owner_is_found_as_fast_after_many_kills_in_a_row_as_after_the_first() {
    let server = free_address();
    let mut members: Vec<_> = (0..MEMBERS).map(|number| start(server, number)).collect();
    let took: Vec<Duration> = (0..KILLS)
        .map(|kill| {
            eventually("all are whole", || all_found(server, &members) && owner(&members).is_some());
            let (_, mut killed) = members.remove(owner(&members).unwrap());
            killed.kill();
            let began = Instant::now();
            eventually("the others are found", || all_found(server, &members));
            let took = began.elapsed();
            members.push(start(server, MEMBERS + kill));
            took
        })
        .collect();
    println!("{took:?}");
    let median = |took: &[Duration]| {
        let mut sorted = took.to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    let (first, last) = (median(&took[..4]), median(&took[KILLS - 4..]));
    // Other load on the machine may make it slower.
    assert!(last < first * 5 + Duration::from_millis(400), "first {first:?}, and at last {last:?}: {took:?}");
}

fn start(server: SocketAddr, number: usize) -> (String, Process) {
    let name = format!("member{number}");
    let process = Process::start_limited(server.port(), None, &["-standbys", "0", "-name", &name]);
    (name, process)
}

fn owner(members: &[(String, Process)]) -> Option<usize> {
    members.iter().position(|(_, process)| process.is("serving"))
}

fn all_found(server: SocketAddr, members: &[(String, Process)]) -> bool {
    let found = |listing: String| members.iter().all(|(name, _)| listing.contains(&format!("name {name} at")));
    listing(server).is_ok_and(found)
}

#[test]
fn an_owner_that_leaves_nodes_to_nobody_names_them() {
    const NODES: usize = 12;
    let told = |nodes: usize, has_standby: bool| {
        let server = free_address();
        let start = || Running::start(settings(&[server.ip()], server.port()));
        let owner = start();
        owner.register("owner", 1).unwrap();
        let standby = has_standby.then(start);
        if let Some(standby) = &standby {
            standby.register("standby", 2).unwrap();
            standby.stands_by_for(&owner);
        }
        let _nodes: Vec<_> = (0..nodes).map(|n| register(server, format!("node{n}"), 1).unwrap()).collect();
        let log = owner.log.clone();
        owner.stop();
        log.lines("cannot be found until an EPMD serves it again")
    };
    let [line] = told(NODES, false).try_into().unwrap();
    assert!(line.starts_with("WARN") && line.contains(" and 2 more") && !line.contains("owner"), "{line}");
    let named = (0..NODES).filter(|n| line.contains(&format!("node{n},")) || line.contains(&format!("node{n} ")));
    assert_eq!(named.count(), NODES - 2, "{line}");
    assert_eq!(told(NODES, true), Vec::<String>::new());
    assert_eq!(told(0, false), Vec::<String>::new());

    // Its own node may be registered over TCP.
    let server = free_address();
    let owner = Running::start(settings(&[server.ip()], server.port()));
    owner.handle.name_node(Some(NodeName::new(b"own").unwrap()));
    let _own = register(server, "own", 1).unwrap();
    let log = owner.log.clone();
    owner.stop();
    assert_eq!(log.lines("WARN"), Vec::<String>::new());
}

#[test]
fn no_lookup_in_a_vm_that_begins_to_serve_misses_a_node() {
    for _ in 0..ROUNDS {
        let server = free_address();
        let alone = || Settings {
            hand_over: HandOver { standbys: 0, ..HandOver::default() },
            ..settings(&[server.ip()], server.port())
        };
        let owner = Running::start(alone());
        let next = Running::start(alone());
        next.register("next", 1).unwrap();
        let handle = next.handle.clone();
        let looking = thread::spawn(move || loop {
            match handle.find(server.ip(), "next") {
                Answer::Found(_) => return,
                Answer::NotFound => panic!("it is not found"),
                _ => {}
            }
        });
        owner.kill();
        looking.join().unwrap();
    }
}

#[test]
fn a_standby_that_begins_to_serve_has_its_nodes_at_every_moment() {
    for _ in 0..ROUNDS {
        let server = free_address();
        let start = |name: &str| {
            let member = Running::start(settings(&[server.ip()], server.port()));
            member.register(name, 1).unwrap();
            member
        };
        let (owner, next) = (start("owner"), start("next"));
        next.stands_by_for(&owner);
        let handle = next.handle.clone();
        let looking = thread::spawn(move || {
            while handle.status().role != Role::Serving {
                let answer = handle.find(server.ip(), "next");
                assert!(matches!(answer, Answer::Found(_)), "{answer:?}");
                assert!(handle.entries().is_some() && handle.departed().is_some(), "the owner is to be asked");
            }
        });
        owner.kill();
        looking.join().unwrap();
    }
}
