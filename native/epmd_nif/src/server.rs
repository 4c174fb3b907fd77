//! The resource that owns the native server: one thread, its runtime, and the handle to the member.

use std::net::IpAddr;
use std::panic::{catch_unwind, AssertUnwindSafe, RefUnwindSafe};
use std::sync::{mpsc, Arc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, UNIX_EPOCH};

use epmd_core::registry::{Past, Tombstone};
use epmd_core::{Answer, Handle, Health, Journal, Member, Node, NodeName, RegisterError, Settings};
use parking_lot::Mutex;
use rustler::{Atom, Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, Term};

use crate::atoms;
use crate::config::Config;
use crate::error::Error;
use crate::events::{Batch, Events};
use crate::terms::{KeepsAtom, RoleAtom, TableAtom, Verbosity};

/// How long a registration or a change of addresses may take. OTP's `erl_epmd` waits as long for an EPMD's reply.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    handle: Handle,
    events: Events,
    /// `None` once the thread has been joined.
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The server ends with this process, which lives as long as the VM is a node.
    keeper: LocalPid,
    /// The local node. Its registration ends with this process, its `net_kernel`.
    registrant: Mutex<Option<(LocalPid, NodeName)>>,
}

/// Each lock guards a single value that is replaced as a whole, so that a panic leaves no half-written state.
impl RefUnwindSafe for Server {}

#[rustler::resource_impl]
impl Resource for Server {
    /// Runs on a scheduler thread, so it only tells the native thread to end.
    fn destructor(self, _env: Env<'_>) {
        self.handle.stop();
    }

    fn down<'a>(&'a self, _env: Env<'a>, pid: LocalPid, _monitor: Monitor) {
        let mut registrant = self.registrant.lock();
        if registrant.as_ref().is_some_and(|(registrant, _)| *registrant == pid) {
            *registrant = None;
            self.handle.unregister();
        }
        if pid == self.keeper {
            self.handle.stop();
        }
    }
}

/// Starts the thread, and waits until it serves the port or has joined its owner.
#[rustler::nif(schedule = "DirtyIo")]
fn start(env: Env<'_>, config: Config, keeper: LocalPid) -> Result<ResourceArc<Server>, Error> {
    let events = Events::default();
    events.limit(config.log_level);
    let asked = events.clone();
    let settings = Settings {
        journal: Journal::observed_by(events.observer()),
        health: Health::asking(Arc::new(move || asked.probe())),
        ..config.settings(config.service_manager()?)?
    };
    let (started, start) = mpsc::sync_channel(1);
    let thread = {
        let events = events.clone();
        let name = thread::Builder::new().name("epmd".into());
        let run = move || tracing::subscriber::with_default(events.clone(), || run(settings, &started, &events));
        name.spawn(run).map_err(|error| Error::Thread(error.to_string()))?
    };
    let handle = match start.recv() {
        Ok(result) => result?,
        Err(mpsc::RecvError) => return Err(Error::Thread("it ended before it began".into())),
    };
    let server = ResourceArc::new(Server {
        handle,
        events,
        thread: Mutex::new(Some(thread)),
        keeper,
        registrant: Mutex::default(),
    });
    if env.monitor(&server, &keeper).is_none() {
        server.handle.stop();
    }
    Ok(server)
}

/// The body of the thread.
fn run(settings: Settings, started: &mpsc::SyncSender<Result<Handle, Error>>, events: &Events) {
    let life = || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return Err(error.to_string()).inspect_err(|text| fail(started, Error::Thread(text.clone()))),
        };
        runtime.block_on(async {
            match Member::start(settings).await {
                Ok((member, handle)) => {
                    let _ = started.send(Ok(handle));
                    member.run().await.map_err(|error| error.to_string())
                }
                Err(error) => {
                    fail(started, error.into());
                    Ok(())
                }
            }
        })
    };
    match catch_unwind(AssertUnwindSafe(life)) {
        Ok(Ok(())) => events.ended(atoms::stopped()),
        Ok(Err(reason)) => events.ended(reason),
        Err(_) => events.ended(atoms::panicked()),
    }
}

