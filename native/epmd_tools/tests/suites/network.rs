//! Who may ask what, between two hosts. Each test runs as root and makes two network namespaces.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::time::Instant;

use crate::support::member::{self, Running};
use crate::support::network::{
    Network, Route, OTHER_PEER, OTHER_PEER_V6, PEER, PEER_V6, SERVER, SERVER_ALIAS, SERVER_V6,
};
use crate::support::server::{Kind, Server, Settings};
use epmd_tools::client::{self, connect_from, converse, eventually, register_on, End, PATIENCE};
use epmd_tools::request::{alive2, dump, kill, names, port_please2, stop, Alive2};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const LOOPBACK_V6: Ipv6Addr = Ipv6Addr::LOCALHOST;
const PROBE: &[u8] = b"GET /live HTTP/1.1\r\nHost: host\r\n\r\n";

fn is_http(response: &[u8]) -> bool {
    response.starts_with(b"HTTP/1.1 ")
}

/// From the other host.
fn remote_routes() -> [Route; 4] {
    [
        Route::new(PEER, SERVER),
        Route::new(OTHER_PEER, SERVER_ALIAS),
        Route::new(PEER_V6, SERVER_V6),
        Route::new(OTHER_PEER_V6, SERVER_V6),
    ]
}

/// From the server's own host: from loopback, and from an address to itself.
fn local_routes() -> [Route; 8] {
    [
        Route::new(LOOPBACK, LOOPBACK),
        Route::new(Ipv4Addr::new(127, 0, 0, 2), LOOPBACK),
        Route::new(LOOPBACK, Ipv4Addr::new(127, 9, 9, 9)),
        Route::new(LOOPBACK_V6, LOOPBACK_V6),
        Route::new(SERVER, SERVER),
        Route::new(SERVER_ALIAS, SERVER_ALIAS),
        Route::new(SERVER_V6, SERVER_V6),
        Route::new(LOOPBACK, SERVER),
    ]
}

/// From the server's own host, but from one of its addresses to another. The reference does not take this for local.
fn routes_between_own_addresses() -> [Route; 3] {
    [Route::new(SERVER, SERVER_ALIAS), Route::new(SERVER, LOOPBACK), Route::new(SERVER_ALIAS, SERVER)]
}

#[test]
fn a_peer_on_another_host_looks_up_and_can_do_nothing_else() {
    // Relaxed, so that only the peer's address is a reason to refuse.
    let network = Network::new();
    let site = Site::on(&network, &Settings::ours().relaxed());
    let _anchor = site.register_locally("anchor");
    for route in remote_routes() {
        site.on_peer_host(|server| {
            assert_eq!(ask(server, route, &port_please2("anchor")), Alive2::new("anchor", 4711).found(), "{route:?}");
            assert_eq!(ask(server, route, &port_please2("unknown")), b"w\x01", "{route:?}");
            for (what, request) in [
                ("ALIVE2", alive2("intruder", 1)),
                ("ALIVE2 of a name that is taken", alive2("anchor", 1)),
                ("NAMES", names()),
                ("DUMP", dump()),
                ("KILL", kill()),
                ("STOP", stop("anchor")),
            ] {
                let reply = ask(server, route, &request);
                assert!(reply.is_empty(), "{what}, {route:?}: {}", reply.escape_ascii());
            }
        });
    }
    assert_eq!(site.local_listing(), "name anchor at port 4711\n");
}

#[test]
fn a_peer_on_the_same_host_may_do_everything() {
    let network = Network::new();
    let site = Site::on(&network, &Settings::ours().relaxed());
    for route in local_routes() {
        site.on_server_host(|server| {
            let _node = register_over(server, route, "node").unwrap_or_else(|refusal| panic!("{route:?}: {refusal}"));
            assert_eq!(ask(server, route, &port_please2("node")), Alive2::new("node", 4711).found(), "{route:?}");
            assert!(ask(server, route, &names()).ends_with(b"name node at port 4711\n"), "{route:?}");
            assert!(!ask(server, route, &dump()).is_empty(), "{route:?}");
            assert_eq!(ask(server, route, &stop("node")), b"STOPPED", "{route:?}");
            let _node = register_over(server, route, "node").expect("a name that was stopped");
            assert_eq!(ask(server, route, &kill()), b"OK", "{route:?}");
        });
        assert_eq!(site.local_listing(), "");
    }
}

