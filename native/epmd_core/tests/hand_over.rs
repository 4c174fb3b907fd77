//! The hand-over between members, and what other processes that find the channel can do.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use epmd_core::{Role, Settings};
use support::client::{self, eventually, exchange, register, PATIENCE};
use support::member::Running;
use support::process::Process;
use support::request::{dump, names, port_please2, stop, Alive2};
use support::rounds::rounds;
use support::users::{self, run_as, NOBODY, THIRD};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn many_nodes_stay_registered_and_no_descriptor_is_left_behind() {
    let count: u16 = rounds(1_000, 10_000);
    let half = count / 2;
    let _alone = alone();
    need_descriptors();
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
    let _alone = alone();
    if !users::are_there() {
        return;
    }
    let port = free_port();
    let owner = Running::start(settings(port));
    let server = SocketAddr::new(LOOPBACK.into(), port);
    let _node = register(server, "node", 4711).unwrap();
    for _ in 0..20 {
        hears_nothing(NOBODY, port);
    }
    assert_eq!(owner.handle.status().standbys, []);
    // It does not keep a member of the right user from standing by.
    let standby = Running::start(settings(port));
    standby.stands_by_for(&owner);
}

#[test]
fn a_listed_users_process_goes_on_for_its_owner_and_one_that_is_not_listed_hears_nothing() {
    let _alone = alone();
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
    hears_nothing(THIRD - 1, port);
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
fn another_users_process_that_has_the_name_gets_no_member_to_stand_by() {
    let _alone = alone();
    if !users::are_there() {
        return;
    }
    let port = free_port();
    let script = format!(
        r#"use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die; bind(S, pack("S a*", AF_UNIX, "\0{}")) or die "bind: $!"; listen(S, 5);
           $| = 1; print "bound\n"; accept(C, S); my $n = sysread(C, my $b, 100); print defined $n ? "heard $n" : "reset"; sleep 60"#,
        name(port)
    );
    let mut squatter = run_as(NOBODY, "perl").args(["-e", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = squatter.stdout.take().unwrap();
    let mut said = [0; 6];
    output.read_exact(&mut said).unwrap();
    let owner = Running::start(settings(port));
    let member = Running::start(settings(port));
    member.joins();
    let mut heard = [0; 7];
    output.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"heard 0", "the member said something to another user's process");
    assert!(!member.handle.status().stands_by);
    // The change-over works as without a hand-over.
    owner.kill();
    member.serves();
    squatter.kill().unwrap();
    squatter.wait().unwrap();
}

#[test]
fn what_a_member_says_is_checked_and_never_delays_the_owner() {
    let _alone = alone();
    let port = free_port();
    let server = SocketAddr::new(LOOPBACK.into(), port);
    let owner = Running::start(settings(port));
    let hello = b"\x00\x0d\x01epmd\x00\x01\x01\x04\x7f\x00\x00\x01";
    let mut other_version = *hello;
    other_version[8] = 2;
    let mut other_address = *hello;
    other_address[13] = 9;
    let too_much = [&hello[..], &[0xff; 5_000]].concat();
    let of_the_owner = [&hello[..], b"\x00\x01\x09"].concat();
    for said in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &other_version, &other_address, &too_much, &of_the_owner] {
        let mut channel = connect(port);
        let _ = channel.write_all(said);
        let mut heard = Vec::new();
        let _ = channel.read_to_end(&mut heard);
        assert!(client::listing(server).is_ok());
        eventually("nobody stands by", || owner.handle.status().standbys.is_empty());
    }
    // One that sends a right hello and then neither sends nor reads must not delay registrations.
    let mut silent = connect(port);
    silent.write_all(hello).unwrap();
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
    drop(silent);
}

#[test]
fn what_an_owner_says_is_checked_by_the_member() {
    let _alone = alone();
    // An EPMD that is no member, and a channel that pretends to be its.
    let daemon = support::server::Settings::ours().start();
    let port = daemon.port();
    let channel = UnixListener::bind_addr(&UnixAddr::from_abstract_name(name(port)).unwrap()).unwrap();
    let mut settings = settings(port);
    settings.addresses = vec![LOOPBACK.into()];
    let member = Running::start(settings);
    member.joins();
    // It sends `Whole` without a listener. The member gives up, and has sent nothing but its hello.
    let (mut owner, _) = channel.accept().unwrap();
    owner.write_all(b"\x00\x0d\x01epmd\x00\x01\x01\x04\x7f\x00\x00\x01\x00\x01\x08").unwrap();
    let mut heard = Vec::new();
    owner.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = owner.read_to_end(&mut heard);
    assert!(heard[2..].starts_with(b"\x01epmd\x00\x02"), "{heard:?}");
    assert!(!member.handle.status().stands_by);
    assert_eq!(member.handle.status().role, Role::Joined);
}

/// This user's process says to the owner what a member would say, and reads to the end.
fn hears_nothing(user: u32, port: u16) {
    let hello = "\\x00\\x0d\\x01epmd\\x00\\x01\\x01\\x04\\x7f\\x00\\x00\\x01";
    let script = format!(
        r#"use Socket; $SIG{{PIPE}} = "IGNORE"; socket(S, AF_UNIX, SOCK_STREAM, 0) or die; connect(S, pack("S a*", AF_UNIX, "\0{}")) or die "connect: $!";
           syswrite(S, "{hello}"); my $n = sysread(S, my $b, 100); print defined $n ? "heard $n" : "reset";"#,
        name(port)
    );
    let said = users::say(user, &script);
    assert!(said == "heard 0" || said == "reset", "{said}");
}

fn settings(port: u16) -> Settings {
    support::member::settings(&[LOOPBACK.into()], port)
}

/// The name of the rendezvous (`rendezvous.rs`).
fn name(port: u16) -> String {
    format!("embedded_epmd/127.0.0.1:{port}")
}

fn connect(port: u16) -> UnixStream {
    let address = UnixAddr::from_abstract_name(name(port)).unwrap();
    let stream = eventually_some("a channel", || UnixStream::connect_addr(&address).ok());
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream
}

fn eventually_some<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    eventually(what, || {
        found = condition();
        found.is_some()
    });
    found.unwrap()
}

fn eventually_within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + patience;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
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

/// Some tests need most of the descriptors of this process, so they run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Each process of a test has a connection for every node.
fn need_descriptors() {
    use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
    const NEEDED: u64 = 12_000;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < NEEDED) {
        let maximum = limit.maximum.map(|maximum| maximum.max(NEEDED));
        setrlimit(Resource::Nofile, Rlimit { current: Some(NEEDED), maximum }).expect("12,000 descriptors");
    }
}
