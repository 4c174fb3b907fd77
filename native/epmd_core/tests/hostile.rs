//! Peers that mean harm, or are merely broken, against our server: registered nodes are found all along.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal};

use support::client::{self, connect, eventually, exchange, listing, register, End, PATIENCE};
use support::random::Random;
use support::request::{self, alive2, claiming, kill, names, port_please2, Alive2};
use support::rounds::{limit, rounds};
use support::server::{Server, Settings};

/// A registered node is found within this, whatever anybody else does, if the machine does nothing else. If it does,
/// it is found while the client has patience: a look-up that hangs ends with the server's deadline, which is no sooner.
const SOON: Duration = Duration::from_millis(100);

#[test]
fn idle_slow_and_reset_connections_do_not_keep_a_node_from_being_found() {
    const SLOW: usize = 200;
    // Without a turn for the server in between, it is the kernel's accept queue that is measured: see the end.
    const BATCH: usize = 25;
    let (idle_count, resets) = (rounds(1_000, 5_000), rounds(2_000, 10_000));
    let _alone = alone();
    need_descriptors(idle_count + SLOW + 500);
    let server = Settings::ours().start();
    let address = server.ipv4();
    let _anchor = register(address, "anchor", 4711).expect("a name nobody has");

    let watch = Watch::start(address, "anchor", 4711);
    let idle: Vec<TcpStream> = (0..idle_count)
        .map(|number| {
            // Every other one says nothing at all: the kernel keeps it to itself for a second.
            let mut stream = connect(address).expect("one more connection");
            if number % 2 == 0 {
                stream.write_all(&[0]).expect("the first byte of a request");
            }
            if number % BATCH == 0 {
                exchange(address, &port_please2("anchor")).expect("the server has got that far");
            }
            stream
        })
        .collect();
    let figures = watch.stop();
    let still_open = idle.iter().filter(|stream| !client::is_closed(stream)).count();
    report(&format!("while {idle_count} idle connections came, of which {still_open} are left: {figures}"));

    let watch = Watch::start(address, "anchor", 4711);
    let still_slow = Arc::new(AtomicBool::new(true));
    let slow = thread::spawn({
        let still_slow = Arc::clone(&still_slow);
        move || drip(address, SLOW, &still_slow)
    });
    flood_with_resets(address, resets, Some(BATCH));
    still_slow.store(false, Ordering::Relaxed);
    let finished = slow.join().expect("the slow ones do not panic");
    let figures = watch.stop();
    report(&format!("while {SLOW} slow ones had {finished} requests answered, and {resets} were reset: {figures}"));

    // Unpaced they come faster than two cores serve them and fill the kernel's accept queue of 4,096, in which everybody
    // waits for his turn. That costs time, but no look-up may be lost or wrong.
    let watch = Watch::start(address, "anchor", 4711);
    flood_with_resets(address, resets, None);
    let figures = watch.stop_within(rounds(PATIENCE, Duration::from_secs(2)));
    report(&format!("while {resets} were reset as fast as they can be: {figures}"));
    assert_eq!(only_names_of(address, 1), "name anchor at port 4711\n");
    drop(idle);
    let _newcomer = register(address, "newcomer", 4712).expect("registering works afterwards");
}

#[test]
fn idle_connections_with_few_descriptors_neither_end_it_nor_keep_a_node_from_being_found() {
    let _alone = alone();
    let mut server = Settings::ours().descriptors(64).start();
    let address = server.ipv4();
    let anchor = register(address, "anchor", 4711).expect("a name nobody has");
    let watch = Watch::start(address, "anchor", 4711);

    let idle: Vec<TcpStream> = (0..500).map(|_| connect(address).expect("the backlog takes it")).collect();
    let busy = busy_share(&server, Duration::from_secs(2));

    let figures = watch.stop();
    report(&format!("64 descriptors, 500 idle connections: busy {:.0} % of the time; {figures}", busy * 100.0));
    assert!(server.is_running());
    assert!(!client::is_closed(&anchor), "the anchor's connection was closed");
    drop(idle);
    register_within_patience(address, "newcomer");
}

