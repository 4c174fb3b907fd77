//! What other users of the host can do to the handover: nothing. And what a container on the host's network can.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::attackers::Attackers;
use crate::support::member::{settings, Running};
use crate::support::network::Network;
use crate::support::nodes::{all_found, fill};
use crate::support::rounds::{each, rounds};
use crate::support::service::Service;
use crate::support::skip::not_run;
use crate::support::users::{self, NOBODY};
use epmd_core::{HandOver, Trusted};
use epmd_tools::client::{self, eventually, eventually_within, exchange, free_address, listing};
use epmd_tools::process::standalone;
use epmd_tools::process::{End, Process};
use epmd_tools::request::{alive2, port_please2, Alive2};
use rustix::process::Signal;

const NODES: usize = 20;
/// What every name of the handover begins with.
const NAMES: &str = "embedded_epmd/";
/// Longer than an owner waits for a standby that says nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// Half of the time after which an owner gives up a standby that says nothing.
const HALF_OF_SILENCE: Duration = Duration::from_secs(6);

#[test]
fn names_that_another_user_holds_keep_no_service_from_its_sockets() {
    on_a_host_of_its_own(|| {
        for is_attacked in [false, true] {
            let server = free_address();
            let _attackers = is_attacked.then(|| Attackers::that_hold(&names(server)));
            let port = server.port().to_string();
            let service = Service::start(0, &[format!("app-epmd.socket={port}")], &["-port", &port]);
            service.serves(server);
            all_found(server, &fill(server, NODES));
        }
    });
}

#[test]
fn names_that_another_user_holds_keep_no_service_from_what_it_has_stored() {
    on_a_host_of_its_own(|| {
        for is_attacked in [false, true] {
            let server = free_address();
            let port = server.port().to_string();
            let mut service = Service::start(100, &[], &["-address", "127.0.0.1", "-port", &port]);
            service.serves(server);
            let nodes = fill(server, NODES);
            service.has_stored(NODES, 1);
            service.kill();
            let _attackers = is_attacked.then(|| Attackers::that_hold(&names(server)));
            service.start_again();
            service.serves(server);
            all_found(server, &nodes);
        }
    });
}

#[test]
fn connections_of_another_user_keep_no_member_from_standing_by() {
    on_a_host_of_its_own(|| {
        each([false, true].repeat(rounds(2, 20)), |is_attacked| {
            let server = free_address();
            let attackers = is_attacked.then(|| Attackers::that_fill(8, NAMES));
            let (mut owner, standby, nodes) = owner_and_standby(server, &[]);
            assert!(owner.is("serving"), "two serve");
            owner.kill();
            standby.serves();
            all_found(server, &nodes);
            drop(attackers);
        });
    });
}

#[test]
fn connections_of_another_user_make_no_second_owner_of_the_sockets_of_a_service() {
    on_a_host_of_its_own(|| {
        each([false, true].repeat(rounds(2, 10)), |is_attacked| {
            let server = free_address();
            let port = server.port().to_string();
            let mut service = Service::start(0, &[format!("app-epmd.socket={port}")], &["-port", &port]);
            service.serves(server);
            let nodes = fill(server, NODES);
            let mut other = Process::start_named(server.port(), "other", &[]);
            other.stands_by();
            service.kill();
            other.serves();
            let _attackers = is_attacked.then(|| Attackers::that_fill(8, NAMES));
            // It comes back to the same sockets, which are another's now.
            service.start_again();
            eventually("it stands by, or serves, too", || service.is("standing by") || service.is("serving"));
            // If two served, each would be asked about every other time.
            (0..10).for_each(|_| all_found(server, &nodes));
            assert!(service.is("standing by") && other.is("serving"), "two serve");
            other.kill();
            service.serves(server);
            all_found(server, &nodes);
        });
    });
}

#[test]
fn no_change_of_owner_lets_another_user_have_the_port() {
    on_a_host_of_its_own(|| {
        let attacked = (0..rounds(8, 40)).flat_map(|number| End::BOTH.map(|end| (number, end, true)));
        each(End::BOTH.map(|end| (0, end, false)).into_iter().chain(attacked), |(_, end, is_attacked)| {
            let server = free_address();
            let (mut owner, standby, nodes) = owner_and_standby(server, &[]);
            let attackers =
                is_attacked.then(|| Attackers::that_win(2, &names(server), &[server.ip().to_string()], server.port()));
            end.of(&mut owner);
            eventually("the owner has ended", || owner.has_ended());
            let won = |begin| attackers.iter().flat_map(|attackers| attackers.won(begin)).collect::<Vec<_>>();
            eventually("the standby serves, or an attacker", || standby.is("serving") || !won("127").is_empty());
            assert_eq!(won("127"), Vec::<String>::new(), "beside {:?}", won(NAMES));
            all_found(server, &nodes);
            assert_eq!(won("127"), Vec::<String>::new());
        });
    });
}

