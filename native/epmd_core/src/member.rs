//! One process among those of a host that can serve the port: it serves, or joins whoever does, and changes over.
//!
//! Whoever binds the port serves it. The others register their node there, over a link that is kept; when the link
//! ends, however it ends, each tries to bind at once and joins the winner otherwise. Nothing is copied between them:
//! the table of the new owner fills with the registrations that arrive.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::{mpsc as std_mpsc, Arc};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, Notify};
use tokio::time::{sleep, Instant};

use crate::access::Policy;
use crate::address::{Listeners, OpenError};
use crate::client::{self, Link};
use crate::node::Node;
use crate::registry::{Entry, Holder, Registration, Registry};
use crate::server::{self, Limits, Rules};

/// How often a member that has joined makes sure that the owner answers.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long a start may look for the port or its owner, while another owner comes and goes.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// The pauses between attempts to bind or join.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A name that no node has, asked for when there is no node of our own.
const NOBODY: &str = "embedded_epmd";

/// What a member is started with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where to listen; nothing means everywhere.
    pub addresses: Vec<IpAddr>,
    /// The port. With 0 the system chooses one, and nobody else can find it.
    pub port: u16,
    /// Who may ask what.
    pub policy: Policy,
    /// How much of the process the server may use.
    pub limits: Limits,
}

/// What a member does at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It looks for the port or its owner.
    Searching,
    /// It owns the port.
    Serving,
    /// It is registered with the owner.
    Joined,
}

/// A member's state, for people and for the VM's own look-ups.
#[derive(Clone, Debug)]
pub struct Status {
    /// The role.
    pub role: Role,
    /// Since when.
    pub since: SystemTime,
    /// How often the role changed.
    pub changes: u64,
    /// The owner that was joined, and whether it answers.
    pub owner: Option<SocketAddr>,
    /// False while the owner keeps its port and answers nobody.
    pub owner_answers: bool,
    /// The addresses that are served.
    pub addresses: Vec<IpAddr>,
    /// The port.
    pub port: u16,
}

/// Why a member cannot start.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be listened on.
    Open(OpenError),
    /// The port is held by something that is not an EPMD, or by one that does not answer.
    Held {
        /// Where it was asked.
        address: SocketAddr,
        /// What it answered.
        error: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Held { address, error } => {
                write!(f, "{address} is in use by something that does not answer as an EPMD: {error}")
            }
        }
    }
}

/// Why the host's node is not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// Another node of that name is registered.
    DuplicateName,
    /// Nobody answered in time; the member goes on trying.
    Timeout,
    /// The member has stopped.
    Stopped,
}

/// A handle to a running member.
#[derive(Clone, Debug)]
pub struct Handle {
    registry: Registry,
    status: Arc<Mutex<Status>>,
    rules: Arc<RwLock<Rules>>,
    commands: mpsc::UnboundedSender<Command>,
    stop: Arc<Notify>,
}

/// A process among those that can serve the port.
#[derive(Debug)]
pub struct Member {
    settings: Settings,
    handle: Handle,
    commands: mpsc::UnboundedReceiver<Command>,
    place: Option<Place>,
    local: Option<Local>,
    /// The last complaint about the port, so that it is made once.
    complaint: Option<String>,
}

#[derive(Debug)]
enum Command {
    Register { node: Node, creation: Option<u32>, reply: std_mpsc::SyncSender<Result<u32, RegisterError>> },
    Unregister,
}

/// Where the table of the host's nodes is kept.
#[derive(Debug)]
enum Place {
    Here(Listeners),
    At(SocketAddr),
}

/// The host's own node.
#[derive(Debug)]
struct Local {
    node: Node,
    /// What it booted with, once it is registered: it cannot change it.
    creation: Option<u32>,
    /// Who waits to hear of the first registration.
    reply: Option<std_mpsc::SyncSender<Result<u32, RegisterError>>>,
    /// The refusal of its name was told.
    refused: bool,
}

impl Local {
    fn registered(&mut self, creation: u32) {
        let creation = *self.creation.get_or_insert(creation);
        self.refused = false;
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Ok(creation));
        }
    }
}

impl Handle {
    /// Registers the host's node wherever the table is, and waits for the answer: at most `patience`.
    ///
    /// It stays registered until [`Handle::unregister`], through every change of owner. A node that is registered
    /// again brings the creation that it booted with.
    pub fn register(&self, node: Node, creation: Option<u32>, patience: Duration) -> Result<u32, RegisterError> {
        let (reply, answer) = std_mpsc::sync_channel(1);
        self.commands.send(Command::Register { node, creation, reply }).map_err(|_| RegisterError::Stopped)?;
        answer.recv_timeout(patience).unwrap_or_else(|error| match error {
            std_mpsc::RecvTimeoutError::Timeout => Err(RegisterError::Timeout),
            std_mpsc::RecvTimeoutError::Disconnected => Err(RegisterError::Stopped),
        })
    }

    /// Ends the registration of the host's node. Does not wait.
    pub fn unregister(&self) {
        let _ = self.commands.send(Command::Unregister);
    }