#[test]
fn more_registrations_than_descriptors_neither_end_it_nor_keep_a_node_from_being_found() {
    let _alone = alone();
    let mut server = Settings::ours().descriptors(64).start();
    let address = server.ipv4();
    let anchor = register(address, "anchor", 4711).expect("a name nobody has");
    let watch = Watch::start(address, "anchor", 4711);

    let outcomes: Vec<_> = (0..100)
        .map(|number| {
            let mut stream = connect(address).expect("the backlog takes it");
            let _ = stream.write_all(&alive2(format!("node{number}"), 5000 + number));
            let mut heard = Vec::new();
            let end = client::read_until(&stream, &mut heard, Instant::now() + limit(Duration::from_millis(500)), 6);
            (number, heard, end, stream)
        })
        .collect();
    let registered = outcomes.iter().filter(|(_, heard, ..)| heard.starts_with(b"v\0")).count();
    let refused = outcomes.iter().filter(|(_, heard, ..)| heard.starts_with(b"v\x01")).count();
    let closed = outcomes.iter().filter(|(_, heard, end, _)| heard.is_empty() && *end == End::ClosedByServer).count();
    for (number, ..) in outcomes.iter().filter(|(_, heard, ..)| heard.starts_with(b"v\0")) {
        let name = format!("node{number}");
        assert_eq!(exchange(address, &port_please2(&name)).unwrap(), Alive2::new(&name, 5000 + number).found());
    }
    let idle: Vec<TcpStream> = (0..200).map(|_| connect(address).expect("the backlog takes it")).collect();
    let busy = busy_share(&server, Duration::from_secs(2));

    let figures = watch.stop();
    report(&format!(
        "64 descriptors, 100 ALIVE2 ({registered} registered, {refused} refused, {closed} closed): busy {:.0} % of the time; {figures}",
        busy * 100.0
    ));
    assert!(registered >= 16, "only {registered} nodes registered with 64 descriptors");
    assert!(server.is_running());
    assert!(!client::is_closed(&anchor), "the anchor's connection was closed");
    drop(idle);
    drop(outcomes);
    eventually("only the anchor is left", || {
        listing(address).is_ok_and(|listing| listing == "name anchor at port 4711\n")
    });
    register_within_patience(address, "newcomer");
}

#[test]
fn clients_that_do_not_read_a_large_listing_stall_nobody() {
    const NODES: u16 = 5_000;
    const CLIENTS: usize = 20;
    let _alone = alone();
    need_descriptors(usize::from(NODES) + 500);
    let server = Settings::ours().packet_timeout(5).start();
    let address = server.ipv4();
    let _anchor = register(address, "anchor", 4711).expect("a name nobody has");
    // 1,020 bytes each, so that the listing is larger than what the kernel takes for a peer that does not read.
    let name = |number| format!("{}{number:05}", "😀".repeat(250));
    let nodes: Vec<_> = (0..NODES).map(|number| register(address, name(number), number).expect("a new name")).collect();
    let whole = listing(address).expect("a listing");
    assert!(whole.len() > 5_000_000 && whole.lines().count() == usize::from(NODES) + 1);

    let watch = Watch::start(address, "anchor", 4711);
    // With the newcomer and the watch's own connection that are to come.
    let before = open_descriptors(&server) + 2;
    let asked = Instant::now();
    let deaf: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut stream = connect(address).expect("one more connection");
            rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).expect("a small buffer");
            stream.write_all(&names()).expect("a request is sent");
            stream
        })
        .collect();
    thread::sleep(Duration::from_secs(1));
    let newcomer = register(address, "newcomer", 4712).expect("registering works meanwhile");
    let memory = resident_megabytes(&server);
    let figures = watch.stop();
    report(&format!(
        "{CLIENTS} clients that do not read {:.1} MB of listing: server at {memory} MB; {figures}",
        whole.len() as f32 / 1e6
    ));

    // The kernel keeps what was written, and the end behind it, for a peer that does not read: only the server's
    // descriptors show that it has let go.
    eventually("clients that do not read are let go at the deadline", || open_descriptors(&server) <= before);
    report(&format!("the last of them was let go after {:.1} s of a deadline of 5 s", asked.elapsed().as_secs_f32()));
    drop(deaf);
    drop(nodes);
    drop(newcomer);
    eventually("only the anchor is left", || {
        listing(address).is_ok_and(|listing| listing == "name anchor at port 4711\n")
    });
}