#[test]
fn with_an_allow_list_only_the_listed_networks_and_the_own_host_look_up_and_probe() {
    let cases: [(&str, &[IpAddr]); 5] = [
        ("10.77.0.2/32", &[IpAddr::V4(PEER)]),
        ("10.77.0.0/24", &[IpAddr::V4(PEER), IpAddr::V4(OTHER_PEER)]),
        ("fd77::2/128", &[IpAddr::V6(PEER_V6)]),
        ("10.77.0.3/32,fd77::/64", &[IpAddr::V4(OTHER_PEER), IpAddr::V6(PEER_V6), IpAddr::V6(OTHER_PEER_V6)]),
        ("192.0.2.0/24,2001:db8::/32", &[]),
    ];
    let network = Network::new();
    for (list, listed) in cases {
        let site = Site::on(&network, &Settings::ours().flag("-health").flag("-allow").flag(list));
        let _anchor = site.register_locally("anchor");
        let found = Alive2::new("anchor", 4711).found();
        for route in remote_routes() {
            let reply = site.on_peer_host(|server| ask(server, route, &port_please2("anchor")));
            let expected = if listed.contains(&route.from) { &found[..] } else { b"" };
            assert_eq!(reply, expected, "{route:?} with -allow {list}");
            let response = site.on_peer_host(|server| ask(server, route, PROBE));
            assert_eq!(is_http(&response), listed.contains(&route.from), "{route:?} with -allow {list}");
            assert_eq!(response.is_empty(), !is_http(&response), "{route:?} with -allow {list}");
            for request in [alive2("intruder", 1), names(), dump(), kill()] {
                let reply = site.on_peer_host(|server| ask(server, route, &request));
                assert!(reply.is_empty(), "{route:?} with -allow {list}: {}", reply.escape_ascii());
            }
        }
        for route in local_routes() {
            let reply = site.on_server_host(|server| ask(server, route, &port_please2("anchor")));
            assert_eq!(reply, found, "{route:?} with -allow {list}");
            let response = site.on_server_host(|server| ask(server, route, PROBE));
            assert!(is_http(&response), "{route:?} with -allow {list}");
        }
    }
}

#[test]
fn that_another_host_was_refused_the_listing_is_said_once() {
    let network = Network::new();
    let owner = network.on_server_host(|| Running::start(member::settings(&[], 4369)));
    let list = |route: Route| {
        let listed = || converse(connect_from(route.from, (route.to, 4369).into()).unwrap(), &names()).unwrap();
        network.on_peer_host(listed)
    };
    for route in remote_routes() {
        assert!(list(route).is_empty(), "{route:?}");
    }
    let said = owner.log.lines("remote_names");
    assert!(matches!(&said[..], [line] if line.starts_with("WARN") && line.contains("10.77.0.2")), "{said:?}");
}

#[test]
fn with_remote_names_a_peer_on_another_host_lists_and_still_can_do_nothing_else() {
    let network = Network::new();
    let site = Site::on(&network, &Settings::ours().relaxed().flag("-remote_names"));
    let _anchor = site.register_locally("anchor");
    for route in remote_routes() {
        site.on_peer_host(|server| {
            let listing = ask(server, route, &names());
            assert_eq!(listing[..4], u32::from(server.port()).to_be_bytes(), "{route:?}");
            assert_eq!(&listing[4..], b"name anchor at port 4711\n", "{route:?}");
            for request in [alive2("intruder", 1), dump(), kill(), stop("anchor")] {
                let reply = ask(server, route, &request);
                assert!(reply.is_empty(), "{route:?}: {}", reply.escape_ascii());
            }
        });
    }
    assert_eq!(site.local_listing(), "name anchor at port 4711\n");
}

