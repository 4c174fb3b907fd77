//! What other users of the host, and other hosts, can use up: memory, places for those that wait, and the service
//! manager's time. What is local is served before what is not.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::attackers::Attackers;
use crate::support::network::{Network, OTHER_PEER, PEER, SERVER, SERVER_V6};
use crate::support::nodes::{all_found, fill};
use crate::support::server::{Server, Settings};
use crate::support::service::Service;
use crate::support::turn::with_descriptors;
use crate::support::users;
use epmd_tools::client::{
    self, connect_from, eventually, eventually_within, exchange, free_address, listing, register, PATIENCE,
};
use epmd_tools::request::{alive2, dump, names, port_please2, Alive2};

/// The reply to a registration whose name is taken.
const REFUSED: &[u8] = b"v\x01\0\0\0\x63";
/// Descriptors of a process that has few.
const FEW: u32 = 64;
/// How many connections of one remote source may wait.
const OF_ONE_SOURCE: usize = 32;

#[test]
fn who_does_not_read_a_listing_has_no_copy_of_it() {
    const NODES: u16 = 5_000;
    const READERS: usize = 100;
    /// Not over before all are there, also on a busy machine.
    const DEADLINE: Duration = Duration::from_secs(9);
    if !users::are_there() {
        return;
    }
    let _turn = with_descriptors(usize::from(NODES) + 500);
    let server = Settings::ours().packet_timeout(DEADLINE.as_secs()).start();
    let address = server.ipv4();
    // 1,020 bytes each, so that the kernel does not take the whole listing.
    let name = |number| format!("{}{number:05}", "😀".repeat(250));
    let _nodes: Vec<_> =
        (0..NODES).map(|number| register(address, name(number), number).expect("a new name")).collect();
    let whole = listing(address).unwrap();
    assert_eq!(whole.lines().count(), usize::from(NODES));
    for request in [names(), dump()] {
        let before = server.resident_megabytes();
        let attackers = Attackers::that_do_not_read(READERS, address, &request);
        let used = server.resident_megabytes().saturating_sub(before);
        assert!(used < 20, "{READERS} that do not read use {used} MB");
        let of_each = unread(&server) / READERS;
        assert!((1..256 * 1024).contains(&of_each), "the kernel has {of_each} bytes for each that does not read");
        assert_eq!(listing(address).unwrap(), whole, "another reader");
        // At the deadline nothing is left of them, though they are still there.
        eventually_within(DEADLINE + PATIENCE, "the kernel has nothing for them", || self::unread(&server) == 0);
        drop(attackers);
    }
}

#[test]
fn connections_of_other_hosts_take_no_place_of_a_local_one() {
    served_beside_other_hosts(&Settings::ours());
}

#[test]
fn connections_of_other_hosts_take_no_descriptor_of_a_local_one() {
    served_beside_other_hosts(&Settings::ours().descriptors(FEW));
}

/// There are more connections from 200 addresses of another host than may wait.
fn served_beside_other_hosts(settings: &Settings) {
    let network = Network::new();
    let sources = || (20..220).map(|last| Ipv4Addr::new(10, 77, 0, last));
    network.add_peer_addresses(sources());
    let server = settings.clone().everywhere_in(&network.server_host).start();
    network.on_server_host(|| {
        is_served_beside(server.ipv4(), || {
            network.on_peer_host(|| Attackers::that_wait(300, sources().map(IpAddr::from), server.at(SERVER)))
        });
    });
}

#[test]
fn connections_of_another_user_take_no_place_of_ours() {
    served_beside_another_user(&Settings::ours());
}

#[test]
fn connections_of_another_user_take_no_descriptor_of_ours() {
    served_beside_another_user(&Settings::ours().descriptors(FEW));
}

fn served_beside_another_user(settings: &Settings) {
    if users::are_there() {
        let server = settings.start();
        is_served_beside(server.ipv4(), || Attackers::that_wait(300, [Ipv4Addr::LOCALHOST.into()], server.ipv4()));
    }
}

/// A registration that waits for its name is refused in the end, others are granted, and lookups are answered.
fn is_served_beside(server: SocketAddr, attack: impl Fn() -> Attackers) {
    let _anchor = register(server, "anchor", 4711).unwrap();
    for is_attacked in [false, true] {
        let _attackers = is_attacked.then(&attack);
        for number in 0..5 {
            let refused = exchange(server, &alive2("anchor", 1)).unwrap();
            assert_eq!(refused, REFUSED, "attempt {number}, attacked: {is_attacked}");
            let _granted = register(server, format!("node{number}"), 1).expect("a new name");
            assert_eq!(exchange(server, &port_please2("anchor")).unwrap(), Alive2::new("anchor", 4711).found());
        }
    }
}