#[test]
fn a_service_that_stops_empties_its_store_only_if_a_standby_has_taken_over() {
    on_a_host_of_its_own(|| {
        let attacked = (0..rounds(4, 20)).map(|number| (number, true));
        each([(0, false)].into_iter().chain(attacked), |(_, is_attacked)| {
            let server = free_address();
            let port = server.port().to_string();
            let mut service = Service::start(100, &[], &["-address", "127.0.0.1", "-port", &port]);
            service.serves(server);
            let nodes = fill(server, NODES);
            let other = Process::start_named(server.port(), "other", &[]);
            other.stands_by();
            let _attackers = is_attacked.then(|| Attackers::that_win(2, &names(server), &[], server.port()));
            service.stop();
            service.start_again();
            eventually("one of them serves", || service.is("serving") || other.is("serving"));
            all_found(server, &nodes);
        });
    });
}

#[test]
fn a_process_of_our_user_in_a_container_gets_no_listener_and_no_connection() {
    on_a_host_of_its_own(|| {
        let mut containers: Vec<&[&str]> = vec![&[], &["unshare", "--pid", "--mount", "--fork", "--kill-child"]];
        if Command::new("unshare").args(["--map-root-user", "true"]).status().is_ok_and(|status| status.success()) {
            containers.push(&["unshare", "--user", "--map-root-user", "--pid", "--mount", "--fork", "--kill-child"]);
        } else {
            not_run("of a container with users of its own: there are none here, as in a chroot");
        }
        each(containers, |container| {
            let is_inside = !container.is_empty();
            let server = free_address();
            let owner = Process::start_named(server.port(), "owner", &[]);
            owner.serves();
            let nodes = fill(server, NODES);
            // `env` does nothing but to run the rest.
            let mut command = Command::new("env");
            command.args(container).arg(standalone());
            let other = Process::spawn(command, server.port(), &["-name", "other"]);
            if is_inside {
                eventually("it has joined", || other.is("joined") || other.is("standing by"));
                // Whoever comes later stands by, so there was time enough for it.
                for name in ["first", "second"] {
                    let mut trusted = Process::start_named(server.port(), name, &[]);
                    trusted.stands_by();
                    assert!(!owner.listeners(server.port()).is_disjoint(&trusted.listeners(server.port())));
                    trusted.stop();
                }
                assert!(other.is("joined"), "it is {:?}", other.said());
                let inside = sockets_of_child(&other);
                assert!(owner.listeners(server.port()).iter().all(|listener| !inside.contains(listener)));
                assert!(inside.len() < NODES, "it has {} sockets", inside.len());
            } else {
                other.stands_by();
            }
            all_found(server, &nodes);
        });
    });
}

#[test]
fn listeners_that_are_opened_again_are_never_another_users() {
    (0..rounds(1, 5)).for_each(|_| listeners_are_opened_again(true));
}

#[test]
fn listeners_of_which_a_hung_standby_has_copies_are_opened_again() {
    listeners_are_opened_again(false);
}

#[test]
fn listeners_that_cannot_be_opened_again_are_served_as_before() {
    on_a_host_of_its_own(|| {
        let server = free_address();
        let hosts: Vec<_> = (1..=8).map(|n| format!("127.0.0.{n}")).collect();
        let (mut owner, standby, nodes) = owner_and_standby(server, &["-address", &hosts.join(",")]);
        owner.use_up_descriptors();
        let sessions = owner.unix_sockets();
        standby.signal(Signal::STOP);
        // The descriptors that this gives back are too few for eight listeners.
        eventually_within(SILENCE, "the standby is given up", || owner.has_ended() || owner.unix_sockets() < sessions);
        for _ in 0..50 {
            assert!(!owner.has_ended(), "it has ended");
            all_found(server, &nodes);
        }
        assert_eq!(owner.listeners(server.port()).len(), hosts.len());
    });
}

fn listeners_are_opened_again(is_attacked: bool) {
    on_a_host_of_its_own(|| {
        let server = free_address();
        let hosts: Vec<_> = (1..=8).map(|n| format!("127.0.0.{n}")).collect();
        let (mut owner, standby, nodes) = owner_and_standby(server, &["-address", &hosts.join(",")]);
        let copies = standby.listeners(server.port());
        assert_eq!(copies.len(), hosts.len());
        standby.signal(Signal::STOP);
        let attackers = is_attacked.then(|| {
            // They take all of the processors, and have nothing to win before the standby is given up.
            thread::sleep(HALF_OF_SILENCE);
            let attackers = Attackers::that_win(2, &[], &hosts, server.port());
            assert_eq!(owner.listeners(server.port()), copies, "they come in time");
            attackers
        });
        eventually_within(SILENCE, "they are opened again", || {
            owner.has_ended() || owner.listeners(server.port()).is_disjoint(&copies)
        });
        let won = attackers.map_or(Vec::new(), |attackers| attackers.won("127"));
        assert!(!owner.has_ended() && won.is_empty(), "another user has {won:?}");
        eventually("all are open again", || owner.listeners(server.port()).len() == hosts.len());
        all_found(server, &nodes);
    });
}

