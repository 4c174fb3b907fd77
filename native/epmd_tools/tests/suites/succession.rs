//! One owner ends after another, each before the others are in sync with it. Nothing is lost while one process lives.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::nodes::{all_found, fill};
use crate::support::rounds::{each, rounds};
use epmd_tools::client::{self, eventually, exchange, free_address, register, PATIENCE};
use epmd_tools::process::{End, Process};
use epmd_tools::random::Random;
use epmd_tools::request::{port_please2, Alive2};

const NODES: usize = 40;
/// The second owner serves for so many microseconds at most: about as long as the others need to get in sync with it, or
/// longer.
const LONGEST: [usize; 2] = [5_000, 30_000];
/// How soon a node whose connection lives must be found.
const SOON: Duration = Duration::from_secs(5);

/// How the first two owners end, and how long the second one serves.
#[derive(Clone, Copy, Debug)]
struct Round {
    #[allow(dead_code, reason = "printed when it fails")]
    number: usize,
    first: End,
    second: End,
    serves_for: Duration,
}

impl Round {
    fn all(seed: u64) -> impl Iterator<Item = Self> {
        let mut random = Random::new(seed);
        (0..rounds(16, 400)).map(move |number| Self {
            number,
            first: End::BOTH[number % 2],
            second: End::BOTH[number / 2 % 2],
            serves_for: Duration::from_micros(random.below(LONGEST[number / 4 % 2]) as u64),
        })
    }
}

#[test]
fn an_owner_that_ends_soon_after_the_last_one_takes_nothing_with_it() {
    each(Round::all(22), |round| {
        let server = free_address();
        let (mut members, nodes) = Members::start(server);
        round.first.of(&mut members.owner);
        let (mut second, mut third) = members.next();
        thread::sleep(round.serves_for);
        round.second.of(&mut second);
        go_on(server, &mut third, &mut members.last, &nodes);
    });
}

#[test]
fn a_node_that_a_short_owner_has_granted_its_name_is_found_while_its_connection_lives() {
    each(Round::all(23), |round| {
        let server = free_address();
        let (mut members, nodes) = Members::start(server);
        round.first.of(&mut members.owner);
        let (mut second, mut third) = members.next();
        let until = Instant::now() + round.serves_for;
        let late = thread::spawn(move || register_until(server, until));
        thread::sleep(until.saturating_duration_since(Instant::now()));
        round.second.of(&mut second);
        let late = late.join().unwrap();
        go_on(server, &mut third, &mut members.last, &nodes);
        each_lives_or_has_ended(server, &late);
    });
}

/// Names that were granted, and their connections. Whoever is refused or reset when the owner ends has no name.
fn register_until(server: SocketAddr, until: Instant) -> Vec<(String, TcpStream)> {
    let mut granted = Vec::new();
    for number in 0.. {
        if Instant::now() >= until {
            break;
        }
        let name = format!("late{number}");
        if let Ok(stream) = register(server, &name, 4711) {
            granted.push((name, stream));
        }
    }
    granted
}

fn each_lives_or_has_ended(server: SocketAddr, granted: &[(String, TcpStream)]) {
    let deadline = Instant::now() + SOON;
    for (name, stream) in granted {
        let found = Alive2::new(name, 4711).found();
        while !client::is_closed(stream) && exchange(server, &port_please2(name)).unwrap() != found {
            assert!(Instant::now() < deadline, "{name} of {} is not found, and its connection lives", granted.len());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// An owner, two members in sync with it, and one more that has joined.
struct Members {
    owner: Process,
    standbys: Vec<Process>,
    last: Process,
}

impl Members {
    fn start(server: SocketAddr) -> (Self, Vec<TcpStream>) {
        let start = |name| Process::start_named(server.port(), name, &[]);
        let owner = start("first");
        owner.serves();
        let nodes = fill(server, NODES);
        let standbys = ["second", "third"].map(start);
        standbys.iter().for_each(Process::stands_by);
        let last = start("last");
        eventually("the last has joined", || last.is("joined") || last.is("standing by"));
        (Self { owner, standbys: standbys.into(), last }, nodes)
    }

    /// Waits for the standby that serves now. Returns it and the other one.
    fn next(&mut self) -> (Process, Process) {
        // As soon as it serves: the point is to end it soon.
        let deadline = Instant::now() + PATIENCE;
        let at = loop {
            if let Some(at) = self.standbys.iter().position(|standby| standby.is("serving")) {
                break at;
            }
            assert!(Instant::now() < deadline, "no standby serves: {:?}", self.said());
            thread::sleep(Duration::from_micros(100));
        };
        let next = self.standbys.remove(at);
        (next, self.standbys.remove(0))
    }

    fn said(&self) -> Vec<String> {
        self.standbys.iter().chain([&self.last]).map(Process::said).collect()
    }
}

/// One of the two that are left serves with everything, and when it is killed, too, the last one does.
fn go_on(server: SocketAddr, one: &mut Process, other: &mut Process, nodes: &[TcpStream]) {
    eventually("one of the two serves", || one.is("serving") || other.is("serving"));
    all_found(server, nodes);
    let (third, last) = if one.is("serving") { (one, other) } else { (other, one) };
    let both = || format!("one is {:?}, the other {:?}", third.said(), last.said());
    eventually(&format!("it stands by: {}", both()), || last.is("standing by"));
    assert!(third.is("serving"), "{}", both());
    third.kill();
    last.serves();
    all_found(server, nodes);
}
