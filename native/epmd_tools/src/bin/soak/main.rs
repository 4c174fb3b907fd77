//! Random faults on the members of a host, for a given time; the promises are checked throughout.
//!
//! A seed decides which faults come, which members they hit, and how fast the load is. It does not decide what the
//! system's scheduler does. Start it with `bin/soak`.

#![allow(clippy::unwrap_used, reason = "a panic is a finding, and told with its history")]
#![allow(unreachable_pub, reason = "a program is a crate without users")]

mod faults;
mod history;
mod host;
mod nodes;

use std::env;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use epmd_tools::random::Random;
use faults::Fault;
use history::History;
use host::Host;
use nodes::Nodes;

const USAGE: &str = "usage: soak [--minutes N] [--seed S]";

fn main() -> ExitCode {
    let (mut minutes, mut seed) = (30.0, SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs()));
    let mut arguments = env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next();
        let taken = match flag.as_str() {
            "--minutes" => {
                value.and_then(|value| value.parse().ok()).filter(|n| *n > 0.0 && *n < 1e6).map(|n| minutes = n)
            }
            "--seed" => value.and_then(|value| value.parse().ok()).map(|n| seed = n),
            _ => None,
        };
        if taken.is_none() {
            eprintln!("{USAGE}\n--minutes is a number above 0 and below a million, --seed a whole number; got {flag}");
            return ExitCode::from(2);
        }
    }
    let time = Duration::from_secs_f64(minutes * 60.0);
    let history = History::default();
    println!("seed {seed}, {minutes} minutes");
    let run = catch_unwind(AssertUnwindSafe(|| run(seed, time, &history)));
    match run.unwrap_or_else(|_| Err("the soak itself panicked: see above".into())) {
        Ok(rounds) => {
            println!("{rounds} faults, {} lookups, no promise broken; seed {seed}", history.looked_up());
            ExitCode::SUCCESS
        }
        Err(broken) => {
            println!("{history}");
            println!("BROKEN after {:.1} minutes: {broken}", history.elapsed().as_secs_f64() / 60.0);
            println!("again: bin/soak --seed {seed}");
            ExitCode::FAILURE
        }
    }
}

/// Injects one fault after the other. Returns how many there were.
fn run(seed: u64, time: Duration, history: &History) -> Result<usize, String> {
    let mut random = Random::new(seed);
    let mut host = Host::new(history);
    host.fill(&mut random);
    let nodes = Nodes::start(host.server, history, seed);
    host.settle(&nodes)?;
    let (began, mut told, mut rounds) = (Instant::now(), 0, 0);
    while began.elapsed() < time {
        let fault = Fault::random(&mut random);
        nodes.pace(random.below(6), random.below(6));
        history.add(format!("fault {rounds}: {fault:?}"));
        let held = fault.inject(&mut host, &nodes, &mut random)?;
        host.resume();
        if held {
            host.someone_serves()?;
            nodes.all_held()?;
        }
        // Sometimes the next fault comes before the host is whole again.
        let settles = random.below(4) > 0;
        host.fill(&mut random);
        if settles || held {
            host.settle(&nodes)?;
            nodes.creations_go_on(&mut random)?;
        } else {
            std::thread::sleep(Duration::from_millis(random.below(300) as u64));
            let owner = random.below(2) == 0;
            history.add(format!("at once: {} is killed", if owner { "the owner" } else { "a member" }));
            nodes.expect_losses();
            host.kill_some(owner, &mut random);
            host.fill(&mut random);
            host.settle(&nodes)?;
        }
        nodes.broken()?;
        rounds += 1;
        let minute = began.elapsed().as_secs() / 60;
        if minute > told {
            told = minute;
            println!("{minute} minutes: {rounds} faults, {} lookups", history.looked_up());
        }
    }
    Ok(rounds)
}
