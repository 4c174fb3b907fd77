//! The handover between members, and what other processes that find the channel can do.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use crate::support::attackers::{called_by, heard_when_called, Caller, FalseOwner, Hello};
use crate::support::member::Running;
use crate::support::network::Network;
use crate::support::nodes::fill;
use crate::support::rounds::rounds;
use crate::support::turn::with_descriptors;
use crate::support::users::{self, NOBODY, THIRD};
use epmd_core::{HandOver, Limits, NodeName, Policy, Role, Settings};
use epmd_tools::client::{self, eventually, eventually_within, exchange, register};
use epmd_tools::process::Process;
use epmd_tools::request::{dump, names, port_please2, stop, tagged, Alive2};
use rustix::process::{getpid, pidfd_getfd, pidfd_open, PidfdFlags, PidfdGetfdFlags, Signal};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Descriptors for every node's connection, in each process.
const NEEDED: usize = 12_000;

#[test]
fn many_nodes_stay_registered_and_no_descriptor_is_left_behind() {
    let count: u16 = rounds(1_000, 10_000);
    let half = count / 2;
    let _turn = with_descriptors(NEEDED);
    let port = free_port();
    let server = SocketAddr::new(LOOPBACK.into(), port);
    let mut owner = Process::start(port);
    eventually("it serves", || client::listing(server).is_ok());
    let empty = owner.descriptors();
    let mut nodes: Vec<_> = (0..count).map(|n| register(server, format!("node{n}"), n + 1).unwrap()).collect();
    let mut standby = Process::start(port);
    standby.stands_by();
    assert!(standby.descriptors() >= usize::from(count), "a copy of every connection");

    // A registration that ends at the owner, by its node or by STOP_REQ, ends at the standby too.
    nodes.drain(..usize::from(half)).for_each(client::close);
    assert_eq!(exchange(server, &stop(format!("node{half}"))).unwrap(), b"STOPPED");
    eventually("the end of a stopped node's connection", || client::is_closed(&nodes[0]));
    drop(nodes.remove(0));
    for process in [&owner, &standby] {
        eventually("half of the connections are closed", || process.descriptors() < usize::from(half) + 40);
    }
    let before = table(server);
    assert_eq!(before.matches("active name").count(), usize::from(half) - 1);
    assert_eq!(before.matches("old/unused name").count(), usize::from(half) + 1);

    owner.kill();
    // If the end of a connection had not been replicated, the standby notices it itself.
    eventually("the same table", || table(server) == before);
    assert!(nodes.iter().all(|node| !client::is_closed(node)));
    let successor = Process::start(port);
    successor.stands_by();
    standby.stop();
    assert_eq!(table(server), before);
    assert!(nodes.iter().all(|node| !client::is_closed(node)));
    let last = format!("node{}", count - 1);
    assert_eq!(exchange(server, &port_please2(&last)).unwrap(), Alive2::new(&last, count).found());

    nodes.into_iter().for_each(client::close);
    eventually("everybody has left", || only_head(server));
    eventually("all descriptors are closed", || successor.descriptors() <= empty);
}

#[test]
fn another_users_process_is_told_nothing_and_gets_no_descriptor() {
    if !users::are_there() {
        return;
    }
    let port = free_port();
    let owner = Running::start(settings(port));
    let server = SocketAddr::new(LOOPBACK.into(), port);
    let _node = register(server, "node", 4711).unwrap();
    for _ in 0..20 {
        hears_nothing(NOBODY, server);
    }
    assert_eq!(owner.handle.status().standbys, []);
    // It does not keep a member of the right user from standing by.
    let standby = Running::start(settings(port));
    standby.stands_by_for(&owner);
}

