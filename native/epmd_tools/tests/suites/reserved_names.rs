//! Names that belong to users: nobody else registers one, however it is tried.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{mpsc, Arc, Mutex};

use crate::support::member::Running;
use crate::support::network::Network;
use crate::support::rounds::rounds;
use crate::support::server::Kind;
use crate::support::skip::not_run;
use crate::support::users::{self, is_granted, run_as, Client, Crowd, Then, NOBODY, THIRD};
use epmd_core::{Change, HandOver, Handle, Journal, Limits, Policy, RegisterError, ReservedNames, Settings};
use epmd_tools::client::{self, eventually, exchange, register};
use epmd_tools::process::standalone;
use epmd_tools::process::Process;
use epmd_tools::request::{alive2, port_please2};
use socket2::{Domain, Socket, Type};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const MAPPED: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());

#[test]
fn a_name_is_registered_by_its_users_alone_over_ipv4_ipv6_and_mapped_addresses() {
    if !users::are_there() {
        return;
    }
    let owners = ["-reserve", "root_*=root", "-reserve", "prod=65534,65533"];
    let server =
        owners.iter().fold(crate::support::server::Settings::new(Kind::Ours), |server, flag| server.flag(flag));
    let server = server.start();
    let dual = DualStack::start(&owners);
    let (ipv4, ipv6) = (LOOPBACK, IpAddr::V6(Ipv6Addr::LOCALHOST));
    for (port, address) in [
        (server.port(), ipv4),
        (server.port(), ipv6),
        (server.port(), MAPPED),
        (dual.port, ipv4),
        (dual.port, ipv6),
        (dual.port, MAPPED),
    ] {
        let server = SocketAddr::new(address, port);
        assert!(is_granted(NOBODY, server, "prod"), "{server}");
        assert!(is_granted(THIRD, server, "prod"), "{server}");
        assert!(!is_granted(0, server, "prod"), "{server}");
        assert!(!is_granted(NOBODY, server, "root_1"), "{server}");
        assert!(is_granted(0, server, "root_1"), "{server}");
        assert!(is_granted(NOBODY, server, "prod1") && is_granted(0, server, "prod1"), "{server}");
    }
}

#[test]
fn other_users_cannot_take_the_places_of_this_user_and_of_reserved_names() {
    if !users::are_there() {
        return;
    }
    // A share of 40 descriptors of 100: 32 for nodes, of which others may have 24.
    let flags = ["-descriptor_share", "40", "-reserve", "prod=65533"];
    let settings = crate::support::server::Settings::new(Kind::Ours).descriptors(100);
    let server = flags.iter().fold(settings, |settings, flag| settings.flag(flag)).start();
    let crowd = Crowd::start(NOBODY, server.ipv4(), "crowd", 60);
    assert_eq!(crowd.size, 24);
    assert_eq!(Crowd::start(THIRD, server.ipv4(), "third", 1).size, 0, "others share their part");
    assert!(is_granted(THIRD, server.ipv4(), "prod"), "the name is reserved");
    // What is left: eight places, of which one may just have become free.
    let own = Crowd::start(0, server.ipv4(), "own", 60);
    assert!((7..=8).contains(&own.size), "{}", own.size);
    drop(own);
    drop(crowd);
    eventually("the places are free", || Crowd::start(NOBODY, server.ipv4(), "again", 24).size == 24);
}

#[test]
fn the_log_and_those_who_follow_are_told_whose_the_name_is_and_who_asked() {
    if !users::are_there() {
        return;
    }
    let (owner, changes) = observed(&[("prod", "root")]);
    let server = address(&owner);
    assert!(!is_granted(NOBODY, server, "prod"));
    let reason = "the name belongs to user root (0), and user 65534 asks for it";
    assert!(changes.iter().any(|change| change == refused("prod", reason)));
    let lines = owner.log.lines("registration refused");
    assert!(lines.len() == 1 && lines[0].contains("prod") && lines[0].contains(reason), "{lines:?}");
    assert_eq!(owner.handle.metrics().refused.get(), 1);
}

#[test]
fn nobody_else_gets_the_name_while_its_holder_restarts() {
    if !users::are_there() {
        return;
    }
    let (owner, changes) = observed(&[("prod", "root")]);
    let server = address(&owner);
    let mut waiting: Vec<_> = (0..3).map(|_| Client::start(NOBODY, server, "prod", Then::AskAgain)).collect();
    let refused = || owner.handle.metrics().refused.get();
    let lives = rounds(10, 100);
    for _ in 0..lives {
        let before = refused();
        eventually("they ask while it is free", || refused() > before + 10);
        let node = register(server, "prod", 1).unwrap();
        let before = refused();
        eventually("they ask while it is taken", || refused() > before + 10);
        client::close(node);
    }
    eventually("the last has left", || exchange(server, &port_please2("prod")).unwrap() == b"w\x01");
    println!("{} attempts in {lives} restarts", refused());
    assert!(waiting.iter_mut().all(Client::is_refused));
    let registered = changes.try_iter().filter(|change| matches!(change, Change::Registered { .. })).count();
    assert_eq!(registered, lives);
}

