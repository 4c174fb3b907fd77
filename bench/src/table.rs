//! Measures the table alone, in this process: the time of a lookup, and the memory of a name.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use epmd_core::registry::{Holder, Registration, Registry};
use epmd_core::{Node, NodeName};
use serde_json::json;

use crate::plan::median;

/// Lookups in one round. Each is of a name far from the last one in memory.
const LOOK_UPS: usize = 1_000_000;
/// A prime that divides no number of names, so that every name has its turn.
const STRIDE: usize = 700_001;

/// Measures, prints, and writes `table.json`.
pub(crate) fn bench(root: &Path, is_short: bool, is_check: bool) -> Result<()> {
    let (names, rounds) = if is_short { (10_000, 1) } else { (1_000_000, 5) };
    let name = |number: usize| format!("node_{number:07}");
    let mut kept: Vec<Registration> = Vec::with_capacity(names);
    let registry = Registry::default();

    let before = resident_bytes()?;
    let began = Instant::now();
    for number in 0..names {
        let node = Node::erlang(NodeName::new(name(number).as_bytes()).ok().context("a good name")?, 4711);
        kept.push(registry.register(&node, None, Holder::Local).ok().context("a new name")?);
    }
    let register = began.elapsed().as_nanos() as f64 / names as f64;
    // The list of registrations is the caller's, not the table's.
    let own = names * size_of::<Registration>();
    let bytes = (resident_bytes()? - before).saturating_sub(own) as f64 / names as f64;

    // Contiguous in memory: a real request is in the cache when it is looked up, so only the table's misses should
    // count.
    let requests: Vec<[u8; 12]> = (0..LOOK_UPS)
        .map(|step| name(step * STRIDE % names).as_bytes().try_into().context("twelve characters"))
        .collect::<Result<_>>()?;
    let mut look_ups = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        for request in &requests {
            black_box(registry.find(request).context("it is registered")?.port());
        }
        look_ups.push(began.elapsed().as_nanos() as f64 / LOOK_UPS as f64);
    }
    let look_up = median(look_ups.clone());
    let mut missed = false;

    println!("\nThe table alone, {names} names");
    for (what, rounds, most) in [
        ("lookup, ns", look_ups, Some(300.0)),
        ("memory of a name, bytes", vec![bytes], Some(250.0)),
        ("registration, ns", vec![register], None),
    ] {
        let value = median(rounds.clone());
        let verdict = most.map_or(String::new(), |most| {
            let verdict = match rounds.iter().filter(|value| **value <= most).count() {
                _ if value <= most => "met",
                0 => "NOT MET",
                _ => "met in some rounds",
            };
            missed |= verdict == "NOT MET";
            format!("   at most {most}: {verdict}")
        });
        println!("{what:35}{value:>16.1}{verdict}");
    }
    let results = root.join("bench/results");
    fs::create_dir_all(&results)?;
    let json = json!({ "names": names, "look_up_ns": look_up, "bytes_per_name": bytes, "registration_ns": register });
    let name = if is_short { "table-short.json" } else { "table.json" };
    fs::write(results.join(name), format!("{json:#}\n"))?;
    ensure!(!is_check || !missed, "a target is missed in every round");
    Ok(())
}

fn resident_bytes() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
    Ok(kib.context("VmRSS in the status")?.trim().parse::<usize>()? * 1024)
}