#[test]
fn one_absolute_deadline_ends_a_request_however_it_dribbles() {
    const DEADLINE: Duration = Duration::from_secs(2);
    let server = Settings::ours().packet_timeout(DEADLINE.as_secs()).start();
    let address = server.ipv4();
    let registered = register(address, "anchor", 4711).expect("a name nobody has");
    let began = Instant::now();
    let in_time = |what: &str, closed_after: Duration| {
        // The kernel keeps a silent connection to itself for a second.
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
    // The deadline is that of a request, not of a registration.
    let twice = (2 * DEADLINE).saturating_sub(began.elapsed());
    assert_eq!(client::read_until(&registered, &mut Vec::new(), Instant::now() + twice, 1), End::KeptOpen);
    assert_eq!(only_names_of(address, 1), "name anchor at port 4711\n");
}

#[test]
fn a_refused_registration_does_not_hold_a_descriptor() {
    let server = Settings::ours().start();
    let address = server.ipv4();
    let _anchor = register(address, "anchor", 4711).expect("a name nobody has");
    let before = open_descriptors(&server);
    // As a stock node does that re-registers a name which somebody else has: it never closes, it opens one more.
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
fn a_stopped_client_keeps_its_name_and_a_vanished_one_loses_it() {
    let server = Settings::ours().start();
    let address = server.ipv4();
    let client = ClientProcess::start(address, "stopped");
    client.signal(Signal::STOP);
    for _ in 0..50 {
        assert_eq!(exchange(address, &port_please2("stopped")).unwrap(), Alive2::new("stopped", 4711).found());
    }
    assert!(register(address, "stopped", 4712).is_err_and(|refusal| refusal.starts_with("refused")));
    assert_eq!(only_names_of(address, 1), "name stopped at port 4711\n");
    client.signal(Signal::KILL);
    eventually("the name of the killed client is free", || {
        exchange(address, &port_please2("stopped")).is_ok_and(|reply| reply == b"w\x01")
    });
    register(address, "stopped", 4712).expect("a name that is free again");
}

#[test]
fn a_client_reset_at_any_byte_leaves_the_table_right() {
    const ROUNDS: u16 = 20;
    let server = Settings::ours().start();
    let address = server.ipv4();
    let anchor = register(address, "anchor", 4711).expect("a name nobody has");
    let request = alive2("resetting", 4712);
    for round in 0..ROUNDS {
        for cut in 0..=request.len() {
            let mut stream = connect(address).unwrap();
            stream.write_all(&request[..cut]).unwrap();
            client::reset(stream);
        }
        // And at each byte of the reply.
        for read in 0..=6 {
            let mut stream = connect(address).unwrap();
            // The one before may still be on its way out, so a refusal is right here too.
            stream.write_all(&request).unwrap();
            let _ = stream.read_exact(&mut vec![0; read]);
            client::reset(stream);
        }
        assert_eq!(
            exchange(address, &port_please2("anchor")).unwrap(),
            Alive2::new("anchor", 4711).found(),
            "round {round}"
        );
    }
    assert_eq!(only_names_of(address, 1), "name anchor at port 4711\n");
    assert!(!client::is_closed(&anchor));
    let again = register(address, "resetting", 4713).expect("a name that is free again");
    assert_eq!(exchange(address, &port_please2("resetting")).unwrap(), Alive2::new("resetting", 4713).found());
    drop(again);
}

#[test]
fn a_reset_client_never_evicts_the_holder_of_a_name() {
    let server = Settings::ours().start();
    let address = server.ipv4();
    let anchor = register(address, "anchor", 4711).expect("a name nobody has");
    let found = Alive2::new("anchor", 4711).found();
    let mut random = Random::new(1);
    for attempt in 0..rounds(200, 2_000) {
        let mut stream = connect(address).unwrap();
        stream.write_all(&alive2("anchor", 4712)).unwrap();
        if attempt % 2 == 0 {
            // Late enough, in some of the attempts, for the refusal to be under way.
            thread::sleep(Duration::from_micros(random.below(500) as u64));
        }
        client::reset(stream);
        assert_eq!(exchange(address, &port_please2("anchor")).unwrap(), found, "attempt {attempt}");
    }
    assert!(!client::is_closed(&anchor), "the holder's connection was closed");
    assert_eq!(only_names_of(address, 1), "name anchor at port 4711\n");
    client::close(anchor);
    eventually("the name ends with its own connection", || listing(address).is_ok_and(|listing| listing.is_empty()));
}

#[test]
fn a_holder_that_goes_while_another_asks_for_its_name_leaves_exactly_one() {
    let server = Settings::ours().start();
    let address = server.ipv4();
    for round in 0..100_u16 {
        let holder = register(address, "swapped", 2 * round).expect("a free name");
        client::close(holder);
        // At once: the server may not have seen the end of the first.
        let successor = register(address, "swapped", 2 * round + 1).expect("a name whose holder has gone");
        let expected = format!("name swapped at port {}\n", 2 * round + 1);
        assert_eq!(only_names_of(address, 1), expected);
        client::close(successor);
        eventually("the successor has gone", || listing(address).is_ok_and(|listing| listing.is_empty()));
    }
}

#[test]
fn many_nodes_are_registered_at_once_and_all_are_found() {
    const WORKERS: usize = 4;
    let count = rounds(2_000, 10_000);
    let _alone = alone();
    need_descriptors(count + 500);
    let server = Settings::ours().start();
    let address = server.ipv4();
    let name = |number: usize| format!("node-{number:05}");

    let began = Instant::now();
    let mut nodes: Vec<TcpStream> = Vec::with_capacity(count);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                scope.spawn(move || {
                    let numbers = (worker..count).step_by(WORKERS);
                    let registered = numbers.map(|number| {
                        register(address, name(number), number as u16)
                            .unwrap_or_else(|refusal| panic!("node {number}: {refusal}"))
                    });
                    registered.collect::<Vec<_>>()
                })
            })
            .collect();
        nodes.extend(workers.into_iter().flat_map(|worker| worker.join().expect("all are registered")));
    });
    let registered = began.elapsed();

    let began = Instant::now();
    let mut latencies = Latencies::default();
    for number in 0..count {
        let asked = Instant::now();
        let reply = exchange(address, &port_please2(name(number))).unwrap();
        latencies.add(asked.elapsed());
        assert_eq!(reply, Alive2::new(name(number), number as u16).found());
    }
    let found = began.elapsed();
    let whole = listing(address).unwrap();
    assert_eq!(whole.lines().count(), count);
    report(&format!(
        "{count} nodes registered in {registered:.2?}, all found in {found:.2?}, server at {} MB; {latencies}",
        resident_megabytes(&server)
    ));

    let began = Instant::now();
    drop(nodes);
    eventually("all names are gone", || listing(address).is_ok_and(|listing| listing.is_empty()));
    report(&format!("{count} nodes gone after {:.2?}", began.elapsed()));
}

