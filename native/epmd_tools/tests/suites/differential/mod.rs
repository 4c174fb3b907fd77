//! Sends the same bytes to OTP's C daemon and to our server. Replies, closes and the table afterwards must be the same,
//! except for the named differences in `differences.rs`.

mod differences;
mod observation;
mod run;
mod script;
mod scripts;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use crate::support::server::{Kind, Server, Settings};
use differences::DIFFERENCES;
use observation::Observation;
use script::Script;

/// Scripts mostly wait, so many more of them run at once than there are cores.
const WORKERS: usize = 24;

#[test]
fn ours_differs_from_the_reference_by_name_only_over_ipv4() {
    compare("IPv4", Server::ipv4);
}

#[test]
fn ours_differs_from_the_reference_by_name_only_over_ipv6() {
    compare("IPv6", Server::ipv6);
}

#[derive(Default)]
struct Tally {
    families: BTreeMap<&'static str, usize>,
    differences: BTreeMap<&'static str, usize>,
    failures: Vec<String>,
}

fn compare(family: &str, address: fn(&Server) -> SocketAddr) {
    let began = Instant::now();
    let scripts = scripts::all();
    assert!(scripts.len() >= 300, "only {} scripts", scripts.len());
    let tally = Mutex::new(Tally::default());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(script) = scripts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = panic::catch_unwind(AssertUnwindSafe(|| compare_one(script, address)));
                    let outcome = outcome.unwrap_or_else(|_| Err("panicked, see above".into()));
                    tally.lock().expect("no panic while counting").count(script, outcome);
                }
            });
        }
    });

    let mut tally = tally.into_inner().expect("no panic while counting");
    let otp = otp_release();
    for difference in DIFFERENCES {
        let may_be_cured = difference.cured_in.is_some_and(|release| release <= otp);
        if !may_be_cured && !tally.differences.contains_key(difference.name) {
            tally.failures.push(format!("the difference '{}' occurs no more", difference.name));
        }
    }
    let seconds = began.elapsed().as_secs_f32();
    // `println!` would be shown for failures only.
    let _ = writeln!(
        io::stderr(),
        "{family}: {} scripts in {} families beside OTP {otp}, {} failed, {seconds:.1} s\n  families: {:?}\n  named differences: {:?}",
        scripts.len(),
        tally.families.len(),
        tally.failures.len(),
        tally.families,
        tally.differences,
    );
    assert!(tally.failures.is_empty(), "\n{}", tally.failures.join("\n"));
}

/// The OTP release of the reference.
fn otp_release() -> u32 {
    let script = "io:put_chars(erlang:system_info(otp_release)), halt().";
    let output = Command::new("erl").args(["-noshell", "-eval", script]).output().expect("`erl` beside `epmd`");
    let release = String::from_utf8(output.stdout).expect("digits");
    release.parse().unwrap_or_else(|_| panic!("`erl` should tell its release, but tells {release:?}"))
}

/// Runs a script against both servers, each started for it. Returns the named differences that it showed.
fn compare_one(script: &Script, address: fn(&Server) -> SocketAddr) -> Result<Vec<&'static str>, String> {
    let reference = observe(script, Kind::Reference, address, None)?;
    let same_table = match &script.same_table {
        Some(steps) => {
            let other = Script { steps: steps.clone(), ..script.clone() };
            Some(observe(&other, Kind::Reference, address, None)?)
        }
        None => None,
    };
    let (expected, differences) = differences::expected_of_ours(script, &reference, same_table.as_ref());
    let ours = observe(script, Kind::Ours, address, Some(&expected))?;
    if ours == expected {
        return Ok(differences);
    }
    let verdict = match &differences[..] {
        [] => "differs without a named difference".to_owned(),
        names if ours == reference => format!("does as the reference does, but should differ: {}", names.join("; ")),
        names => format!("differs otherwise than by: {}", names.join("; ")),
    };
    Err(format!("{verdict}\n{}", contrast(script, &reference, &expected, &ours)))
}

fn observe(
    script: &Script,
    kind: Kind,
    address: fn(&Server) -> SocketAddr,
    expected: Option<&Observation>,
) -> Result<Observation, String> {
    let mut settings = Settings::new(kind);
    if script.relaxed {
        settings = settings.relaxed();
    }
    if let Some(seconds) = script.packet_timeout {
        settings = settings.packet_timeout(seconds);
    }
    let server = settings.start();
    run::run(script, address(&server), expected).map_err(|error| format!("{kind:?}: {error}; {}", server.errors()))
}

/// Describes only what is not as expected.
fn contrast(script: &Script, reference: &Observation, expected: &Observation, ours: &Observation) -> String {
    let mut lines = Vec::new();
    for (connection, expected) in &expected.connections {
        let ours = &ours.connections[connection];
        if ours != expected {
            lines.push(format!(
                "    connection {connection} sent \"{}\"\n      reference: {:?}\n      expected:  {expected:?}\n      ours:      {ours:?}",
                observation::short(&script.sent(*connection)),
                reference.connections[connection],
            ));
        }
    }
    for (when, reference, expected, ours) in [
        ("during", &reference.during, &expected.during, &ours.during),
        ("after", &reference.after, &expected.after, &ours.after),
    ] {
        if ours != expected {
            lines.push(format!(
                "    table {when}\n      reference: {reference:?}\n      expected:  {expected:?}\n      ours:      {ours:?}"
            ));
        }
    }
    lines.join("\n")
}

impl Tally {
    fn count(&mut self, script: &Script, outcome: Result<Vec<&'static str>, String>) {
        *self.families.entry(script.family).or_default() += 1;
        match outcome {
            Ok(differences) => {
                for name in differences {
                    *self.differences.entry(name).or_default() += 1;
                }
            }
            Err(failure) => self.failures.push(format!("{}: {}: {failure}", script.family, script.title)),
        }
    }
}
