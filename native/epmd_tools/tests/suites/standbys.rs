//! More than one standby.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::nodes::{all_found, fill};
use crate::support::rounds::{each, rounds};
use epmd_tools::client::{self, eventually, exchange, free_address, register};
use epmd_tools::process::Process;
use epmd_tools::request::{port_please2, Alive2};
use rustix::process::Signal;

const NODES: usize = 50;

#[test]
fn owner_and_standby_that_end_together_are_followed_by_the_second_standby() {
    let server = free_address();
    let owner = serving(server);
    let nodes = fill(server, NODES);
    let [first, second] = standbys(server);
    let together = Command::new("kill").args(["-9", &owner.id().to_string(), &first.id().to_string()]).status();
    assert!(together.unwrap().success());
    second.serves();
    all_found(server, &nodes);
}

#[test]
fn owner_and_standby_that_stop_together_are_followed_by_the_second_standby() {
    for _ in 0..rounds(8, 40) {
        let server = free_address();
        let mut owner = serving(server);
        let nodes = fill(server, NODES);
        let [mut first, second] = standbys(server);
        owner.ask_to_stop();
        first.ask_to_stop();
        second.serves();
        all_found(server, &nodes);
    }
}

#[test]
fn an_owner_that_stops_waits_for_a_standby_that_is_slow() {
    each([Duration::ZERO, Duration::from_millis(1_500)], |pause| {
        let server = free_address();
        let mut owner = serving(server);
        let nodes = fill(server, NODES);
        let standby = Process::start_named(server.port(), "standby", &[]);
        standby.stands_by();
        standby.signal(Signal::STOP);
        owner.ask_to_stop();
        thread::sleep(pause);
        standby.signal(Signal::CONT);
        standby.serves();
        all_found(server, &nodes);
    });
}

#[test]
fn a_standby_that_is_not_the_next_owner_goes_on_with_the_copies_that_it_has() {
    let server = free_address();
    let mut owner = serving(server);
    let nodes = fill(server, NODES);
    let standbys = standbys(server);
    let of_nodes: BTreeSet<String> = {
        let numbers = |process: &Process| process.sockets().into_values().collect::<BTreeSet<_>>();
        numbers(&standbys[0]).intersection(&numbers(&standbys[1])).cloned().collect()
    };
    assert!(of_nodes.len() >= NODES, "copies of {} sockets", of_nodes.len());
    let copies = |process: &Process| {
        let mut sockets = process.sockets();
        sockets.retain(|_, number| of_nodes.contains(number));
        sockets
    };
    let before: Vec<_> = standbys.iter().map(copies).collect();
    // A change of the table until then is in both copies.
    client::close(register(server, "gone", 1).unwrap());
    owner.kill();
    eventually("one serves", || standbys.iter().any(|standby| standby.is("serving")));
    let at = usize::from(standbys[0].is("serving"));
    let [one, other] = standbys;
    let (mut next, loser) = if at == 1 { (one, other) } else { (other, one) };
    all_found(server, &nodes);
    next.has_standbys(1);
    loser.stands_by();
    let (had, has) = (&before[at], copies(&loser));
    let kept = had.iter().filter(|(descriptor, number)| has.get(descriptor) == Some(number)).count();
    assert!(kept >= NODES, "only {kept} copies are the same");

    // It is a standby like any other: later changes are in its copy.
    let late = register(server, "late", 77).unwrap();
    next.kill();
    loser.serves();
    all_found(server, &nodes);
    assert_eq!(exchange(server, &port_please2("late")).unwrap(), Alive2::new("late", 77).found());
    assert!(!client::is_closed(&late));
    assert_eq!(exchange(server, &port_please2("gone")).unwrap(), b"w\x01");
}

#[test]
fn one_that_has_an_earlier_owners_listeners_lets_those_serve_that_have_everything() {
    each(0..rounds(8, 40), |_| {
        let server = free_address();
        let start = |name, flags| Process::start_named(server.port(), name, flags);
        let mut owner = start("owner", &["-standbys", "2"]);
        owner.serves();
        let nodes = fill(server, NODES);
        // The next owner has one standby, which is the last one, since the other does not ask in time.
        let [mut next, other] = ["next", "other"].map(|name| start(name, &["-standbys", "1"]));
        [&next, &other].into_iter().for_each(Process::stands_by);
        let last = start("last", &["-standbys", "1"]);
        last.joins();
        other.signal(Signal::STOP);
        let before = other.sessions();
        owner.kill();
        next.serves();
        last.stands_by();
        other.signal(Signal::CONT);
        // From then on it knows that there was another owner.
        eventually("it follows the next owner", || !other.sessions().is_subset(&before));
        eventually("it does not stand by", || other.is("joined"));
        let late = register(server, "late", 77).unwrap();
        next.kill();
        eventually("one of them serves", || last.is("serving") || other.is("serving"));
        assert!(last.is("serving"), "one serves that has not all connections");
        assert_eq!(exchange(server, &port_please2("late")).unwrap(), Alive2::new("late", 77).found());
        all_found(server, &nodes);
        assert!(!client::is_closed(&late));
    });
}

#[test]
fn a_standby_that_was_given_more_listeners_than_another_does_not_serve_beside_it() {
    let server = free_address();
    // Another has the address that no member needs.
    let taken = TcpListener::bind(server).unwrap();
    let there = SocketAddr::from(([127, 0, 0, 2], server.port()));
    let start = |name| Process::start_named(server.port(), name, &["-address", "127.0.0.2"]);
    let mut owner = start("owner");
    owner.serves();
    let nodes = fill(there, NODES);
    let mut early = start("early");
    early.stands_by();
    drop(taken);
    eventually("the owner serves both addresses", || client::listing(server).is_ok());
    let late = start("late");
    late.stands_by();
    late.signal(Signal::STOP);
    owner.kill();
    early.serves();
    let node = register(there, "new", 77).unwrap();
    assert!(early.end_of(&node).is_some());
    late.signal(Signal::CONT);
    eventually("it stands by for the next owner", || late.end_of(&node) == early.end_of(&node));
    early.kill();
    late.serves();
    [server, there].into_iter().for_each(|address| all_found(address, &nodes));
    assert_eq!(exchange(server, &port_please2("new")).unwrap(), Alive2::new("new", 77).found());
}

#[test]
fn a_setting_says_how_many_stand_by() {
    let server = free_address();
    let _owner = Process::start_limited(server.port(), None, &["-standbys", "1"]);
    eventually("it serves", || client::listing(server).is_ok());
    let [one, other] = [(); 2].map(|()| Process::start(server.port()));
    eventually("one stands by", || one.is("standing by") || other.is("standing by"));
    let waits = if one.is("standing by") { other } else { one };
    eventually("the other has joined", || waits.is("joined"));
    assert!(!waits.is("standing by"));
}

fn serving(server: SocketAddr) -> Process {
    let owner = Process::start(server.port());
    eventually("it serves", || client::listing(server).is_ok());
    owner
}

fn standbys(server: SocketAddr) -> [Process; 2] {
    let standbys = ["first", "second"].map(|name| Process::start_named(server.port(), name, &[]));
    standbys.iter().for_each(Process::stands_by);
    standbys
}