#[test]
fn a_listed_users_process_goes_on_for_its_owner_and_one_that_is_not_listed_hears_nothing() {
    if !users::are_there() {
        return;
    }
    let port = free_port();
    let server = SocketAddr::new(LOOPBACK.into(), port);
    let trusting = |users: &str| ["-trust".to_owned(), users.to_owned()];
    let [roots, theirs] = [trusting("65533,65534"), trusting("root,65533")];
    let start = |user, flags: &[String; 2]| users::member_of(user, port, &[&flags[0], &flags[1]]);
    let mut owner = start(0, &roots);
    owner.serves();
    let nodes: Vec<_> = (0..50).map(|n| register(server, format!("node{n}"), n + 1).unwrap()).collect();
    let mut standby = start(NOBODY, &theirs);
    standby.stands_by();
    // That it lists the others is not enough.
    let unlisted = start(THIRD - 1, &theirs);
    unlisted.joins();
    hears_nothing(THIRD - 1, server);
    assert!(!unlisted.is("standing by"));
    drop(unlisted);
    let before = table(server);
    owner.kill();
    standby.serves();
    assert_eq!(table(server), before);
    assert!(!nodes.iter().any(client::is_closed));
    // And back, in order.
    let next = start(0, &roots);
    next.stands_by();
    standby.stop();
    next.serves();
    assert_eq!(table(server), before);
    assert!(!nodes.iter().any(client::is_closed));
}

#[test]
fn another_users_process_that_calls_gets_no_member_to_stand_by() {
    if !users::are_there() {
        return;
    }
    let (false_owner, mut caller) = (FalseOwner::start(), Caller::start(NOBODY));
    let member = Running::start(settings(false_owner.address.port()));
    member.joins();
    let said = false_owner.reach(|place| caller.call_and_hear(place));
    assert!(said == "0" || said == "reset", "the member said something to another user's process: {said}");
    assert!(!member.handle.status().stands_by);
    eventually("it says why", || !member.log.lines("is not listed in :hand_over").is_empty());
}

#[test]
fn a_caller_that_has_ended_may_have_been_the_owner_so_the_next_one_is_asked_soon() {
    let false_owner = FalseOwner::start();
    let mut caller = Caller::start(rustix::process::geteuid().as_raw());
    let member = Process::start(false_owner.address.port());
    false_owner.reach(|place| {
        member.signal(Signal::STOP);
        let called = caller.call_and_end(place);
        member.signal(Signal::CONT);
        called
    });
    let mut heard = [0; 7];
    false_owner.call().read_exact(&mut heard).unwrap();
    assert_eq!(&heard[2..], b"\x01epmd");
}

#[test]
fn a_stranger_that_calls_does_not_keep_a_member_from_asking_its_owner_again_soon() {
    if !users::are_there() {
        return;
    }
    let (false_owner, mut caller) = (FalseOwner::start(), Caller::start(NOBODY));
    let _member = Process::start(false_owner.address.port());
    for _ in 0..3 {
        false_owner.reach(|place| caller.call_and_end(place));
    }
    let mut heard = [0; 7];
    false_owner.call().read_exact(&mut heard).unwrap();
    assert_eq!(&heard[2..], b"\x01epmd");
}

/// The kernel allows a user who is not root as many descriptors on their way as a process may have open.
#[test]
fn a_member_that_connects_again_has_its_place_though_the_end_of_its_last_session_was_not_noticed() {
    Network::new().on_server_host(|| {
        let server = client::free_address();
        let start = |name, port| {
            let hand_over = HandOver { standbys: 1, ..HandOver::default() };
            let member = Running::start(Settings { hand_over, ..settings(server.port()) });
            member.register(name, port).unwrap();
            member
        };
        let (owner, standby) = (start("owner", 1), start("standby", 2));
        standby.stands_by_for(&owner);
        // As a process has that is just being started. They keep the session open.
        let _copies = copies_of_unix_sockets();
        standby.handle.configure(Policy::default(), Limits::default(), HandOver { standbys: 3, ..HandOver::default() });
        eventually("it stands by again", || owner.log.lines("a standby has a copy of everything").len() == 2);
        let [listed] = &owner.handle.status().standbys[..] else { panic!("not one") };
        assert_eq!(listed.node, NodeName::new(b"standby").ok());
        standby.stands_by_for(&owner);
    });
}

/// Of those of this process that are in this network namespace.
fn copies_of_unix_sockets() -> Vec<OwnedFd> {
    let table = fs::read_to_string("/proc/thread-self/net/unix").unwrap();
    let here: Vec<_> = table.lines().filter_map(|line| line.split_whitespace().nth(6)).collect();
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let copy = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
        let number = entry.file_name().to_str()?.parse().ok().filter(|_| here.contains(&&*inode))?;
        pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).ok()
    };
    let copies: Vec<_> = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| copy(entry.ok()?)).collect();
    assert!(!copies.is_empty(), "there is no session");
    copies
}

