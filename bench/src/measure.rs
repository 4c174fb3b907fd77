//! One measurement: starts a server, registers names, applies a load, and measures both sides.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use rustix::net::SocketFlags;

use crate::cpu::{Threads, Usage};
use crate::interrupt::Interrupt;
use crate::load::{self, Exchange, Expected, Failures, Outcome, Pace};
use crate::null;
use crate::servers::{Launcher, Server, Who};
use crate::wire::{self, Node};

/// How long a registration may take before the measurement, when nothing else is going on.
const REGISTRATION: Duration = Duration::from_secs(5);
/// The pause after the last exchange, in which a server may still notice that a connection was closed.
const SETTLE_TIME: Duration = Duration::from_millis(20);
/// Names that come and go in turn. There are far more than in flight at a time, so that no name returns before the
/// server has seen it go.
const COMING_AND_GOING: usize = 256;

/// The load on the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// Lookups of all registered names, each as often as any other.
    LookUps(Pace),
    /// Registrations of other names, each ended as soon as it is granted.
    Registrations,
    /// The same with a server where every name belongs to the user who registers it.
    OwnedRegistrations,
}

/// What one measurement found.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Time on the processor per exchange, in microseconds.
    pub(crate) cpu: f64,
    /// Exchanges per second.
    pub(crate) rate: f64,
    /// Latencies in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// The share of the time that the load generator was busy. Near 1, the generator was the limit, not the server.
    pub(crate) generator_busy: f64,
    /// The share of the time that load generator or server waited for a processor, whichever is more.
    pub(crate) disturbed: f64,
    /// Successful exchanges.
    pub(crate) exchanges: usize,
    pub(crate) failures: Failures,
}

/// Measures one server with this many names for this long, after a tenth of that as warm-up.
pub(crate) fn measure(
    launcher: &mut Launcher,
    who: Who,
    names: usize,
    load: Load,
    duration: Duration,
    interrupt: &Interrupt,
) -> Result<Sample> {
    let server = launcher.start(who, matches!(load, Load::OwnedRegistrations), interrupt)?;
    let nodes: Vec<Node> = match who {
        Who::Null => vec![null::node()],
        Who::Ours | Who::C => (0..names).map(|index| Node::new('n', index)).collect(),
    };
    let _registered = match who {
        Who::Null => Vec::new(),
        Who::Ours | Who::C => register(server.address, &nodes, interrupt).with_context(|| who.to_string())?,
    };
    let (exchanges, pace) = match load {
        Load::LookUps(pace) => (look_ups(&nodes), pace),
        Load::Registrations | Load::OwnedRegistrations => (registrations(), Pace::AsFastAsPossible),
    };
    let warm_up = load::run(server.address, &exchanges, pace, duration / 10, interrupt)?;
    let generator = Threads::own()?;
    let before = (at_rest(&server)?, generator.usage()?);
    let mut outcome = load::run(server.address, &exchanges, pace, duration, interrupt)?;
    let generator = generator.usage()? - before.1;
    let server = at_rest(&server)? - before.0;
    for (cause, count) in warm_up.failures {
        *outcome.failures.entry(cause).or_default() += count;
    }
    Ok(sample(outcome, server, generator))
}

/// The server's usage so far, read once it is at rest.
fn at_rest(server: &Server) -> Result<Usage> {
    thread::sleep(SETTLE_TIME);
    server.threads.usage()
}

fn sample(outcome: Outcome, server: Usage, generator: Usage) -> Sample {
    let Outcome { latencies, elapsed, failures } = outcome;
    let percentile = |share: usize| {
        let at = (latencies.len() * share).div_ceil(100).saturating_sub(1);
        latencies.get(at).map_or(f64::NAN, |latency| microseconds(*latency))
    };
    Sample {
        cpu: microseconds(server.on_cpu) / latencies.len() as f64,
        rate: latencies.len() as f64 / elapsed.as_secs_f64(),
        p50: percentile(50),
        p99: percentile(99),
        generator_busy: generator.on_cpu.div_duration_f64(elapsed),
        disturbed: generator.waiting.max(server.waiting).div_duration_f64(elapsed),
        exchanges: latencies.len(),
        failures,
    }
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Registers nodes, one after the other. They stay registered as long as the returned connections are kept.
fn register(server: SocketAddrV4, nodes: &[Node], interrupt: &Interrupt) -> Result<Vec<TcpStream>> {
    let register = |(number, node): (usize, &Node)| {
        interrupt.check()?;
        let mut stream = load::connect_from(number, server, SocketFlags::empty())?;
        stream.set_read_timeout(Some(REGISTRATION))?;
        stream.write_all(&node.registration())?;
        let mut reply = [0; wire::GRANTED_LENGTH];
        stream.read_exact(&mut reply)?;
        ensure!(wire::is_granted(&reply), "refused: {reply:?}");
        Ok(stream)
    };
    nodes
        .iter()
        .enumerate()
        .map(|(number, node)| register((number, node)).with_context(|| format!("registration {} failed", number + 1)))
        .collect()
}

/// One lookup of each node, not in the order of registration, which might favour one kind of table.
fn look_ups(nodes: &[Node]) -> Vec<Exchange> {
    /// A prime that divides no number of names, so that every name has its turn.
    const STRIDE: usize = 7919;
    let order = (0..nodes.len()).map(|index| index * STRIDE % nodes.len());
    order
        .map(|index| Exchange { request: nodes[index].look_up(), expected: Expected::ThenClosed(nodes[index].found()) })
        .collect()
}

fn registrations() -> Vec<Exchange> {
    (0..COMING_AND_GOING)
        .map(|index| Exchange { request: Node::new('r', index).registration(), expected: Expected::Granted })
        .collect()
}