#[test]
fn at_the_cap_the_one_that_has_waited_longest_gives_way() {
    const CAP: usize = 10;
    let server = Settings::ours().flag("-max_pending").flag(&CAP.to_string()).start();
    let address = server.ipv4();
    // Registered connections are no part of the cap.
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

#[test]
fn the_port_zero_is_any_free_port_and_the_listing_names_it() {
    let server = Settings::ours().start_on_any_port();
    assert_ne!(server.port(), 0);
    let reply = exchange(server.ipv4(), &names()).unwrap();
    assert_eq!(reply, u32::from(server.port()).to_be_bytes());
    assert_eq!(exchange(server.ipv6(), &names()).unwrap(), reply);
}

#[test]
fn kill_again_and_again_ends_nothing_but_registrations() {
    let mut server = Settings::ours().relaxed().start();
    let address = server.ipv4();
    for _ in 0..50 {
        let node = register(address, "node", 4711).expect("a free name");
        assert_eq!(exchange(address, &kill()).unwrap(), b"OK");
        eventually("KILL closes the connection of a node", || client::is_closed(&node));
        assert_eq!(listing(address).unwrap(), "");
    }
    assert!(server.is_running());
}

/// What `ClientProcess` runs: a client in a process of its own, which can be stopped and killed.
#[test]
#[ignore = "no test: the body of a child process"]
fn client_process() {
    let (Ok(server), Ok(name)) = (std::env::var("CLIENT_OF"), std::env::var("CLIENT_NAME")) else {
        return;
    };
    let server: SocketAddr = server.parse().expect("an address");
    let stream = register(server, &name, 4711).expect("a free name");
    writeln!(io::stderr(), "registered").expect("the parent listens");
    // Until the connection or the process ends.
    let _ = (&stream).read(&mut [0; 1]);
}

/// Latency and descriptors are whole-machine matters: the tests that measure or use up either take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raises this process's limit, which the server inherits.
fn need_descriptors(needed: usize) {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let possible = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(
        possible >= needed as u64,
        "this test needs {needed} file descriptors, but the hard limit is {possible}: raise `ulimit -Hn`"
    );
}

/// Straight to standard error: a figure is worth seeing when the test passes too.
fn report(line: &str) {
    let _ = writeln!(io::stderr(), "hostile: {line}");
}

/// The listing, awaited for as long as it has another number of lines.
fn only_names_of(server: SocketAddr, lines: usize) -> String {
    eventually(&format!("{lines} names are left"), || {
        listing(server).is_ok_and(|listing| listing.lines().count() == lines)
    });
    listing(server).expect("a listing")
}

fn register_within_patience(server: SocketAddr, name: &str) {
    let mut last = String::new();
    eventually("registering works afterwards", || match register(server, name, 4712) {
        Ok(_) => true,
        Err(refusal) => {
            last = refusal;
            false
        }
    });
}

fn is_reset_or_ended(stream: &TcpStream) -> bool {
    // With unread data before it, an end shows in the socket's state only.
    let mut poll = [rustix::event::PollFd::new(stream, rustix::event::PollFlags::RDHUP)];
    let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = rustix::event::poll(&mut poll, Some(&zero)).expect("a socket can be polled");
    ready > 0
}

/// How long the server leaves a connection open on which these bytes came.
fn lives(mut stream: TcpStream, bytes: &[u8]) -> Duration {
    let began = Instant::now();
    stream.write_all(bytes).expect("a fresh connection takes bytes");
    let end = client::read_until(&stream, &mut Vec::new(), began + PATIENCE, usize::MAX);
    assert_eq!(end, End::ClosedByServer, "still open after {PATIENCE:?}");
    began.elapsed()
}

/// Keeps so many connections that send a look-up byte by byte; how many got their answer.
fn drip(server: SocketAddr, connections: usize, go_on: &AtomicBool) -> usize {
    let request = port_please2("anchor");
    let mut slow: Vec<(TcpStream, usize)> = Vec::new();
    let mut finished = 0;
    while go_on.load(Ordering::Relaxed) {
        while slow.len() < connections {
            slow.push((connect(server).expect("one more connection"), 0));
        }
        slow.retain_mut(|(stream, sent)| {
            if *sent < request.len() {
                *sent += 1;
                return stream.write_all(&request[*sent - 1..*sent]).is_ok();
            }
            let mut reply = Vec::new();
            client::read_until(stream, &mut reply, Instant::now() + PATIENCE, usize::MAX);
            // Nothing, if it had waited longest at the cap.
            if !reply.is_empty() {
                assert_eq!(reply, Alive2::new("anchor", 4711).found());
                finished += 1;
            }
            false
        });
        thread::sleep(Duration::from_millis(20));
    }
    finished
}

/// Resets so many connections from four threads; each waits after a batch until the server has got that far.
fn flood_with_resets(server: SocketAddr, resets: usize, batch: Option<usize>) {
    const WORKERS: usize = 4;
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || {
                let mut random = Random::new(worker as u64 + 1);
                for number in 0..resets / WORKERS {
                    reset_somewhere(server, &mut random, &format!("reset-{worker}-{number}"));
                    if batch.is_some_and(|batch| number % batch == 0) {
                        let reply = exchange(server, &port_please2("anchor")).expect("a reply");
                        assert_eq!(reply, Alive2::new("anchor", 4711).found());
                    }
                }
            });
        }
    });
}

