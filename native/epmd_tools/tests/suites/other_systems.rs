//! What differs on macOS and the BSDs. The tests run on Linux, with system calls that behave as on those systems.

use std::env;
use std::net::{SocketAddr, TcpListener};

use rustix::process::Signal;

use crate::support::member::{settings, Running};
use crate::support::this_program::this_test;
use epmd_tools::client::{self, eventually, exchange, free_address, register};
use epmd_tools::process::Process;
use epmd_tools::request::{names, port_please2};

/// The environment variable of a process that runs one test.
const ALONE: &str = "EMBEDDED_EPMD_ALONE";

#[test]
fn nobody_stands_by_so_that_a_member_that_hangs_holds_nothing() {
    let server = free_address();
    let mut owner = start(server, "owner");
    owner.serves();
    let hung = start(server, "hung");
    hung.joins();
    let next = start(server, "next");
    next.joins();
    // Long enough: meanwhile a pair of members started later has a standby, as Linux allows.
    on_linux_somebody_stands_by();
    assert!(hung.is("joined") && next.is("joined"), "somebody stands by");

    hung.signal(Signal::STOP);
    let stock = register(server, "stock", 4711).unwrap();
    for name in ["owner", "hung", "next", "stock"] {
        assert!(is_found(server, name), "{name}");
    }
    owner.kill();
    next.serves();
    assert!(client::is_closed(&stock), "somebody else has the connection");
    eventually("the next owner has its node", || is_found(server, "next"));
    assert!(!is_found(server, "hung"));

    hung.signal(Signal::CONT);
    eventually("it is with the next owner", || is_found(server, "hung"));
    assert!(next.is("serving") && hung.is("joined"), "two serve");
    drop(next);
    hung.serves();
    eventually("it has its node", || is_found(server, "hung"));
}

#[test]
fn an_owner_that_stops_leaves_the_port_to_the_next() {
    let server = free_address();
    let mut owner = start(server, "first");
    owner.serves();
    for name in ["second", "third", "fourth"] {
        let next = start(server, name);
        next.joins();
        eventually("both nodes are there", || listed(server) == 2);
        owner.stop();
        next.serves();
        eventually("its node is there", || is_found(server, name));
        owner = next;
    }
}

#[test]
fn two_whose_addresses_overlap_never_both_serve() {
    for lists in [["", "127.0.0.1"], ["0.0.0.0", "127.0.0.1"], ["", "::1"], ["::", "::1"], ["", "0.0.0.0"]] {
        for [one, other] in [lists, [lists[1], lists[0]]] {
            let port = free_address().port();
            let start =
                |name, list| Process::start_limited(port, None, &["-name", name, "-address", list, "-act_as_bsd"]);
            let mut owner = start("one", one);
            owner.serves();
            let member = start("other", other);
            member.joins();
            assert!(owner.is("serving"), "{one:?} and {other:?}");
            owner.kill();
            member.serves();

            drop(member);
            let both = [start("one", one), start("other", other)];
            let how_many = |state| both.iter().filter(|process| process.is(state)).count();
            eventually("one serves and one joins", || how_many("serving") + how_many("joined") == 2);
            assert_eq!(how_many("serving"), 1, "{one:?} and {other:?}");
        }
    }
}

#[test]
fn a_jail_in_which_any_is_the_loopback_is_served() {
    for list in ["", "0.0.0.0", "0.0.0.0,127.0.0.1"] {
        let server = free_address();
        let start = |flags: &[&str]| {
            Process::start_limited(server.port(), None, &[&["-address", list, "-act_as_jail"], flags].concat())
        };
        let mut owner = start(&["-name", "owner"]);
        owner.serves();
        eventually("it has its node", || is_found(server, "owner"));
        let next = start(&["-name", "next"]);
        next.joins();
        assert!(owner.is("serving"), "{list:?}");
        owner.kill();
        next.serves();
        eventually("it has its node", || is_found(server, "next"));

        // Somebody else's listener is not taken for ours.
        let server = free_address();
        let _stranger = TcpListener::bind(server).unwrap();
        let flags = ["-address", list, "-act_as_jail"];
        eventually("it gives up", {
            let mut refused = Process::start_limited(server.port(), None, &flags);
            move || refused.has_ended()
        });
    }
}

#[test]
fn that_nobody_can_stand_by_is_told_once() {
    // What it acts as, the whole process does.
    if !is_alone("other_systems::that_nobody_can_stand_by_is_told_once") {
        return;
    }
    epmd_core::act_as_bsd();
    let server = free_address();
    let told = |member: &Running| member.log.lines("no VM can stand by").len();
    let first = Running::start(settings(&[server.ip()], server.port()));
    eventually("it is told", || told(&first) == 1);
    let second = Running::start(settings(&[server.ip()], server.port()));
    second.register("second", 1).unwrap();
    first.kill();
    second.serves();
    eventually("it answers, and would have a standby", || is_found(server, "second"));
    assert_eq!(told(&second), 0, "{:?}", second.log.lines(""));
}

/// Whether this is a process of this test alone. If not, it is run in one, and fails as that does.
fn is_alone(test: &str) -> bool {
    if env::var_os(ALONE).is_some() {
        return true;
    }
    let output = this_test(test).env(ALONE, "1").output().expect("a second process");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

fn start(server: SocketAddr, name: &str) -> Process {
    Process::start_limited(server.port(), None, &["-name", name, "-act_as_bsd"])
}

fn on_linux_somebody_stands_by() {
    let port = free_address().port();
    let owner = Process::start(port);
    owner.serves();
    Process::start_limited(port, None, &["-name", "standby"]).stands_by();
}

fn is_found(server: SocketAddr, name: &str) -> bool {
    exchange(server, &port_please2(name)).is_ok_and(|reply| reply.starts_with(&[119, 0]))
}

fn listed(server: SocketAddr) -> usize {
    exchange(server, &names()).map_or(0, |reply| reply[4..].iter().filter(|byte| **byte == b'\n').count())
}
