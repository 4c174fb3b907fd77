//! Few descriptors: how many a server leaves to its process, and what a standby needs when its owner ends.

use std::net::{SocketAddr, TcpStream};

use crate::support::nodes::{all_found, fill, register_until_refused};
use crate::support::rounds::rounds;
use epmd_tools::client::{self, eventually, free_address, register};
use epmd_tools::process::Process;

const FEW: u32 = 256;

#[derive(Clone, Copy)]
enum End {
    Stop,
    Kill,
}

#[derive(Clone, Copy, PartialEq)]
enum Copied {
    /// The standby starts before the first node.
    First,
    /// The standby starts when the owner is full.
    Last,
    /// The standby starts in between.
    Between,
}

#[test]
fn a_standby_that_is_as_full_as_its_owner_goes_on_with_every_node() {
    for end in [End::Stop, End::Kill] {
        for copied in [Copied::First, Copied::Between, Copied::Last].repeat(rounds(1, 10)) {
            let server = free_address();
            let mut owner = start(server, &[]);
            let mut standby = (copied == Copied::First).then(|| standby(server));
            let mut nodes = register_until_refused(server, 0..if copied == Copied::First { usize::MAX } else { 100 });
            if copied == Copied::Between {
                standby = Some(self::standby(server));
            }
            if copied != Copied::First {
                nodes.extend(register_until_refused(server, nodes.len()..usize::MAX));
            }
            let mut standby = standby.unwrap_or_else(|| self::standby(server));
            assert!(nodes.len() > 200, "only {} nodes", nodes.len());
            println!(
                "{} nodes, owner {} and standby {} of {FEW} descriptors",
                nodes.len(),
                owner.descriptors(),
                standby.descriptors()
            );
            match end {
                End::Stop => owner.stop(),
                End::Kill => owner.kill(),
            }
            all_found(server, &nodes);
            standby.stop();
        }
    }
}

#[test]
fn a_standby_whose_process_uses_up_its_descriptors_later_has_what_it_needs() {
    let server = free_address();
    let mut owner = start(server, &[]);
    let nodes = fill(server, 50);
    let mut standby = standby(server);
    standby.use_up_descriptors();
    owner.kill();
    all_found(server, &nodes);
}

#[test]
fn nodes_get_a_share_of_the_descriptors_and_those_who_ask_for_them_are_answered() {
    let server = free_address();
    let owner = start(server, &["-descriptor_share", "40"]);
    let mut waiting: Vec<TcpStream> = Vec::new();
    let nodes = register_until_refused(server, 0..usize::MAX);
    // 40 % of 256 are 102, of which 8 are for those that wait.
    assert_eq!(nodes.len(), 94);
    // Within the share, older idle connections are closed for newer ones.
    for _ in 0..100 {
        waiting.push(client::connect(server).unwrap());
    }
    all_found(server, &nodes);
    assert!(owner.descriptors() <= 102 + 40, "{} descriptors", owner.descriptors());
    drop(nodes);
    eventually("there is room again", || register(server, "again", 1).is_ok());
}

#[test]
fn copies_that_would_take_more_than_a_share_are_not_made() {
    let server = free_address();
    let mut owner = start(server, &[]);
    let nodes = fill(server, 60);
    // 20 % of 256 are 51.
    let small = start(server, &["-descriptor_share", "20"]);
    let standby = standby(server);
    eventually("no copies are left", || small.descriptors() < 60);
    owner.kill();
    all_found(server, &nodes);
    drop(standby);
}

fn start(server: SocketAddr, flags: &[&str]) -> Process {
    let flags = [&["-max_pending", "16"], flags].concat();
    let process = Process::start_limited(server.port(), Some(FEW), &flags);
    eventually("it serves, or another does", || client::listing(server).is_ok());
    process
}

fn standby(server: SocketAddr) -> Process {
    let standby = start(server, &["-name", "standby"]);
    standby.stands_by();
    standby
}