#[test]
fn a_session_waits_while_too_many_descriptors_are_on_their_way() {
    const NODES: usize = 110;
    const LIMIT: u32 = 200;
    if !users::are_there() {
        return;
    }
    let server = client::free_address();
    let flags = ["-descriptor_share", "80", "-trust", "root", "-name", "owner"];
    let owner = users::limited_member_of(users::own(), Some(LIMIT), server.port(), &flags);
    owner.serves();
    let _nodes = fill(server, NODES);
    let mut followers = [(); 2].map(|()| called_by(server));
    for follower in &mut followers {
        follower.write_all(&Hello::RIGHT.framed()).unwrap();
    }
    // One more may be on its way than the limit says.
    eventually("no more can be sent", || followers.iter().map(descriptors_on_their_way).sum::<u32>() > LIMIT);
    followers.iter_mut().for_each(read_until_in_sync);
    owner.has_standbys(followers.len());
}

#[test]
fn what_a_member_says_is_checked_and_never_delays_the_owner() {
    let _turn = with_descriptors(NEEDED);
    let port = free_port();
    let server = SocketAddr::new(LOOPBACK.into(), port);
    let owner = Running::start(settings(port));
    let hello = Hello::RIGHT.framed();
    let later_version = Hello { version: 2, ..Hello::RIGHT }.framed();
    let no_version = Hello { version: 0, ..Hello::RIGHT }.framed();
    let other_address = Hello { address: [127, 0, 0, 9], ..Hello::RIGHT }.framed();
    let too_much = [&hello[..], &[0xff; 5_000]].concat();
    // Only an owner says `StandBy`, and only a standby that was asked to says `TakenOver`.
    let [of_the_owner, too_soon] = [5, 8].map(|tag| [&hello[..], &tagged(tag, b"")].concat());
    let is_told_little = [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &no_version, b"\x00\x01\x02"];
    let is_told_the_table = [later_version.as_slice(), &other_address, &too_much, &of_the_owner, &too_soon];
    let of_both =
        is_told_little.map(|said| (said, false)).into_iter().chain(is_told_the_table.map(|said| (said, true)));
    for (said, is_told) in of_both {
        let mut channel = called_by(server);
        let _ = channel.write_all(said);
        let mut heard = Vec::new();
        let _ = channel.read_to_end(&mut heard);
        // Its own hello is all that the owner says to who has said none.
        assert!(heard.len() >= 2 && heard[2..].starts_with(b"\x01epmd"), "{heard:?}");
        let length = 2 + usize::from(u16::from_be_bytes([heard[0], heard[1]]));
        assert_eq!(heard.len() > length, is_told, "{said:?}: {heard:?}");
        assert!(client::listing(server).is_ok());
        drop(channel);
        eventually("nobody stands by", || owner.handle.status().standbys.is_empty());
    }
    // One that sends a right hello and then neither sends nor reads must not delay registrations.
    let mut silent = called_by(server);
    silent.write_all(&hello).unwrap();
    eventually("it stands by", || !owner.handle.status().standbys.is_empty());
    // So does one that reads no more before it has everything, and one that says no hello.
    let (mut deaf, dumb) = (called_by(server), called_by(server));
    deaf.write_all(&hello).unwrap();
    let mut nodes: Vec<_> = (0..2_000).map(|n| register(server, format!("node{n}"), 1).unwrap()).collect();
    nodes.drain(..1_000).for_each(client::close);
    assert_eq!(exchange(server, &port_please2("node1999")).unwrap(), Alive2::new("node1999", 1).found());
    let waiting = Running::start(settings(port));
    eventually_within(Duration::from_secs(30), "the silent one is dropped", || waiting.handle.status().stands_by);
    waiting.stands_by_for(&owner);
    assert_eq!(exchange(server, &port_please2("node1999")).unwrap(), Alive2::new("node1999", 1).found());
    // Its copies of the listeners are useless.
    owner.kill();
    waiting.serves();
    assert_eq!(exchange(server, &port_please2("node1999")).unwrap(), Alive2::new("node1999", 1).found());
    drop((silent, deaf, dumb));
}