#[test]
fn a_registration_is_not_taken_for_a_members_own_by_where_it_comes_from() {
    on_a_host_of_its_own(|| {
        each([false, true], |is_attacked| {
            let server = free_address();
            let (mut owner, member, nodes) = owner_and_standby(server, &["-address", "127.0.0.1,127.0.0.2"]);
            let links = member.connected_to(server.port());
            assert!(!links.is_empty(), "nothing registers the member's node");
            let sources = if is_attacked { links } else { vec![0] };
            let other = SocketAddr::from(([127, 0, 0, 2], server.port()));
            let strangers = || (0..sources.len()).map(|n| format!("strange{n}"));
            let send = |(name, port): (String, &u16)| {
                Attackers::that_sends_from(SocketAddr::new(server.ip(), *port), other, &alive2(name, 4711))
            };
            let attackers: Vec<_> = strangers().zip(&sources).map(send).collect();
            let is_found = |name| exchange(server, &port_please2(&name)).unwrap() == Alive2::new(&name, 4711).found();
            eventually("they are registered", || strangers().all(is_found));
            owner.kill();
            member.serves();
            let own = || listing(server).unwrap().contains("name standby at port 1\n");
            assert!(own() && strangers().all(is_found));
            all_found(server, &nodes);
            assert!(attackers.iter().all(|attacker| attacker.said("closed") == 0), "a connection was closed");
            // Each is registered for as long as its connection lives, like any other.
            drop(attackers);
            eventually("their names are free", || !strangers().any(is_found));
            assert!(own());
            all_found(server, &nodes);
        });
    });
}

#[test]
fn a_standby_that_is_not_trusted_any_more_has_no_copy_of_a_listener_that_is_used() {
    on_a_host_of_its_own(|| {
        let server = free_address();
        let trusting = |users: &[u32]| HandOver {
            trusted: Trusted::named(&users.iter().map(ToString::to_string).collect::<Vec<_>>(), &[]),
            ..HandOver::default()
        };
        let start = settings(&[Ipv4Addr::LOCALHOST.into()], server.port());
        let (policy, limits) = (start.policy.clone(), start.limits.clone());
        let owner = Running::start(epmd_core::Settings { hand_over: trusting(&[NOBODY]), ..start });
        let nodes = fill(server, NODES);
        let standby = users::member_of(NOBODY, server.port(), &["-trust", "root", "-name", "standby"]);
        standby.stands_by();
        assert_eq!(standby.listeners(server.port()).len(), 1);
        // One that lets go of what it has needs no force.
        standby.signal(Signal::STOP);
        owner.handle.configure(policy, limits, trusting(&[]));
        eventually("its copy listens no more", || standby.listeners(server.port()).is_empty());
        all_found(server, &nodes);
        standby.signal(Signal::CONT);
        eventually("it has joined", || standby.is("joined"));
        assert!(nodes.iter().all(|node| !client::is_closed(node)));
    });
}

/// An owner with nodes, and a standby named `standby`.
fn owner_and_standby(server: SocketAddr, flags: &[&str]) -> (Process, Process, Vec<TcpStream>) {
    let owner = Process::start_named(server.port(), "owner", flags);
    owner.serves();
    let nodes = fill(server, NODES);
    let standby = Process::start_named(server.port(), "standby", flags);
    standby.stands_by();
    (owner, standby, nodes)
}

/// Every name at which an owner of this address has ever been found.
fn names(server: SocketAddr) -> [String; 2] {
    let user = rustix::process::geteuid().as_raw();
    [format!("{NAMES}{server}"), format!("{NAMES}{user}/{server}")]
}

/// The sockets of the process that this one has started.
fn sockets_of_child(process: &Process) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", process.id())).unwrap();
    let fds = fs::read_dir(format!("/proc/{}/fd", children.trim())).unwrap();
    let links = fds.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned));
    links.filter(|link| link.starts_with("socket:")).collect()
}

/// Attackers attack whatever they find, also what other tests have started, so each test has a network of its own.
fn on_a_host_of_its_own(work: impl FnOnce() + Send) {
    if users::are_there() {
        Network::new().on_server_host(work);
    }
}