fn fail(started: &mpsc::SyncSender<Result<Handle, Error>>, error: Error) {
    let _ = started.send(Err(error));
}

/// Ends the server and joins its thread. When this returns, the port is free or another process serves it, unless the
/// VM ends and the service manager keeps the port for its next run.
#[rustler::nif(schedule = "DirtyIo")]
fn stop(server: ResourceArc<Server>, vm_ends: bool) -> Atom {
    if vm_ends {
        server.handle.stop_with_process();
    } else {
        server.handle.stop();
    }
    // The lock is held while joining, so that a second caller waits as well.
    let mut thread = server.thread.lock();
    if let Some(thread) = thread.take() {
        let _ = thread.join();
    }
    rustler::types::atom::ok()
}

/// Registers the local node until `registrant` dies, and waits for the answer. Only one node can be registered at a
/// time.
#[rustler::nif(schedule = "DirtyIo")]
fn register(
    env: Env<'_>,
    server: ResourceArc<Server>,
    name: String,
    port: u16,
    (highest_version, lowest_version): (u16, u16),
    creation: Option<u32>,
    registrant: LocalPid,
) -> Result<u32, Error> {
    let name = NodeName::new(name.as_bytes())
        .map_err(|reason| Error::Setting(format!("the node's name {name:?} cannot be registered: {reason}")))?;
    let node = Node { highest_version, lowest_version, ..Node::erlang(name.clone(), port) };
    let registered = server.handle.register(node, creation, PATIENCE);
    // For a node that runs already, the member goes on trying. A node that boots gives up.
    let goes_on = creation.is_some() && matches!(registered, Err(RegisterError::Timeout));
    match registered {
        Err(RegisterError::Timeout) if !goes_on => server.handle.unregister(),
        Err(_) if !goes_on => {}
        _ => {
            *server.registrant.lock() = Some((registrant, name));
            if env.monitor(&server, &registrant).is_none() {
                server.handle.unregister();
                return Err(RegisterError::Stopped.into());
            }
        }
    }
    Ok(registered?)
}

/// Looks a name up as a server at `ip` would: `{:port, port, highest, lowest, user}`, `:noport`, `:unsettled` while the
/// port changes owners, `:owner` when the owner of the port must be asked, `:elsewhere` when this server does not serve
/// `ip`, or `:stopped` when it has ended.
#[rustler::nif]
fn lookup<'a>(env: Env<'a>, server: ResourceArc<Server>, ip: Term<'a>, name: &str) -> Result<Term<'a>, rustler::Error> {
    Ok(match server.handle.find(decode_ip(ip)?, name) {
        Answer::Stopped => atoms::stopped().encode(env),
        Answer::Elsewhere => atoms::elsewhere().encode(env),
        Answer::AskOwner => atoms::owner().encode(env),
        Answer::Unsettled => atoms::unsettled().encode(env),
        Answer::NotFound => atoms::noport().encode(env),
        Answer::Found(entry) => {
            let (highest, lowest) = entry.reply().versions();
            (atoms::port(), entry.port(), highest, lowest, entry.user()).encode(env)
        }
    })
}

/// The role at an address, or `:elsewhere` when it is not one that this server serves or would serve.
#[rustler::nif]
fn place<'a>(env: Env<'a>, server: ResourceArc<Server>, ip: Term<'a>) -> Result<Term<'a>, rustler::Error> {
    let role = server.handle.place_of(decode_ip(ip)?);
    Ok(role.map_or(atoms::elsewhere().encode(env), |role| RoleAtom::from(role).encode(env)))
}

fn decode_ip(term: Term<'_>) -> Result<IpAddr, rustler::Error> {
    if let Ok((a, b, c, d)) = term.decode::<(u8, u8, u8, u8)>() {
        return Ok(IpAddr::from([a, b, c, d]));
    }
    let words = rustler::types::tuple::get_tuple(term)?;
    let words: Vec<u16> = words.into_iter().map(|word| word.decode()).collect::<Result<_, _>>()?;
    let words: [u16; 8] = words.try_into().map_err(|_| rustler::Error::BadArg)?;
    Ok(IpAddr::from(words))
}