#[test]
fn from_everywhere_ours_differs_from_the_reference_by_remote_listing_only() {
    let network = Network::new();
    let ours = Site::on(&network, &Settings::ours());
    let reference = Site::on(&network, &Settings::new(Kind::Reference));
    let _ours = ours.register_locally("anchor");
    let _reference = reference.register_locally("anchor");
    let asked_of_both = |routes: &[Route], remote: bool| {
        for route in routes {
            for (what, request) in [
                ("ALIVE2", alive2("anchor", 1)),
                ("PORT_PLEASE2", port_please2("anchor")),
                ("NAMES", names()),
                ("DUMP", dump()),
                ("KILL", kill()),
                ("STOP", stop("anchor")),
            ] {
                let heard = |site: &Site<'_>| {
                    let reply = |server: &Server| starts(server, *route, &request);
                    if remote {
                        site.on_peer_host(reply)
                    } else {
                        site.on_server_host(reply)
                    }
                };
                // To a peer that is not local, the reference lists its names, and ours does not.
                let unlisted = what == "NAMES" && heard_nothing_from(&reference, *route, remote);
                let (reference, ours) = (heard(&reference), heard(&ours));
                if unlisted {
                    assert!(reference.is_some() && ours.is_none(), "{what}, {route:?}: {reference:?}, {ours:?}");
                } else {
                    assert_eq!(ours, reference, "{what}, {route:?}");
                }
            }
        }
    };
    asked_of_both(&remote_routes(), true);
    asked_of_both(&local_routes(), false);
    asked_of_both(&routes_between_own_addresses(), false);
}

#[test]
fn idle_connections_of_one_remote_address_displace_nobody_else() {
    const CAP: usize = 40;
    let network = Network::new();
    let site = Site::on(&network, &Settings::ours().flag("-max_pending").flag(&CAP.to_string()));
    let _anchor = site.register_locally("anchor");
    // Each sends one byte: the kernel reports silent connections after a second only.
    let open = |server: &Server, from: Ipv4Addr, to: Ipv4Addr| {
        let mut stream =
            connect_from(from.into(), server.at(to)).unwrap_or_else(|error| panic!("from {from}: {error}"));
        stream.write_all(&[0]).unwrap();
        stream
    };
    // These two have waited longest when the flood comes, so that by age alone they would be closed first.
    let local = site.on_server_host(|server| open(server, LOOPBACK, LOOPBACK));
    let neighbour = site.on_peer_host(|server| open(server, OTHER_PEER, SERVER));
    let flood = site.on_peer_host(|server| (0..3 * CAP).map(|_| open(server, PEER, SERVER)).collect::<Vec<_>>());
    eventually("the flood is cut to the cap", || {
        flood.iter().filter(|stream| !client::is_closed(stream)).count() < CAP
    });
    let newest = flood.last().expect("a flood");
    assert!(!client::is_closed(newest), "the newest gave route instead of the one that had waited longest");
    for (who, mut stream) in [("the own host", local), ("the neighbour", neighbour)] {
        assert!(!client::is_closed(&stream), "{who} was displaced");
        stream.write_all(&port_please2("anchor")[1..]).unwrap();
        let mut reply = Vec::new();
        let end = client::read_until(&stream, &mut reply, Instant::now() + PATIENCE, usize::MAX);
        assert_eq!((end, reply), (End::ClosedByServer, Alive2::new("anchor", 4711).found()), "{who}");
    }
    // While the flood stands, everybody is served, the flooding address too.
    for route in [Route::new(PEER, SERVER), Route::new(OTHER_PEER, SERVER)] {
        let reply = site.on_peer_host(|server| ask(server, route, &port_please2("anchor")));
        assert_eq!(reply, Alive2::new("anchor", 4711).found(), "{route:?}");
    }
    let _node = site.register_locally("newcomer");
}

