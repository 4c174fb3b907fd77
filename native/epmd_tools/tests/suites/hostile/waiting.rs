//! Peers that make the server wait: for a request, for a refusal to be read, for a free slot.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::hostile::only_names_of;
use crate::hostile::usage::open_descriptors;
use crate::support::rounds::limit;
use crate::support::server::Settings;
use epmd_tools::client::{self, connect, eventually, exchange, register, End, PATIENCE};
use epmd_tools::request::{alive2, claiming, port_please2, Alive2};

#[test]
fn one_absolute_deadline_ends_a_request_however_it_dribbles() {
    const DEADLINE: Duration = Duration::from_secs(2);
    let server = Settings::ours().packet_timeout(DEADLINE.as_secs()).start();
    let address = server.ipv4();
    let registered = register(address, "anchor", 4711).expect("a name nobody has");
    let began = Instant::now();
    let in_time = |what: &str, closed_after: Duration| {
        // The kernel reports a silent connection to the server after a second only.
        let held = if what == "nothing sent" { Duration::from_secs(1) } else { Duration::ZERO };
        let late = DEADLINE + held + limit(Duration::from_millis(700));
        assert!((DEADLINE - Duration::from_millis(50)..late).contains(&closed_after), "{what}: {closed_after:?}");
    };
    thread::scope(|scope| {
        scope.spawn(|| in_time("nothing sent", lives(connect(address).unwrap(), &[])));
        scope.spawn(|| in_time("a byte sent", lives(connect(address).unwrap(), &[0])));
        scope.spawn(|| in_time("a header sent", lives(connect(address).unwrap(), &[0, 20])));
        scope.spawn(|| in_time("an unfinished body", lives(connect(address).unwrap(), &alive2("slow", 1)[..15])));
        scope.spawn(|| {
            let mut stream = connect(address).unwrap();
            let began = Instant::now();
            let request = claiming(3057, &[b'z'; 3057]);
            for byte in request {
                if stream.write_all(&[byte]).is_err() || is_reset_or_ended(&stream) {
                    break;
                }
                assert!(began.elapsed() < PATIENCE, "a byte each 200 ms keeps a connection open");
                thread::sleep(Duration::from_millis(200));
            }
            in_time("a byte each 200 ms", began.elapsed());
        });
    });
    // The deadline applies to requests, not to registered connections.
    let twice = (2 * DEADLINE).saturating_sub(began.elapsed());
    assert_eq!(client::read_until(&registered, &mut Vec::new(), Instant::now() + twice, 1), End::KeptOpen);
    assert_eq!(only_names_of(address, 1), "name anchor at port 4711\n");
}

#[test]
fn probes_have_the_same_deadline_and_the_same_slots_as_other_requests() {
    const DEADLINE: Duration = Duration::from_secs(2);
    let server =
        Settings::ours().flag("-health").flag("-max_pending").flag("8").packet_timeout(DEADLINE.as_secs()).start();
    let address = server.ipv4();
    let _anchor = register(address, "anchor", 4711).expect("a name nobody has");
    let began = Instant::now();
    let mut unfinished: Vec<_> = (0..9).map(|_| connect(address).unwrap()).collect();
    for stream in &mut unfinished {
        stream.write_all(b"GET /live HTTP/1.1\r\nHost: ").unwrap();
    }
    // The ninth takes the place of one of them.
    eventually("one gives way", || unfinished.iter().any(is_reset_or_ended));
    assert!(began.elapsed() < DEADLINE);
    assert_eq!(exchange(address, &port_please2("anchor")).unwrap(), Alive2::new("anchor", 4711).found());
    eventually("all have ended", || unfinished.iter().all(is_reset_or_ended));
    assert!(began.elapsed() >= DEADLINE);
    // Without a descriptor left behind, they are answered again.
    let response = exchange(address, b"GET /live HTTP/1.1\r\n\r\n").unwrap();
    assert!(response.starts_with(b"HTTP/1.1 404 "), "{}", response.escape_ascii());
}

#[test]
fn a_refused_registration_does_not_hold_a_descriptor() {
    let server = Settings::ours().start();
    let address = server.ipv4();
    let _anchor = register(address, "anchor", 4711).expect("a name nobody has");
    let before = open_descriptors(&server);
    // A stock node whose name is taken does this when it registers again: it never closes, and opens one more.
    let refused: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = connect(address).unwrap();
            stream.write_all(&alive2("anchor", 4712)).unwrap();
            let mut reply = [0; 6];
            stream.read_exact(&mut reply).expect("a refusal");
            assert_eq!(&reply, b"v\x01\0\0\0\x63");
            stream
        })
        .collect();
    eventually("the server has closed every refused registration", || open_descriptors(&server) <= before);
    assert!(refused.iter().all(client::is_closed));
}

#[test]
fn at_the_cap_the_one_that_has_waited_longest_gives_way() {
    const CAP: usize = 10;
    let server = Settings::ours().flag("-max_pending").flag(&CAP.to_string()).start();
    let address = server.ipv4();
    // Registered connections do not count against the cap.
    let nodes: Vec<_> = (0..2 * CAP as u16)
        .map(|number| register(address, format!("node{number}"), number).expect("a new name"))
        .collect();

    let begin = || {
        let mut stream = connect(address).unwrap();
        stream.write_all(&[0]).unwrap();
        stream
    };
    let mut waiting: Vec<TcpStream> = (0..CAP).map(|_| begin()).collect();
    thread::sleep(Duration::from_millis(100));
    assert!(waiting.iter().all(|stream| !client::is_closed(stream)), "closed below the cap");
    for newcomers in 1..=5 {
        waiting.push(begin());
        eventually("the one that has waited longest is closed", || client::is_closed(&waiting[newcomers - 1]));
        assert!(waiting[newcomers..].iter().all(|stream| !client::is_closed(stream)), "after {newcomers} newcomers");
    }
    // The newest is served like any other, and a registration too.
    let mut newest = waiting.pop().unwrap();
    newest.write_all(&port_please2("node0")[1..]).unwrap();
    let mut reply = Vec::new();
    let end = client::read_until(&newest, &mut reply, Instant::now() + PATIENCE, usize::MAX);
    assert_eq!((end, reply), (End::ClosedByServer, Alive2::new("node0", 0).found()));
    let _newcomer = register(address, "newcomer", 4712).expect("registering works at the cap");
    assert!(nodes.iter().all(|stream| !client::is_closed(stream)), "a registered node gave way");
}

fn is_reset_or_ended(stream: &TcpStream) -> bool {
    // Behind unread data, a FIN shows only in the state of the socket.
    let mut poll = [rustix::event::PollFd::new(stream, rustix::event::PollFlags::RDHUP)];
    let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = rustix::event::poll(&mut poll, Some(&zero)).expect("a socket can be polled");
    ready > 0
}

/// How long the server leaves a connection open after it has received these bytes.
fn lives(mut stream: TcpStream, bytes: &[u8]) -> Duration {
    let began = Instant::now();
    stream.write_all(bytes).expect("a fresh connection takes bytes");
    let end = client::read_until(&stream, &mut Vec::new(), began + PATIENCE, usize::MAX);
    assert_eq!(end, End::ClosedByServer, "still open after {PATIENCE:?}");
    began.elapsed()
}
