//! Measures embedded_epmd against OTP's C daemon and against a server that does the least possible. Run it with
//! `bench/run`.

mod cpu;
mod interrupt;
mod load;
mod measure;
mod metrics;
mod null;
mod options;
mod plan;
mod plot;
mod report;
mod servers;
mod table;
mod wire;

use std::env;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{bail, ensure, Context, Result};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use serde_json::{json, Value};

use crate::cpu::Cores;
use crate::interrupt::Interrupt;
use crate::metrics::metrics;
use crate::options::Command;
use crate::plan::{Plan, Samples};
use crate::servers::{Form, Launcher};

fn main() -> Result<()> {
    match Command::parse(env::args().skip(1))? {
        Command::Null { port } => null::serve(port),
        Command::Table { root, is_short, is_check } => table::bench(&root, is_short, is_check),
        Command::Measure { root, form, is_short, is_check, plan } => bench(&root, form, is_short, is_check, plan),
    }
}

fn bench(root: &Path, form: Form, is_short: bool, is_check: bool, mut plan: Plan) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let descriptors = raise_descriptor_limit()?;
    let left_out = plan.limit(servers::most_names(descriptors));
    let cores = Cores::choose()?;
    if let Some(cores) = cores {
        cpu::pin_this_thread(cores.load)?;
    }
    let mut launcher = Launcher::new(root.to_owned(), form, cores.map(|cores| cores.server));
    let samples = plan.carry_out(&mut launcher, &interrupt)?;

    println!(
        "\nOurs is {form}. Medians of {} rounds of {:?} each; a ratio is the median of the rounds' ratios. {}\n",
        plan.rounds,
        plan.duration,
        if cores.is_some() { "Server and load on a core each." } else { "ONE CORE for server and load." }
    );
    print!("{}", report::table(&metrics(), &samples));
    println!();
    for reservation in report::reservations(&samples) {
        println!("{reservation}");
    }
    for names in left_out {
        println!("Left out: {names} names, for which {descriptors} descriptors are too few (see ulimit -Hn).");
    }
    let name = if is_short { format!("{form}-short") } else { form.to_string() };
    write_results(&root.join("bench/results"), &name, &settings(form, &plan, cores), &samples)?;

    let failures = report::failures(&samples);
    for failure in &failures {
        eprintln!("{failure}");
    }
    if !failures.is_empty() {
        bail!("some exchanges failed");
    }
    ensure!(!is_check || report::missed(&metrics(), &samples) == 0, "a target is missed in every round");
    Ok(())
}

/// 10,000 names need as many connections, here and in the server, which inherits the limit.
fn raise_descriptor_limit() -> Result<u64> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.unwrap_or(u64::MAX))
}

fn settings(form: Form, plan: &Plan, cores: Option<Cores>) -> Value {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    json!({
        "ours": form.to_string(),
        "rounds": plan.rounds,
        "seconds": plan.duration.as_secs_f64(),
        "connections_in_flight": load::IN_FLIGHT,
        "load_and_server_on_cores_of_their_own": cores.is_some(),
        "processor": model.map(|(_, model)| model),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "unix_time": SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs()),
    })
}

fn write_results(directory: &Path, name: &str, settings: &Value, samples: &Samples) -> Result<()> {
    let json = report::json(settings, &metrics(), samples);
    fs::create_dir_all(directory)?;
    for (extension, content) in [("json", format!("{json:#}\n")), ("svg", plot::svg(samples))] {
        let path = directory.join(name).with_extension(extension);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}{}", if extension == "json" { "\n" } else { "" }, path.display());
    }
    Ok(())
}