#[test]
fn who_has_few_connections_gives_way_to_nobody_who_has_many() {
    let network = Network::new();
    let sources = || (20..40).map(|last| Ipv4Addr::new(10, 77, 0, last));
    network.add_peer_addresses(sources());
    let server = Settings::ours().everywhere_in(&network.server_host).start();
    let outer = server.at(SERVER);
    let _anchor = network.on_server_host(|| register(server.ipv4(), "anchor", 4711)).unwrap();
    for is_attacked in [false, true] {
        let neighbour = network.on_peer_host(|| begun(OTHER_PEER.into(), outer));
        let _attackers =
            is_attacked.then(|| network.on_peer_host(|| Attackers::that_wait(300, sources().map(IpAddr::from), outer)));
        is_answered(neighbour);
    }
}

#[test]
fn an_ipv6_network_has_the_share_of_one_address() {
    const OPEN: u16 = 100;
    const NEIGHBOUR: [Ipv6Addr; 2] =
        [Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 2)];
    let network = Network::new();
    let of_network = |number: u16| Ipv6Addr::new(0xfd77, 0, 0, 0, 1, 0, 0, number);
    let of_ipv4 = |number: u16| Ipv4Addr::new(10, 77, 0, 20 + number as u8);
    network.add_peer_addresses((0..OPEN).map(of_network));
    network.add_peer_addresses((0..OPEN).map(of_ipv4));
    network.add_server_addresses([NEIGHBOUR[0]]);
    network.add_peer_addresses([NEIGHBOUR[1]]);
    let server = Settings::ours().everywhere_in(&network.server_host).start();
    let _anchor = network.on_server_host(|| register(server.ipv4(), "anchor", 4711)).unwrap();
    let (ipv4, ipv6) = (server.at(SERVER), server.at(SERVER_V6));
    let neighbour = network.on_peer_host(|| begun(NEIGHBOUR[1].into(), ipv6));
    let own = network.on_peer_host(|| begun(PEER.into(), ipv4));
    let open = |these: &[TcpStream]| these.iter().filter(|stream| !client::is_closed(stream)).count();
    let others: Vec<_> = network.on_peer_host(|| (0..OPEN).map(|number| begun(of_ipv4(number).into(), ipv4)).collect());
    let network: Vec<_> =
        network.on_peer_host(|| (0..OPEN).map(|number| begun(of_network(number).into(), ipv6)).collect());
    eventually("the network has its share", || open(&network) == OF_ONE_SOURCE);
    assert_eq!(open(&others), usize::from(OPEN), "addresses of IPv4 are one source each");
    is_answered(neighbour);
    is_answered(own);
}

#[test]
fn names_that_come_and_go_are_not_told_to_the_service_manager() {
    const PASSING: usize = 500;
    if !users::are_there() {
        return;
    }
    let server = free_address();
    let mut service = Service::start(100, &[], &["-address", "127.0.0.1", "-port", &server.port().to_string()]);
    service.serves(server);
    let nodes = fill(server, 20);
    service.has_stored(nodes.len(), 1);
    let before = service.heard();
    let _attackers = Attackers::that_come_and_go(PASSING, server);
    let told = service.heard() - before;
    assert!(told < PASSING / 10, "{told} messages for {PASSING} names that came and went");
    // Those that stay are told.
    let _another = register(server, "another", 1).unwrap();
    service.has_stored(nodes.len() + 1, 1);
    all_found(server, &nodes);
}

/// A connection from this address that has sent the first byte of a lookup.
fn begun(source: IpAddr, server: SocketAddr) -> TcpStream {
    let mut stream = connect_from(source, server).unwrap_or_else(|error| panic!("from {source}: {error}"));
    stream.write_all(&port_please2("anchor")[..1]).unwrap();
    stream
}

/// The rest of the lookup is answered.
fn is_answered(mut stream: TcpStream) {
    stream.write_all(&port_please2("anchor")[1..]).expect("it is open");
    let mut reply = Vec::new();
    client::read_until(&stream, &mut reply, Instant::now() + PATIENCE, usize::MAX);
    assert_eq!(reply, Alive2::new("anchor", 4711).found());
}

/// How many bytes the kernel has of this server's that nobody has read.
fn unread(server: &Server) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", server.port());
    let of_socket = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_its = fields.next()?.ends_with(&port);
        let queued = fields.nth(2)?.split(':').next()?;
        is_its.then(|| usize::from_str_radix(queued, 16).ok())?
    };
    table.lines().skip(1).filter_map(of_socket).sum()
}