    /// Ends the member. Does not wait.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// Whether the member has ended.
    pub fn is_stopped(&self) -> bool {
        self.commands.is_closed()
    }

    /// The member's state.
    pub fn status(&self) -> Status {
        self.status.lock().clone()
    }

    /// Looks a name up in memory, as if dialled at `address`; `None` if that is not this member's to answer.
    pub fn find(&self, address: IpAddr, name: &str) -> Option<Option<Arc<Entry>>> {
        let status = self.status.lock();
        let is_ours = |bound: &IpAddr| {
            *bound == address
                || (bound.is_unspecified() && bound.is_ipv4() == address.is_ipv4() && address.is_loopback())
        };
        (status.role == Role::Serving && status.addresses.iter().any(is_ours))
            .then(|| self.registry.find(name.as_bytes()))
    }

    /// The registered nodes, the newest first, if the table is kept here.
    pub fn entries(&self) -> Option<Vec<Arc<Entry>>> {
        (self.status.lock().role == Role::Serving).then(|| self.registry.entries())
    }

    /// Changes what can be changed while the member runs; connections that wait keep their deadline.
    pub fn configure(&self, policy: Policy, limits: Limits) {
        *self.rules.write() = Rules { policy, limits };
    }
}

impl Member {
    /// Binds the port or finds its owner.
    pub async fn start(settings: Settings) -> Result<(Self, Handle), StartError> {
        let (sender, commands) = mpsc::unbounded_channel();
        let rules = Rules { policy: settings.policy.clone(), limits: settings.limits.clone() };
        let status = Status {
            role: Role::Searching,
            since: SystemTime::now(),
            changes: 0,
            owner: None,
            owner_answers: true,
            addresses: Vec::new(),
            port: settings.port,
        };
        let handle = Handle {
            registry: Registry::default(),
            status: Arc::new(Mutex::new(status)),
            rules: Arc::new(RwLock::new(rules)),
            commands: sender,
            stop: Arc::new(Notify::new()),
        };
        let mut member = Self { settings, handle: handle.clone(), commands, place: None, local: None, complaint: None };
        let deadline = Instant::now() + START_PATIENCE;
        let mut pauses = Pauses::default();
        let place = loop {
            match member.find_place().await {
                Ok(place) => break place,
                // Between the end of one owner and the start of the next, there is nobody to answer.
                Err(StartError::Held { error, .. }) if passes(&error) && Instant::now() < deadline => {
                    sleep(pauses.next()).await;
                }
                Err(error) => return Err(error),
            }
        };
        member.enter(&place);
        member.place = Some(place);
        Ok((member, handle))
    }

    /// Serves or joins until [`Handle::stop`] is called, or until the server fails for a reason of its own.
    pub async fn run(mut self) -> io::Result<()> {
        let stop = Arc::clone(&self.handle.stop);
        tokio::select! {
            () = stop.notified() => Ok(()),
            ended = self.live() => ended,
        }
    }

    async fn live(&mut self) -> io::Result<()> {
        loop {
            match self.place.take() {
                Some(Place::Here(listeners)) => return self.serve(listeners).await,
                Some(Place::At(owner)) => self.join(owner).await,
                None => self.search().await,
            }
        }
    }

    async fn serve(&mut self, listeners: Listeners) -> io::Result<()> {
        let registry = self.handle.registry.clone();
        let serving = server::serve_with(listeners, registry.clone(), Arc::clone(&self.handle.rules));
        tokio::pin!(serving);
        let mut _registration = self.register_here(&registry);
        loop {
            tokio::select! {
                ended = &mut serving => return ended,
                command = next(&mut self.commands) => {
                    _registration = None;
                    self.obey(command);
                    _registration = self.register_here(&registry);
                }
            }
        }
    }

    fn register_here(&mut self, registry: &Registry) -> Option<Registration> {
        let local = self.local.as_mut()?;
        let granted = match local.creation {
            Some(creation) => registry.restore(&local.node, Holder::Host, creation),
            None => registry.register(&local.node, Holder::Host),
        };
        match granted {
            Ok(registration) => {
                local.registered(registration.creation());
                Some(registration)
            }
            Err(_) => {
                self.refused();
                None
            }
        }
    }

    /// Stays with an owner until there is a reason to look for the port again.
    async fn join(&mut self, owner: SocketAddr) {
        let mut link: Option<Link> = None;
        let mut ask_at = Instant::now() + ASK_EVERY;
        let mut pauses = Pauses::default();
        loop {
            if link.is_none() {
                if let Some(local) = &mut self.local {
                    match client::register(owner, &local.node).await {
                        Ok(Some((granted, creation))) => {
                            local.registered(creation);
                            link = Some(granted);
                        }
                        Ok(None) => self.refused(),
                        Err(error) => return self.lost(owner, &error).await,
                    }
                }
            }
            let unlinked = link.is_none() && self.local.is_some();
            tokio::select! {
                () = ended(link.as_ref()) => return self.leave(owner),
                command = next(&mut self.commands) => {
                    link = None;
                    self.obey(command);
                }
                () = sleep(pauses.next()), if unlinked => {}
                () = tokio::time::sleep_until(ask_at) => {
                    let name = self.local.as_ref().map_or(NOBODY, |local| local.node.name.as_str());
                    match client::is_registered(owner, name).await {
                        Ok(found) => {
                            self.owner_answers(owner, true);
                            // It lost us without ending the link: the link is worth nothing.
                            if !found && link.is_some() { link = None; }
                        }
                        Err(error) if error.kind() == ErrorKind::TimedOut => self.owner_answers(owner, false),
                        Err(_) => return self.leave(owner),
                    }
                    ask_at = Instant::now() + ASK_EVERY;
                }
            }
        }
    }