#[test]
fn idle_connections_of_many_remote_addresses_do_not_keep_the_own_host_out() {
    const CAP: usize = 40;
    let network = Network::new();
    network.add_peer_addresses((20..120).map(|last| Ipv4Addr::new(10, 77, 0, last)));
    let site = Site::on(&network, &Settings::ours().flag("-max_pending").flag(&CAP.to_string()));
    let _anchor = site.register_locally("anchor");
    let _flood: Vec<TcpStream> = site.on_peer_host(|server| {
        let sources = (20..120).map(|last| IpAddr::V4(Ipv4Addr::new(10, 77, 0, last)));
        sources.flat_map(|from| (0..3).map(move |_| connect_from(from, server.at(SERVER)).unwrap())).collect()
    });
    for route in local_routes() {
        let reply = site.on_server_host(|server| ask(server, route, &port_please2("anchor")));
        assert_eq!(reply, Alive2::new("anchor", 4711).found(), "{route:?}");
    }
    let _node = site.register_locally("newcomer");
}

/// A server on one of two hosts.
struct Site<'network> {
    network: &'network Network,
    server: Server,
}

impl<'network> Site<'network> {
    fn on(network: &'network Network, settings: &Settings) -> Self {
        let server = settings.clone().everywhere_in(&network.server_host).start();
        Self { network, server }
    }

    fn on_server_host<T: Send>(&self, work: impl FnOnce(&Server) -> T + Send) -> T {
        self.network.on_server_host(|| work(&self.server))
    }

    fn on_peer_host<T: Send>(&self, work: impl FnOnce(&Server) -> T + Send) -> T {
        self.network.on_peer_host(|| work(&self.server))
    }

    fn register_locally(&self, name: &str) -> TcpStream {
        let route = Route::new(LOOPBACK, LOOPBACK);
        self.on_server_host(|server| register_over(server, route, name)).expect("a name nobody has")
    }

    fn local_listing(&self) -> String {
        let heard = self.on_server_host(|server| ask(server, Route::new(LOOPBACK, LOOPBACK), &names()));
        String::from_utf8_lossy(&heard[4..]).into_owned()
    }
}

fn register_over(server: &Server, route: Route, name: &str) -> Result<TcpStream, String> {
    let stream = connect_from(route.from, server.at(route.to)).map_err(|error| error.to_string())?;
    register_on(stream, &alive2(name, 4711))
}

/// The whole reply; empty if the server just closes.
fn ask(server: &Server, route: Route, request: &[u8]) -> Vec<u8> {
    let stream = connect_from(route.from, server.at(route.to)).unwrap_or_else(|error| panic!("{route:?}: {error}"));
    converse(stream, request).unwrap_or_else(|error| panic!("{route:?}: {error}"))
}

/// The first byte of the reply. Does not wait for a close, since the reference does not close a refused registration.
fn starts(server: &Server, route: Route, request: &[u8]) -> Option<u8> {
    let mut stream = connect_from(route.from, server.at(route.to)).unwrap_or_else(|error| panic!("{route:?}: {error}"));
    stream.write_all(request).expect("a fresh connection takes a request");
    let mut heard = Vec::new();
    client::read_until(&stream, &mut heard, Instant::now() + PATIENCE, 1);
    // A listing starts with two zero bytes, every other reply with its tag.
    heard.first().copied()
}

/// Whether a server takes a peer for remote: then it does not answer DUMP_REQ.
fn heard_nothing_from(site: &Site<'_>, route: Route, remote: bool) -> bool {
    let reply = |server: &Server| starts(server, route, &dump());
    let heard = if remote { site.on_peer_host(reply) } else { site.on_server_host(reply) };
    heard.is_none()
}
