//! The server without a VM, with the flags of OTP's C daemon, for tests and benchmarks.

use std::env;
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::thread;
use std::time::Duration;

use epmd_core::registry::Registry;
use epmd_core::{
    parse_addresses, serve, HandOver, Health, Journal, Limits, Listeners, Member, Node, NodeName, Policy,
    ReservedNames, Role, ServiceManager, Settings, Status, Trusted,
};
use rustix::process::{setrlimit, Resource, Rlimit};

const USAGE: &str = "usage: standalone [-port N] [-address LIST] [-relaxed_command_check] [-packet_timeout SECONDS]
                  [-allow CIDR,...] [-remote_names] [-max_pending N] [-descriptor_share PERCENT]
                  [-reserve NAME=USER,...] [-member] [-health] [-standbys N] [-trust USER,...] [-name NODE] [-act_as_bsd] [-act_as_jail]";

fn main() -> Result<(), Box<dyn Error>> {
    let (mut port, mut addresses) = (4369, Vec::new());
    let (mut policy, mut limits) = (Policy::default(), Limits { descriptor_share: 95, ..Limits::default() });
    let (mut is_member, mut hand_over, mut name) = (false, HandOver::default(), None);
    let mut reserved: Vec<(String, _)> = Vec::new();
    let mut arguments = env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE);
        match flag.as_str() {
            "-port" => port = value()?.parse()?,
            "-address" => addresses = parse_addresses(&value()?)?,
            "-relaxed_command_check" => policy.relaxed = true,
            "-health" => policy.health = true,
            "-remote_names" => policy.remote_names = true,
            "-packet_timeout" => limits.deadline = Duration::from_secs(value()?.parse()?),
            "-descriptor_share" => limits.descriptor_share = value()?.parse()?,
            "-max_pending" => limits.waiting = value()?.parse()?,
            "-allow" => policy.allow = Some(value()?.split(',').map(str::parse).collect::<Result<_, _>>()?),
            "-reserve" => {
                let rule = value()?;
                let (name, users) = rule.split_once('=').ok_or(USAGE)?;
                reserved.push((name.into(), list(users)));
            }
            "-trust" => hand_over.trusted = Trusted::named(&list(&value()?), &[]),
            "-member" => is_member = true,
            "-name" => name = Some(NodeName::new(value()?.as_bytes()).map_err(|error| format!("{error:?}"))?),
            "-act_as_bsd" => epmd_core::act_as_bsd(),
            "-act_as_jail" => epmd_core::act_as_jail(),
            "-standbys" => hand_over.standbys = value()?.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    policy.reserved_names = ReservedNames::named(reserved)?.resolved();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if is_member {
        let (service_manager, journal) = (ServiceManager::from_environment(port)?, Journal::default());
        let settings = Settings {
            addresses,
            port,
            inet6: false,
            policy,
            limits,
            hand_over,
            service_manager,
            journal,
            health: Health::default(),
        };
        return runtime.block_on(run_member(settings, name));
    }
    let listeners = Listeners::open(&addresses, port).map_err(|error| error.to_string())?;
    println!("listening on port {}", listeners.port);
    std::io::stdout().flush()?;
    Ok(runtime.block_on(serve(listeners, Registry::default(), policy, limits))?)
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(String::from).collect()
}

/// Runs a member until standard input ends. Prints each change of its state: `serving`, `joined` or `standing by`. On a
/// line `use up N` it sets its descriptor limit to N, opens files until no descriptor is left, and prints that; on a line
/// `standbys` it prints which processes stand by for it.
async fn run_member(settings: Settings, name: Option<NodeName>) -> Result<(), Box<dyn Error>> {
    let (member, handle) = Member::start(settings).await.map_err(|error| error.to_string())?;
    let watched = handle.clone();
    thread::spawn(move || {
        let mut said = "";
        loop {
            let Status { role, stands_by, .. } = watched.status();
            let state =
                if role == Role::Serving { "serving" } else { ["joined", "standing by"][usize::from(stands_by)] };
            if std::mem::replace(&mut said, state) != state {
                println!("{state}");
            }
            thread::sleep(Duration::from_millis(2));
        }
    });
    thread::spawn(move || {
        if let Some(Err(error)) = name.map(|name| handle.register(Node::erlang(name, 1), None, Duration::MAX)) {
            println!("not registered: {error:?}");
        }
        let lines = std::io::stdin().lines().map_while(Result::ok);
        for line in lines {
            if line == "standbys" {
                let standbys =
                    handle.status().standbys.into_iter().filter_map(|standby| Some(standby.pid?.to_string()));
                println!("standbys {}", standbys.collect::<Vec<_>>().join(" "));
            }
            let Some(limit) = line.strip_prefix("use up ").and_then(|limit| limit.parse().ok()) else { continue };
            setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) }).expect("a lower limit");
            while let Ok(file) = File::open("/dev/null") {
                std::mem::forget(file);
            }
            println!("no descriptor is left");
        }
        handle.stop_with_process();
    });
    Ok(member.run().await?)
}