    /// Tries to bind, and to find the owner where that fails, until one of them succeeds.
    async fn search(&mut self) {
        let mut pauses = Pauses::default();
        loop {
            match self.find_place().await {
                Ok(place) => {
                    self.enter(&place);
                    self.place = Some(place);
                    return;
                }
                Err(StartError::Held { error, .. }) if passes(&error) => {}
                Err(error) => self.complain(&error),
            }
            tokio::select! {
                () = sleep(pauses.next()) => {}
                command = next(&mut self.commands) => self.obey(command),
            }
        }
    }

    async fn find_place(&self) -> Result<Place, StartError> {
        match Listeners::open(&self.settings.addresses, self.settings.port) {
            Ok(listeners) => Ok(Place::Here(listeners)),
            Err(error) if error.is_taken() => {
                let owner = error.holder();
                match client::is_registered(owner, NOBODY).await {
                    Ok(_) => Ok(Place::At(owner)),
                    Err(error) => Err(StartError::Held { address: owner, error }),
                }
            }
            Err(error) => Err(StartError::Open(error)),
        }
    }

    fn obey(&mut self, command: Command) {
        self.local = match command {
            Command::Register { node, creation, reply } => {
                Some(Local { node, creation, reply: Some(reply), refused: false })
            }
            Command::Unregister => None,
        };
    }

    /// The local node's name is somebody else's: who waits for the answer gets it, else it is told once.
    fn refused(&mut self) {
        let Some(local) = &mut self.local else { return };
        if let Some(reply) = local.reply.take() {
            let _ = reply.send(Err(RegisterError::DuplicateName));
            self.local = None;
        } else if !local.refused {
            local.refused = true;
            tracing::error!(name = ?local.node.name, "this node's name is registered by another node");
        }
    }

    async fn lost(&mut self, owner: SocketAddr, error: &io::Error) {
        self.leave(owner);
        if !passes(error) {
            self.complain(&StartError::Held { address: owner, error: io::Error::from(error.kind()) });
            sleep(LONGEST_PAUSE).await;
        }
    }

    fn leave(&mut self, owner: SocketAddr) {
        tracing::info!(%owner, "the link to the owner of the port ended");
        self.change(|status| {
            status.role = Role::Searching;
            status.owner = None;
            status.owner_answers = true;
        });
    }

    fn enter(&mut self, place: &Place) {
        self.complaint = None;
        match place {
            Place::Here(listeners) => {
                let (addresses, port) = (listeners.addresses(), listeners.port);
                tracing::info!(port, ?addresses, "serving the port");
                self.change(|status| {
                    status.role = Role::Serving;
                    status.addresses = addresses;
                    status.port = port;
                });
            }
            Place::At(owner) => {
                tracing::info!(%owner, "joined the owner of the port");
                self.change(|status| {
                    status.role = Role::Joined;
                    status.owner = Some(*owner);
                });
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.handle.status.lock();
        change(&mut status);
        status.since = SystemTime::now();
        status.changes += 1;
    }

    fn owner_answers(&self, owner: SocketAddr, answers: bool) {
        let mut status = self.handle.status.lock();
        if std::mem::replace(&mut status.owner_answers, answers) != answers {
            if answers {
                tracing::info!(%owner, "the owner of the port answers again");
            } else {
                tracing::error!(%owner, "the owner of the port does not answer; new nodes of this host cannot be found");
            }
        }
    }

    fn complain(&mut self, error: &StartError) {
        let complaint = error.to_string();
        if self.complaint.as_ref() != Some(&complaint) {
            tracing::error!("{complaint}; trying again");
            self.complaint = Some(complaint);
        }
    }
}

/// The next command. The member's own handle keeps the channel open.
async fn next(commands: &mut mpsc::UnboundedReceiver<Command>) -> Command {
    match commands.recv().await {
        Some(command) => command,
        None => std::future::pending().await,
    }
}

async fn ended(link: Option<&Link>) {
    match link {
        Some(link) => link.ended().await,
        None => std::future::pending().await,
    }
}

/// Whether an error says that an owner is just going or coming.
fn passes(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionRefused | ConnectionReset | UnexpectedEof)
}

/// Pauses that double up to a second, each shortened by chance so that members do not march in step.
#[derive(Debug)]
struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause.mul_f64(0.5 + chance() / 2.0)
    }
}

/// A number from 0 to 1; the seed of the standard library's hash maps is chance enough for a pause.
fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