#[test]
fn a_connection_that_was_closed_meanwhile_is_not_taken_for_roots() {
    if !users::are_there() {
        return;
    }
    // The server's thread is held up until they are closed.
    let (hold, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let (record, changes) = mpsc::channel();
    let observer = move |_, change: Change| {
        let is_gate = matches!(&change, Change::Registered { name, .. } if name == "gate");
        let _ = record.send(change);
        if is_gate {
            let _ = held.lock().unwrap().recv();
        }
    };
    let owner = start(&[("prod", "root")], Journal::observed_by(Arc::new(observer)));
    let server = address(&owner);
    let gate = std::thread::spawn(move || register(server, "gate", 1));
    eventually("it is held up", || matches!(changes.try_recv(), Ok(Change::Registered { .. })));
    let each = rounds(4, 40);
    for then in [Then::Close, Then::HalfClose, Then::Reset] {
        for _ in 0..each {
            let mut client = Client::start(NOBODY, server, "prod", then);
            client.reply();
            // Also the process has gone.
            drop(client);
        }
    }
    hold.send(()).unwrap();
    let _gate = gate.join().unwrap().unwrap();
    let reason = "the name belongs to user root (0), and the user that asks for it cannot be determined: the other end of the connection is closed";
    let mut seen = Vec::new();
    // A refusal is counted before it is recorded.
    eventually("all are refused", || {
        seen.extend(changes.try_iter());
        seen.iter().filter(|change| **change == refused("prod", reason)).count() as u64 == 3 * each
    });
    assert_eq!(owner.handle.metrics().refused.get(), 3 * each);
    let registered = |change: &&Change| matches!(change, Change::Registered { name, .. } if name == "prod");
    assert_eq!(seen.iter().find(registered), None);
}

#[test]
fn a_connection_from_another_network_namespace_is_nobodys() {
    // A listener that is passed from outside: the connections to it are not among those of the member's own network.
    let network = Network::new();
    let inside = DualStack::start_in(Some(&network.server_host), &["-reserve", "prod=root"]);
    let server = SocketAddr::new(LOOPBACK, inside.port);
    assert!(!is_granted(0, server, "prod"));
    assert!(is_granted(0, server, "other"));
}

#[test]
fn a_connection_with_the_same_addresses_in_another_network_namespace_is_another_one() {
    if !users::are_there() {
        return;
    }
    let network = Network::new();
    let member = DualStack::start_in(Some(&network.server_host), &["-reserve", "prod=65534"]);
    let (server, client) = (SocketAddr::new(LOOPBACK, member.port), SocketAddr::new(LOOPBACK, free_port()));
    // In the member's namespace the right user has a connection from there to there.
    let listener = network.on_server_host(|| TcpListener::bind(server).unwrap());
    let script = format!(
        r#"use Socket; socket(S, AF_INET, SOCK_STREAM, 0); bind(S, pack_sockaddr_in({}, inet_aton("127.0.0.1"))) or die "bind: $!";
           connect(S, pack_sockaddr_in({}, inet_aton("127.0.0.1"))) or die "connect: $!"; syswrite(STDOUT, "connected"); sleep 600"#,
        client.port(),
        server.port()
    );
    let mut theirs =
        network.on_server_host(|| run_as(NOBODY, "perl").args(["-e", &script]).stdout(Stdio::piped()).spawn().unwrap());
    let mut said = [0; 9];
    theirs.stdout.take().unwrap().read_exact(&mut said).unwrap();
    let _accepted = listener.accept().unwrap();

    let ours = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    ours.bind(&client.into()).unwrap();
    ours.connect(&server.into()).unwrap();
    let registered = client::register_on(ours.into(), &alive2("prod", 1));
    theirs.kill().unwrap();
    theirs.wait().unwrap();
    assert!(registered.is_err_and(|refusal| refusal.starts_with("refused")));
}

#[test]
fn a_user_from_outside_the_user_namespace_is_not_taken_for_nobody() {
    if !users::are_there() {
        return;
    }
    if !Command::new("unshare").args(["--map-root-user", "true"]).status().unwrap().success() {
        not_run("no user namespace can be made here, as in a chroot");
        return;
    }
    let port = free_port();
    let mut inside = Command::new("unshare");
    inside.arg("--map-root-user").arg(standalone());
    let owner = Process::spawn(inside, port, &["-reserve", "prod=65534", "-reserve", "mine=0"]);
    owner.serves();
    let server = SocketAddr::new(LOOPBACK, port);
    assert!(!is_granted(NOBODY, server, "prod"));
    assert!(!is_granted(THIRD, server, "prod"));
    assert!(is_granted(0, server, "mine"), "root is the one user who has a number there");
}

#[test]
fn a_vm_whose_name_belongs_to_others_is_told_so() {
    let owner = start(&[("prod", "4711"), ("mine", "root")], Journal::default());
    let Err(RegisterError::NotTheirs(said)) = owner.register("prod", 1) else { panic!("registered") };
    let expected =
        "the name \"prod\" of this node belongs to user 4711, and this VM runs as user 0: run it as whom the \
                    name belongs to, or correct the setting reserved_names";
    assert_eq!(said, expected);
    assert!(owner.register("mine", 1).is_ok());
}

#[test]
fn a_member_that_joins_is_checked_as_every_other() {
    if !users::are_there() {
        return;
    }
    let owner = start(&[("prod", "65534")], Journal::default());
    let server = address(&owner);
    // It has no list of its own.
    let member = Running::start(settings(&[], server.port(), Journal::default()));
    let Err(RegisterError::Held(said)) = member.register("prod", 1) else { panic!("registered") };
    assert_eq!(
        said,
        format!(
            "this node cannot be registered: {server} refuses it, and no node has the name: the name may belong to \
             another user there; the log of whoever serves the port says more"
        )
    );
    assert!(member.register("other", 1).is_ok(), "another name may follow");
    let theirs = users::member_of(NOBODY, server.port(), &["-name", "prod"]);
    theirs.joins();
    eventually("it is registered", || exchange(server, &port_please2("prod")).unwrap() != b"w\x01");
}

#[test]
fn what_is_registered_stays_when_another_serves_and_its_name_stays_its_users() {
    if !users::are_there() {
        return;
    }
    let owner = start(&[("prod", "65534")], Journal::default());
    let server = address(&owner);
    let standby = Running::start(settings(&[("prod", "65534")], server.port(), Journal::default()));
    standby.stands_by_for(&owner);
    let mut node = Client::start(NOBODY, server, "prod", Then::Stay);
    assert!(node.is_granted());
    owner.kill();
    standby.serves();
    let is_found = || exchange(server, &port_please2("prod")).unwrap() != b"w\x01";
    assert!(is_found());
    assert!(!is_granted(0, server, "prod"));
    drop(node);
    eventually("it has left", || !is_found());
    assert!(!is_granted(0, server, "prod"));
    assert!(is_granted(NOBODY, server, "prod"));
}

#[test]
fn a_list_that_changes_holds_for_who_registers_from_then_on() {
    let owner = start(&[], Journal::default());
    let server = address(&owner);
    let node = register(server, "prod", 1).unwrap();
    change(&owner.handle, &[("prod", "4711")]);
    assert!(!client::is_closed(&node), "it was there before");
    client::close(node);
    eventually("it has left", || exchange(server, &port_please2("prod")).unwrap() == b"w\x01");
    assert!(register(server, "prod", 1).is_err());
    change(&owner.handle, &[]);
    assert!(register(server, "prod", 1).is_ok());
}

fn owners(list: &[(&str, &str)]) -> ReservedNames {
    ReservedNames::named(list.iter().map(|(name, user)| ((*name).into(), vec![(*user).into()]))).unwrap()
}

fn settings(list: &[(&str, &str)], port: u16, journal: Journal) -> Settings {
    let settings = crate::support::member::settings(&[LOOPBACK], port);
    Settings { policy: Policy { reserved_names: owners(list), ..settings.policy }, journal, ..settings }
}

fn start(list: &[(&str, &str)], journal: Journal) -> Running {
    Running::start(settings(list, free_port(), journal))
}

/// One that tells its changes.
fn observed(list: &[(&str, &str)]) -> (Running, mpsc::Receiver<Change>) {
    let (record, changes) = mpsc::channel();
    let observer = move |_, change| _ = record.send(change);
    (start(list, Journal::observed_by(Arc::new(observer))), changes)
}

fn refused(name: &str, reason: &str) -> Change {
    Change::Refused { name: name.into(), reason: reason.to_owned().into() }
}

fn address(member: &Running) -> SocketAddr {
    SocketAddr::new(LOOPBACK, member.handle.status().port)
}

fn change(handle: &Handle, list: &[(&str, &str)]) {
    let policy = Policy { reserved_names: owners(list), ..Policy::default() };
    handle.configure(policy, Limits::default(), HandOver::default());
}

fn free_port() -> u16 {
    client::free_address().port()
}

/// A member with a listener of a socket unit, for IPv6 and IPv4 alike.
struct DualStack {
    member: Child,
    port: u16,
}

impl DualStack {
    fn start(flags: &[&str]) -> Self {
        Self::start_in(None, flags)
    }

    /// One in a network namespace that is not its listener's.
    fn start_in(namespace: Option<&str>, flags: &[&str]) -> Self {
        // With both families unless something else was said.
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=epmd exec \"$0\" \"$@\" 3>&2 2>/dev/null";
        let shell = ["sh", "-c", script];
        let words: Vec<_> = match namespace {
            Some(namespace) => [&["ip", "netns", "exec", namespace][..], &shell].concat(),
            None => shell.to_vec(),
        };
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(standalone()).args(["-member", "-port", &port.to_string()]).args(flags);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::from(OwnedFd::from(listener)));
        Self { member: command.spawn().unwrap(), port }
    }
}

impl Drop for DualStack {
    fn drop(&mut self) {
        let _ = self.member.kill();
        let _ = self.member.wait();
    }
}