/// Sends some bytes of some request, perhaps reads some of the reply, and resets.
fn reset_somewhere(server: SocketAddr, random: &mut Random, name: &str) {
    let requests = [alive2(name, 1), port_please2("anchor"), names(), request::dump(), request::stop("anchor")];
    let request = &requests[random.below(requests.len())];
    let mut stream = connect(server).expect("one more connection");
    let _ = stream.write_all(&request[..random.below(request.len() + 1)]);
    if random.below(4) == 0 {
        stream.set_nonblocking(true).expect("a socket can be made non-blocking");
        let _ = stream.read(&mut vec![0; 1 + random.below(6)]);
    }
    client::reset(stream);
}

/// The share of one core that the server used meanwhile; it must not spin.
fn busy_share(server: &Server, time: Duration) -> f64 {
    let before = processor_time(server);
    let began = Instant::now();
    thread::sleep(time);
    let share = (processor_time(server) - before).as_secs_f64() / began.elapsed().as_secs_f64();
    // The watch's own look-ups, 500 a second, are a tenth of it.
    assert!(share < 0.4, "the server spins: busy {:.0} % of the time", share * 100.0);
    share
}

fn processor_time(server: &Server) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("a running server");
    // Behind the command's name, in ticks of 10 ms: fields 14 and 15, of which field 3 is the first here.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("ticks") + fields[12].parse::<u64>().expect("ticks");
    Duration::from_millis(10 * ticks)
}

