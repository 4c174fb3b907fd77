//! Members, each on a thread of its own. To kill one is to drop its runtime: its descriptors are closed without a word.

use std::fmt::{self, Write};
use std::net::IpAddr;
use std::sync::{mpsc, Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use epmd_core::{
    HandOver, Handle, Health, Journal, Limits, Member, Node, NodeName, Policy, RegisterError, Role, ServiceManager,
    Settings,
};
use tracing::field::{Field, Visit};
use tracing::{span, Event, Level, Metadata, Subscriber};

use epmd_tools::client::{eventually, PATIENCE};

pub struct Running {
    pub handle: Handle,
    pub log: Log,
    kill: mpsc::SyncSender<()>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Running {
    pub fn start(settings: Settings) -> Self {
        Self::try_start(settings).expect("it starts")
    }

    /// Starts a member in the network namespace of this thread.
    pub fn try_start(settings: Settings) -> Result<Self, String> {
        let (started, start) = mpsc::sync_channel(1);
        let (kill, killed) = mpsc::sync_channel::<()>(1);
        let log = Log::default();
        let subscriber = log.clone();
        let live = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let member = match Member::start(settings).await {
                    Ok((member, handle)) => {
                        started.send(Ok(handle)).expect("the test waits");
                        member
                    }
                    Err(error) => {
                        started.send(Err(error.to_string())).expect("the test waits");
                        return Err(error.to_string());
                    }
                };
                let dead = tokio::task::spawn_blocking(move || killed.recv());
                tokio::select! {
                    ended = member.run() => ended.map_err(|error| error.to_string()),
                    _ = dead => Err("killed".into()),
                }
            })
        };
        let thread = thread::spawn(move || tracing::subscriber::with_default(subscriber, live));
        let handle = start.recv_timeout(PATIENCE).expect("it starts or says why not")?;
        Ok(Self { handle, log, kill, thread: Some(thread) })
    }

    pub fn register(&self, name: &str, port: u16) -> Result<u32, RegisterError> {
        let node = Node::erlang(NodeName::new(name.as_bytes()).expect("a name"), port);
        self.handle.register(node, None, PATIENCE)
    }

    pub fn joins(&self) {
        eventually("the member has joined", || self.handle.status().role == Role::Joined);
    }

    pub fn stands_by_for(&self, owner: &Self) {
        eventually("the member stands by", || {
            self.handle.status().stands_by && !owner.handle.status().standbys.is_empty()
        });
    }

    pub fn serves(&self) {
        eventually("the member serves", || self.handle.status().role == Role::Serving);
    }

    pub fn kill(mut self) {
        self.end();
    }

    /// Stops the member in order.
    pub fn stop(mut self) {
        self.handle.stop();
        eventually("the member has stopped", || self.handle.is_stopped());
        self.end();
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.kill.send(());
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("a member's log:{}", self.log.whole());
        }
        self.end();
    }
}

pub fn settings(addresses: &[IpAddr], port: u16) -> Settings {
    Settings {
        addresses: addresses.to_vec(),
        port,
        inet6: false,
        policy: Policy { relaxed: true, ..Policy::default() },
        limits: Limits::default(),
        hand_over: HandOver::default(),
        service_manager: ServiceManager::default(),
        journal: Journal::default(),
        health: Health::default(),
    }
}

/// The log of a member, from level debug on.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<(SystemTime, Level, String)>>>);

impl Log {
    /// The lines from level info on that contain a text.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = lines.iter().filter(|(_, level, _)| *level <= Level::INFO).map(|(.., line)| line);
        told.filter(|line| line.contains(text)).cloned().collect()
    }

    fn whole(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut whole = String::new();
        for (time, _, line) in lines.iter() {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let _ = write!(whole, "\n{:.4} {line}", since.as_secs_f64() % 1_000.0);
        }
        whole
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        let entry = (SystemTime::now(), *event.metadata().level(), line.0);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

/// Runs something, and measures how long it takes.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = std::time::Instant::now();
    (work(), began.elapsed())
}