/// The registered nodes, `{name, port, user}`, the newest first, or `:elsewhere` when neither the table nor a copy of it
/// is here.
#[rustler::nif(schedule = "DirtyCpu")]
fn names(env: Env<'_>, server: ResourceArc<Server>) -> Term<'_> {
    match server.handle.entries() {
        None => atoms::elsewhere().encode(env),
        Some(entries) => {
            let node = |entry: &std::sync::Arc<epmd_core::registry::Entry>| {
                (String::from_utf8_lossy(entry.name()).into_owned(), entry.port(), entry.user())
            };
            entries.iter().map(node).collect::<Vec<_>>().encode(env)
        }
    }
}

/// A name that left, its port, when it was registered and when it left, how often in a row that was right after it had
/// registered, and since when.
type DepartedTuple = (String, u16, u64, u64, u32, u64);

/// The names that left, the last to leave first, or `:elsewhere` if the table is not here. Times are in milliseconds
/// since 1970.
#[rustler::nif(schedule = "DirtyCpu")]
fn departed(env: Env<'_>, server: ResourceArc<Server>) -> Term<'_> {
    let Some(departed) = server.handle.departed() else { return atoms::elsewhere().encode(env) };
    let node = |left: &Tombstone| -> DepartedTuple {
        let Past { registered, left: at, series } = left.past;
        (String::from_utf8_lossy(&left.name).into_owned(), left.port, registered, at, series.times, series.since)
    };
    departed.iter().rev().map(node).collect::<Vec<_>>().encode(env)
}

/// Logs from this level on, until the level is set again here or by `configure`.
#[rustler::nif]
fn log_from(server: ResourceArc<Server>, level: Verbosity) -> Atom {
    server.events.limit(level);
    rustler::types::atom::ok()
}

/// Makes `pid` the process that is sent a message when there is something to take. Take once at first: what came before
/// waits.
#[rustler::nif]
fn claim(server: ResourceArc<Server>, pid: LocalPid) -> Result<Atom, Error> {
    server.events.claim(pid);
    server.handle.health().ask_anew();
    if server.handle.is_stopped() {
        return Err(RegisterError::Stopped.into());
    }
    Ok(rustler::types::atom::ok())
}

/// The process that claimed the server answers a probe.
#[rustler::nif]
fn answer_probe(server: ResourceArc<Server>) -> Atom {
    server.handle.health().answer();
    rustler::types::atom::ok()
}

/// The application is ready, or is not any more.
#[rustler::nif]
fn put_ready(server: ResourceArc<Server>, is_ready: bool) -> Atom {
    server.handle.health().set_ready(is_ready);
    rustler::types::atom::ok()
}

/// How many nodes the VM's cluster expects, and how many of these are connected.
#[rustler::nif]
fn put_cluster(server: ResourceArc<Server>, expected: u32, connected: u32) -> Atom {
    server.handle.health().set_cluster(expected, connected);
    rustler::types::atom::ok()
}

/// Takes the log entries and changes that wait: `{entries, changes, lost_changes, again}`. If `again` is true, take
/// again after a second: no message is sent for that.
#[rustler::nif(schedule = "DirtyCpu")]
fn take(server: ResourceArc<Server>) -> Batch {
    server.events.take()
}

/// Starts or stops keeping changes for `take`.
#[rustler::nif]
fn follow(server: ResourceArc<Server>, followed: bool) -> Atom {
    server.events.follow(followed);
    rustler::types::atom::ok()
}

/// Name, port, creation and user.
type NodeTuple = (String, u16, u32, Option<u32>);

/// The current state, to which later changes are to be added: `{number, role, [{name, port, creation, user}]}`.
#[rustler::nif(schedule = "DirtyCpu")]
fn snapshot(server: ResourceArc<Server>) -> (u64, RoleAtom, Vec<NodeTuple>) {
    let snapshot = server.handle.snapshot();
    let nodes = snapshot.nodes.iter().map(|entry| {
        (String::from_utf8_lossy(entry.name()).into_owned(), entry.port(), entry.creation(), entry.user())
    });
    (snapshot.number, snapshot.role.into(), nodes.collect())
}

/// Changes the settings of a running server, as far as they can be changed.
#[rustler::nif(schedule = "DirtyIo")]
fn configure(server: ResourceArc<Server>, config: Config) -> Result<Atom, Error> {
    let Settings { addresses, policy, limits, hand_over, .. } = config.settings(server.handle.service_manager())?;
    let (policy, hand_over) = server.handle.identify(policy, hand_over);
    if let Some((_, name)) = &*server.registrant.lock() {
        policy.reserved_names.admit_own_user(name).map_err(Error::Setting)?;
    }
    server.handle.listen_on(addresses, PATIENCE)?;
    server.handle.configure(policy, limits, hand_over);
    server.events.limit(config.log_level);
    Ok(rustler::types::atom::ok())
}

/// The numbers of the descriptors that the service manager passed to this process for an EPMD.
#[rustler::nif]
fn passed(server: ResourceArc<Server>) -> Vec<i32> {
    server.handle.service_manager().ours().to_vec()
}

/// Names the VM's node to other members where it registers over TCP. A name that is none is as good as none.
#[rustler::nif]
fn name_node(server: ResourceArc<Server>, name: Option<String>) -> Atom {
    server.handle.name_node(name.and_then(|name| NodeName::new(name.as_bytes()).ok()));
    rustler::types::atom::ok()
}

#[derive(rustler::NifMap)]
struct StatusMap {
    role: RoleAtom,
    since: u64,
    changes: u64,
    owner: Option<String>,
    owner_answers: bool,
    addresses: Vec<String>,
    port: u16,
    standbys: Vec<StandbyMap>,
    stands_by: bool,
    obstacle: Option<String>,
    table: TableAtom,
    socket_activated: bool,
    descriptor_store: KeepsAtom,
}

#[derive(rustler::NifMap)]
struct StandbyMap {
    name: Option<String>,
    pid: Option<i32>,
}

/// The server's state.
#[rustler::nif]
fn status(server: ResourceArc<Server>) -> StatusMap {
    let status = server.handle.status();
    StatusMap {
        role: match status.role {
            _ if server.handle.is_stopped() => RoleAtom::Stopped,
            role => role.into(),
        },
        since: status.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        changes: status.changes,
        owner: status.owner.map(|owner| owner.to_string()),
        owner_answers: status.owner_answers,
        addresses: status.addresses.iter().map(ToString::to_string).collect(),
        port: status.port,
        standbys: status
            .standbys
            .into_iter()
            .map(|standby| StandbyMap { name: standby.node.map(|name| name.as_str().into()), pid: standby.pid })
            .collect(),
        stands_by: status.stands_by,
        obstacle: status.obstacle,
        table: status.table.into(),
        socket_activated: status.lent,
        descriptor_store: status.kept.into(),
    }
}

#[derive(rustler::NifMap)]
struct MetricsMap {
    accepted: u64,
    waiting: usize,
    registered: usize,
    evicted: u64,
    found: u64,
    not_found: u64,
    granted: u64,
    refused: u64,
    names_requests: u64,
    dump: u64,
    kill: u64,
    stop: u64,
    probes: u64,
    not_permitted: u64,
    malformed: u64,
    names: usize,
    uptime: u64,
}

/// Counters of requests and their outcomes, and of open connections.
#[rustler::nif]
fn metrics(server: ResourceArc<Server>) -> MetricsMap {
    let (handle, metrics) = (&server.handle, server.handle.metrics());
    let open = handle.open_connections();
    MetricsMap {
        accepted: metrics.accepted.get(),
        waiting: open.waiting,
        registered: open.registered,
        evicted: metrics.evicted.get(),
        found: metrics.found.get(),
        not_found: metrics.not_found.get(),
        granted: metrics.granted.get(),
        refused: metrics.refused.get(),
        names_requests: metrics.names.get(),
        dump: metrics.dump.get(),
        kill: metrics.kill.get(),
        stop: metrics.stop.get(),
        probes: metrics.probes.get(),
        not_permitted: metrics.not_permitted.get(),
        malformed: metrics.malformed.get(),
        names: handle.names(),
        uptime: handle.uptime().as_millis() as u64,
    }
}
