//! Names, and peers that end, reset or contest their registrations: each name has exactly its live holder.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::hostile::child::ClientProcess;
use crate::hostile::only_names_of;
use crate::support::rounds::rounds;
use crate::support::server::Settings;
use epmd_tools::client::{self, connect, eventually, exchange, listing, register};
use epmd_tools::random::Random;
use epmd_tools::request::{alive2, kill, names, port_please2, Alive2};

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
            // The server may not have noticed the end of the previous one, so a refusal is right here too.
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
            // In some attempts this is long enough for the refusal to be under way.
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
        // At once: the server may not have noticed the end of the first.
        let successor = register(address, "swapped", 2 * round + 1).expect("a name whose holder has gone");
        let expected = format!("name swapped at port {}\n", 2 * round + 1);
        assert_eq!(only_names_of(address, 1), expected);
        client::close(successor);
        eventually("the successor has gone", || listing(address).is_ok_and(|listing| listing.is_empty()));
    }
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
