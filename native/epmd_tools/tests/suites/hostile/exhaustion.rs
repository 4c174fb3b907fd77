//! Peers that take connections, descriptors or time in large numbers: registered nodes are found all along.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::hostile::only_names_of;
use crate::hostile::usage::{busy_share, open_descriptors, report};
use crate::hostile::watch::{Latencies, Watch};
use crate::support::rounds::{limit, rounds};
use crate::support::server::Settings;
use crate::support::turn::{alone, with_descriptors};
use epmd_tools::client::{self, connect, eventually, exchange, listing, register, End, PATIENCE};
use epmd_tools::random::Random;
use epmd_tools::request::{self, alive2, names, port_please2, Alive2};

#[test]
fn idle_slow_and_reset_connections_do_not_keep_a_node_from_being_found() {
    const SLOW: usize = 200;
    // After each batch the server gets time to catch up. Without that, the kernel's accept queue is measured: see the
    // end.
    const BATCH: usize = 25;
    let (idle_count, resets) = (rounds(1_000, 5_000), rounds(2_000, 10_000));
    let _turn = with_descriptors(idle_count + SLOW + 500);
    let server = Settings::ours().start();
    let address = server.ipv4();
    let _anchor = register(address, "anchor", 4711).expect("a name nobody has");

    let watch = Watch::start(address, "anchor", 4711);
    let idle: Vec<TcpStream> = (0..idle_count)
        .map(|number| {
            // Every other one sends nothing: the kernel reports it to the server after a second only.
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
    let latencies = watch.stop();
    let still_open = idle.iter().filter(|stream| !client::is_closed(stream)).count();
    report(&format!("while {idle_count} idle connections came, of which {still_open} are left: {latencies}"));

    let watch = Watch::start(address, "anchor", 4711);
    let still_slow = Arc::new(AtomicBool::new(true));
    let slow = thread::spawn({
        let still_slow = Arc::clone(&still_slow);
        move || drip(address, SLOW, &still_slow)
    });
    flood_with_resets(address, resets, Some(BATCH));
    still_slow.store(false, Ordering::Relaxed);
    let finished = slow.join().expect("the slow ones do not panic");
    let latencies = watch.stop();
    report(&format!("while {SLOW} slow ones had {finished} requests answered, and {resets} were reset: {latencies}"));

    // Without pauses they come faster than two cores can serve them, and fill the kernel's accept queue of 4,096.
    // Lookups then wait in that queue, but none may be lost or wrong.
    let watch = Watch::start(address, "anchor", 4711);
    flood_with_resets(address, resets, None);
    let latencies = watch.stop_within(rounds(PATIENCE, Duration::from_secs(2)));
    report(&format!("while {resets} were reset as fast as they can be: {latencies}"));
    assert_eq!(only_names_of(address, 1), "name anchor at port 4711\n");
    drop(idle);
    let _newcomer = register(address, "newcomer", 4712).expect("registering works afterwards");
}

#[test]
fn idle_connections_with_few_descriptors_neither_end_it_nor_keep_a_node_from_being_found() {
    let _turn = alone();
    let mut server = Settings::ours().descriptors(64).start();
    let address = server.ipv4();
    let anchor = register(address, "anchor", 4711).expect("a name nobody has");
    let watch = Watch::start(address, "anchor", 4711);

    let idle: Vec<TcpStream> = (0..500).map(|_| connect(address).expect("the backlog takes it")).collect();
    let busy = busy_share(&server, Duration::from_secs(2));

    let latencies = watch.stop();
    report(&format!("64 descriptors, 500 idle connections: busy {:.0} % of the time; {latencies}", busy * 100.0));
    assert!(server.is_running());
    assert!(!client::is_closed(&anchor), "the anchor's connection was closed");
    drop(idle);
    register_within_patience(address, "newcomer");
}

#[test]
fn more_registrations_than_descriptors_neither_end_it_nor_keep_a_node_from_being_found() {
    let _turn = alone();
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

    let latencies = watch.stop();
    report(&format!(
        "64 descriptors, 100 ALIVE2 ({registered} registered, {refused} refused, {closed} closed): busy {:.0} % of the time; {latencies}",
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
    let _turn = with_descriptors(usize::from(NODES) + 500);
    let server = Settings::ours().packet_timeout(5).start();
    let address = server.ipv4();
    let _anchor = register(address, "anchor", 4711).expect("a name nobody has");
    // 1,020 bytes each, so that the listing is larger than what the kernel takes for a peer that does not read.
    let name = |number| format!("{}{number:05}", "😀".repeat(250));
    let nodes: Vec<_> = (0..NODES).map(|number| register(address, name(number), number).expect("a new name")).collect();
    let whole = listing(address).expect("a listing");
    assert!(whole.len() > 5_000_000 && whole.lines().count() == usize::from(NODES) + 1);

    let watch = Watch::start(address, "anchor", 4711);
    // Two more are to come: the newcomer, and the watch's own connection.
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
    let memory = server.resident_megabytes();
    let latencies = watch.stop();
    report(&format!(
        "{CLIENTS} clients that do not read {:.1} MB of listing: server at {memory} MB; {latencies}",
        whole.len() as f32 / 1e6
    ));

    // The kernel keeps written data, and the FIN behind it, for a peer that does not read. So only the server's
    // descriptors show that it has closed the connection.
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
fn many_nodes_are_registered_at_once_and_all_are_found() {
    const WORKERS: usize = 4;
    let count = rounds(2_000, 10_000);
    let _turn = with_descriptors(count + 500);
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
        server.resident_megabytes()
    ));

    let began = Instant::now();
    drop(nodes);
    eventually("all names are gone", || listing(address).is_ok_and(|listing| listing.is_empty()));
    report(&format!("{count} nodes gone after {:.2?}", began.elapsed()));
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

/// Keeps this number of connections that send a lookup byte by byte. Returns how many were answered.
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
            // It is empty if the connection was closed to make room.
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

/// Resets this number of connections from four threads. After each batch a thread waits for the server to catch up.
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

/// Sends a random part of a random request, perhaps reads part of the reply, and resets.
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