fn resident_megabytes(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a running server");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn open_descriptors(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("a running server").count()
}

/// Looks a node up again and again while something else goes on.
struct Watch {
    go_on: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    looking: JoinHandle<Result<Latencies, String>>,
}

impl Watch {
    fn start(server: SocketAddr, name: &str, port: u16) -> Self {
        let go_on = Arc::new(AtomicBool::new(true));
        let done = Arc::new(AtomicUsize::new(0));
        let (request, found) = (port_please2(name), Alive2::new(name, port).found());
        let looking = thread::spawn({
            let (go_on, done) = (Arc::clone(&go_on), Arc::clone(&done));
            move || {
                let mut latencies = Latencies::default();
                while go_on.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    let reply = exchange(server, &request).map_err(|error| error.to_string())?;
                    latencies.add(asked.elapsed());
                    if reply != found {
                        return Err(format!("look-up {}: {}", latencies.0.len(), reply.escape_ascii()));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(2));
                }
                Ok(latencies)
            }
        });
        Self { go_on, done, looking }
    }

    /// Every look-up was right and soon, or this panics.
    fn stop(self) -> Latencies {
        self.stop_within(rounds(PATIENCE, SOON))
    }

    /// Every look-up was right and took no longer than this, or this panics.
    fn stop_within(self, limit: Duration) -> Latencies {
        // However short the disturbance, let it be looked at.
        while self.done.load(Ordering::Relaxed) < 50 && !self.looking.is_finished() {
            thread::sleep(Duration::from_millis(2));
        }
        self.go_on.store(false, Ordering::Relaxed);
        let mut latencies = self.looking.join().expect("looking up does not panic").expect("every look-up is right");
        let worst = latencies.worst();
        assert!(worst <= limit, "a look-up took {worst:?}; {latencies}");
        latencies
    }
}

#[derive(Default)]
struct Latencies(Vec<Duration>);

impl Latencies {
    fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    fn worst(&mut self) -> Duration {
        self.0.sort_unstable();
        self.0.last().copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let worst = sorted.last().copied().unwrap_or_default();
        write!(formatter, "{} look-ups, median {median:.2?}, worst {worst:.2?}", sorted.len())
    }
}

/// A client in a child process, ended when dropped.
struct ClientProcess(Child);

impl ClientProcess {
    /// Returns once it has registered the name, at port 4711.
    fn start(server: SocketAddr, name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a test knows its own path"))
            .args(["--exact", "client_process", "--ignored", "--nocapture"])
            .env("CLIENT_OF", server.to_string())
            .env("CLIENT_NAME", name)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a second process of this test");
        let stderr = child.stderr.take().expect("standard error is piped");
        let client = Self(child);
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "registered"), "the child process did not register");
        client
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.0), signal).expect("a child can be signalled");
    }
}

impl Drop for ClientProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