#[test]
fn what_an_owner_says_is_checked_by_the_member() {
    let hello = Hello::RIGHT.framed();
    let other_address = Hello { address: [127, 0, 0, 9], ..Hello::RIGHT }.framed();
    let snapshot = [tagged(16, &[7; 16]), tagged(18, &[0; 20]), tagged(23, b"")].concat();
    let stand_by = tagged(5, b"");
    // Without everything before it; without a listener; with one that is none; with what only a member says; and what
    // no table says.
    let of_an_owner: [&[u8]; 6] = [
        &stand_by,
        &[&snapshot[..], &stand_by].concat(),
        &tagged(0x83, &[0]),
        &tagged(3, &[0]),
        &tagged(2, b""),
        &tagged(7, b""),
    ];
    thread::scope(|scope| {
        for said in of_an_owner {
            scope.spawn(|| assert_is_left(&[&hello[..], said].concat()));
        }
        scope.spawn(|| assert_is_left(b"GET / HTTP/1.1\r\n\r\n"));
        scope.spawn(|| assert_is_left(&[&other_address[..], &snapshot, &stand_by].concat()));
    });
}

/// How many descriptors this end has not received yet.
fn descriptors_on_their_way(channel: &UnixStream) -> u32 {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", channel.as_raw_fd())).unwrap();
    let count = about.lines().find_map(|line| line.strip_prefix("scm_fds:")).expect("Linux 5.19 or later");
    count.trim().parse().unwrap()
}

/// Reads what the owner sends, without the descriptors, until it may stand by.
fn read_until_in_sync(channel: &mut UnixStream) {
    const STAND_BY: [u8; 1] = [5];
    let mut length = [0; 2];
    loop {
        channel.read_exact(&mut length).expect("the session goes on");
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        channel.read_exact(&mut message).unwrap();
        if message == STAND_BY {
            return;
        }
    }
}

/// A member ends the channel to an owner that says this, has said nothing but its hello, and stays what it was.
#[track_caller]
fn assert_is_left(said: &[u8]) {
    let false_owner = FalseOwner::start();
    let member = Running::start(settings(false_owner.address.port()));
    member.joins();
    let mut channel = false_owner.call();
    channel.write_all(said).unwrap();
    let mut heard = Vec::new();
    // A member that does not end it reads on, and says that it is alive.
    let end = channel.read_to_end(&mut heard);
    assert!(end.is_ok() || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{said:?}: not ended");
    assert!(heard.len() >= 2 && heard[2..].starts_with(b"\x01epmd\x00\x01"), "{heard:?}");
    let alive = [0, 1, 2];
    let hello = 2 + usize::from(u16::from_be_bytes([heard[0], heard[1]]));
    assert!(heard[hello..].is_empty() || heard[hello..] == alive, "{said:?}: {heard:?}");
    assert!(!member.handle.status().stands_by);
    assert_eq!(member.handle.status().role, Role::Joined);
}

/// This user's process says to the owner what a member would say, and reads to the end.
fn hears_nothing(user: u32, server: SocketAddr) {
    let said = heard_when_called(user, server);
    assert!(said == "heard 0" || said == "reset", "{said}");
}

fn settings(port: u16) -> Settings {
    crate::support::member::settings(&[LOOPBACK.into()], port)
}

/// The reply to `DUMP_REQ` without the numbers of descriptors.
fn table(server: SocketAddr) -> String {
    let dumped = exchange(server, &dump()).unwrap();
    let text = String::from_utf8(dumped[4..].to_vec()).unwrap();
    let line = |line: &str| line.rsplit_once("fd = ").map_or(String::new(), |(line, _)| line.to_owned());
    text.split('\0').map(line).collect::<Vec<_>>().join("\n")
}

fn only_head(server: SocketAddr) -> bool {
    exchange(server, &names()).is_ok_and(|listing| listing.len() == 4)
}

fn free_port() -> u16 {
    client::free_address().port()
}
