//! One process among those of a host that can serve the port: it serves, or joins whoever does, and changes over.
//!
//! Whoever binds the port serves it. The others register their node there, over a link that is kept; when the link
//! ends, however it ends, each tries to bind at once and joins the winner otherwise. The table of the new owner fills
//! with the registrations that arrive.
//!
//! One of those that have joined stands by ([`crate::hand_over`]): it has a copy of the table and of the connections,
//! so that no link ends with the owner. Then nobody but the standby notices, and it serves.

mod change_over;
mod client;

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{mpsc as std_mpsc, Arc};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::{mpsc, watch, Notify};
use tokio::time::{sleep, Instant};

use crate::address::{self, Listeners, OpenError};
use crate::figures::Figures;
use crate::hand_over::{self, Inheritance, Offer, Passing, Place, Standby};
use crate::journal::{Change, Journal};
use crate::limits::Limits;
use crate::node::{Node, NodeName};
use crate::pauses::Pauses;
use crate::registry::replica::Heirs;
use crate::registry::{Contents, Entry, Holder, NameTaken, Registration, Registry};
use crate::role::Role;
use crate::server::{Connections, Open, Policy, Rules, Server};
use change_over::{Event, State};
use client::{Joined, Link};

/// How often a member that has joined makes sure that the owner answers.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long a start may look for the port or its owner, while another owner comes and goes.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// The longest pause between attempts to bind or join.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A link that ends sooner is no reason to bind at once again: its owner may end every link.
const LASTING: Duration = Duration::from_secs(1);
/// How long the table of a new owner may take to fill with the nodes that were registered with the last one.
const SETTLING: Duration = Duration::from_millis(500);
/// How often a new owner tries to get what the last one may still be letting go of.
const TRIES_FOR_THE_REST: u32 = 5;
/// A name that no node has, asked for when there is no node of our own.
const NOBODY: &str = "embedded_epmd";

/// What a member is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen; nothing means everywhere.
    pub addresses: Vec<IpAddr>,
    /// The port. With 0 the system chooses one, and nobody else can find it.
    pub port: u16,
    /// Who may ask what.
    pub policy: Policy,
    /// How much of the process the server may use.
    pub limits: Limits,
    /// Whether another member of this user may stand by for this one, and this one for another.
    pub hand_over: bool,
    /// Where changes are recorded.
    pub journal: Journal,
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
    /// Who has a copy of everything and goes on when this owner ends.
    pub standby: Option<Standby>,
    /// Whether this member is that for the owner it joined.
    pub stands_by: bool,
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
    /// Where this member listens when it serves.
    wanted: Arc<[IpAddr]>,
    status: Arc<Mutex<Status>>,
    rules: Arc<RwLock<Rules>>,
    commands: mpsc::UnboundedSender<Command>,
    stop: Arc<Notify>,
    /// Whether there may be a hand-over.
    hand_over: Arc<watch::Sender<bool>>,
    standby: Arc<watch::Sender<Option<Standby>>>,
    stands_by: Arc<watch::Sender<bool>>,
    connections: Connections,
    started: Instant,
}

/// What is true at one change's number; everything later comes with higher numbers.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The number of the last change that is in here.
    pub number: u64,
    /// The role.
    pub role: Role,
    /// The registered nodes, the newest first, if the table is kept here.
    pub nodes: Vec<Arc<Entry>>,
}

/// A process among those that can serve the port.
#[derive(Debug)]
pub struct Member {
    settings: Settings,
    handle: Handle,
    commands: mpsc::UnboundedReceiver<Command>,
    state: State,
    /// What is to be served, and is not yet.
    estate: Option<Estate>,
    /// Whoever has the port.
    owner: Option<SocketAddr>,
    /// What keeps the local node registered there.
    link: Option<Link>,
    local: Option<Local>,
    pauses: Pauses,
    was_joined: bool,
    /// Why the last attempt to bind or join failed.
    trouble: Option<StartError>,
    /// The last complaint about the port, so that it is made once.
    complaint: Option<String>,
}

#[derive(Debug)]
enum Command {
    Register { node: Node, creation: Option<u32>, reply: std_mpsc::SyncSender<Result<u32, RegisterError>> },
    Unregister,
}

/// Where a look-up from inside the VM finds its answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The name is registered here.
    Found(Arc<Entry>),
    /// It is not.
    NotFound,
    /// Not known yet: the port is changing hands.
    Unsettled,
    /// Whoever serves the host's port knows.
    AskOwner,
    /// The address is not this member's.
    Elsewhere,
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
        let status = self.status.lock().clone();
        Status { standby: self.standby.borrow().clone(), stands_by: *self.stands_by.borrow(), ..status }
    }

    /// Looks a name up in memory, as if dialled at `address`.
    pub fn find(&self, address: IpAddr, name: &str) -> Answer {
        match self.place_of(address) {
            None => Answer::Elsewhere,
            Some(Role::Joined) => Answer::AskOwner,
            Some(Role::Searching) => Answer::Unsettled,
            Some(Role::Serving) => match self.registry.find(name.as_bytes()) {
                Some(entry) => Answer::Found(entry),
                None if self.registry.is_settled() => Answer::NotFound,
                None => Answer::Unsettled,
            },
        }
    }

    /// The member's role at an address, if the address is one that it serves or would serve.
    pub fn place_of(&self, address: IpAddr) -> Option<Role> {
        let status = self.status.lock();
        let covered = match status.role {
            Role::Serving => address::covers(&status.addresses, address),
            Role::Searching | Role::Joined => address::covers(&self.wanted, address),
        };
        covered.then_some(status.role)
    }

    /// The registered nodes, the newest first, if the table is kept here.
    pub fn entries(&self) -> Option<Vec<Arc<Entry>>> {
        (self.status.lock().role == Role::Serving).then(|| self.registry.entries())
    }

    /// The state to which later changes are to be added.
    pub fn snapshot(&self) -> Snapshot {
        // Roles change under this lock.
        let status = self.status.lock();
        let (number, nodes) = self.registry.snapshot();
        Snapshot { number, role: status.role, nodes }
    }

    /// What was asked since the member started, and what came of it.
    pub fn figures(&self) -> &Figures {
        &self.connections.figures
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> Open {
        self.connections.open()
    }

    /// How many nodes are registered here.
    pub fn names(&self) -> usize {
        self.registry.len()
    }

    /// For how long the member has lived.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Changes what can be changed while the member runs; connections that wait keep their deadline.
    pub fn configure(&self, policy: Policy, limits: Limits, hand_over: bool) {
        *self.rules.write() = Rules { policy, limits };
        self.hand_over.send_if_modified(|current| std::mem::replace(current, hand_over) != hand_over);
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
            standby: None,
            stands_by: false,
        };
        let handle = Handle {
            registry: Registry::with_journal(settings.journal.clone()),
            wanted: address::wanted(&settings.addresses).into(),
            status: Arc::new(Mutex::new(status)),
            rules: Arc::new(RwLock::new(rules)),
            commands: sender,
            stop: Arc::new(Notify::new()),
            hand_over: Arc::new(watch::Sender::new(settings.hand_over)),
            standby: Arc::default(),
            stands_by: Arc::default(),
            connections: Connections::default(),
            started: Instant::now(),
        };
        let mut member = Self {
            settings,
            handle: handle.clone(),
            commands,
            state: State::Searching,
            estate: None,
            owner: None,
            link: None,
            local: None,
            pauses: Pauses::up_to(LONGEST_PAUSE),
            was_joined: false,
            trouble: None,
            complaint: None,
        };
        let deadline = Instant::now() + START_PATIENCE;
        while !matches!(member.state, State::Serving | State::Joined) {
            let event = member.act().await;
            // Between the end of one owner and the start of the next, there is nobody to answer.
            if event == Event::Failed && Instant::now() < deadline && member.trouble.as_ref().is_some_and(passes) {
                member.trouble = None;
            }
            if let Some(trouble) = member.trouble.take() {
                return Err(trouble);
            }
            member.enter(event);
        }
        Ok((member, handle))
    }

    /// Serves or joins until [`Handle::stop`] is called, or until the server fails for a reason of its own.
    pub async fn run(mut self) -> io::Result<()> {
        let stop = Arc::clone(&self.handle.stop);
        loop {
            if let Some(estate) = self.estate.take() {
                return self.serve(estate, &stop).await;
            }
            tokio::select! {
                () = stop.notified() => return Ok(()),
                event = self.act() => {
                    if let Some(trouble) = self.trouble.take() {
                        self.complain(&trouble);
                    }
                    self.enter(event);
                }
            }
        }
    }

    /// Does what the state asks for, and tells what came of it.
    async fn act(&mut self) -> Event {
        match self.state {
            State::Searching => self.bind().await,
            State::Joining => self.join().await,
            State::Joined => self.stay().await,
            State::Resting => self.rest().await,
            State::Serving => std::future::pending().await,
        }
    }

    async fn bind(&mut self) -> Event {
        match Listeners::open(&self.settings.addresses, self.settings.port) {
            Ok(mut listeners) => {
                // An owner that is just ending lets go of one address after the other.
                let mut pauses = Pauses::up_to(LONGEST_PAUSE);
                for _ in 0..TRIES_FOR_THE_REST {
                    if listeners.complete() {
                        break;
                    }
                    sleep(pauses.next()).await;
                }
                self.estate = Some(Estate::Bound(listeners));
                Event::Bound
            }
            Err(error) if error.is_taken() => {
                self.owner = Some(error.holder());
                Event::Taken
            }
            Err(error) => {
                self.trouble = Some(StartError::Open(error));
                Event::Failed
            }
        }
    }

    async fn join(&mut self) -> Event {
        let Some(owner) = self.owner else { return Event::Failed };
        let joined = match &self.local {
            Some(local) => client::register(owner, &local.node).await,
            // Without a node there is nothing to register, but whoever answers must be an EPMD.
            None => client::is_registered(owner, NOBODY).await.map(|_| Joined::Alone),
        };
        match joined {
            Ok(Joined::Granted(link, creation)) => {
                self.link = Some(link);
                if let Some(local) = &mut self.local {
                    local.registered(creation);
                }
                Event::Granted
            }
            Ok(Joined::Alone) => Event::Granted,
            Ok(Joined::Refused) => {
                self.refused();
                // Who waited for the answer has it, and there is no node of ours any more.
                if self.local.is_none() {
                    Event::Granted
                } else {
                    Event::Failed
                }
            }
            Err(error) => {
                self.trouble = Some(StartError::Held { address: owner, error });
                Event::Failed
            }
        }
    }

    /// Stays with an owner until there is a reason to look for the port again.
    async fn stay(&mut self) -> Event {
        let Some(owner) = self.owner else { return Event::Failed };
        let joined_at = Instant::now();
        let name = self.local.as_ref().map_or(NOBODY, |local| local.node.name.as_str()).to_owned();
        let handle = self.handle.clone();
        let (place, node) = (self.place(), self.node());
        let enabled = handle.hand_over.subscribe();
        let standing_by = hand_over::stand_by(&place, &handle.wanted, node, enabled, &handle.stands_by);
        tokio::pin!(standing_by);
        let event = loop {
            let check = async {
                sleep(ASK_EVERY).await;
                client::is_registered(owner, &name).await
            };
            tokio::select! {
                // With the owner's copies goes the link, unless this member has one, too.
                biased;
                inheritance = &mut standing_by => {
                    self.inherit(inheritance);
                    break Event::Inherited;
                }
                () = ended(self.link.as_ref()) => break Event::Ended,
                command = next(&mut self.commands) => {
                    self.obey(command);
                    break Event::Changed;
                }
                answer = check => match answer {
                    Ok(found) => {
                        self.owner_answers(owner, true);
                        // It lost us without ending the link: the link is worth nothing.
                        if !found && self.link.is_some() {
                            break Event::Ended;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::TimedOut => self.owner_answers(owner, false),
                    // Who stands by finds the owner's end itself, and is about to serve.
                    Err(_) if *handle.stands_by.borrow() => {}
                    Err(_) => break Event::Ended,
                },
            }
        };
        self.link = None;
        handle.stands_by.send_replace(false);
        match event {
            Event::Ended if joined_at.elapsed() < LASTING => Event::Failed,
            Event::Ended => {
                self.pauses = Pauses::up_to(LONGEST_PAUSE);
                Event::Ended
            }
            event => event,
        }
    }

    async fn rest(&mut self) -> Event {
        tokio::select! {
            () = sleep(self.pauses.next()) => Event::Rested,
            command = next(&mut self.commands) => {
                self.obey(command);
                Event::Changed
            }
        }
    }

    /// Where owner and standby of this port meet. The first address decides who serves, so it names the place.
    fn place(&self) -> Place {
        let first = self.handle.wanted.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Place::of(SocketAddr::new(first, self.settings.port))
    }

    fn node(&self) -> Option<NodeName> {
        self.local.as_ref().map(|local| local.node.name.clone())
    }

    /// Gets ready to serve what the last owner served.
    fn inherit(&mut self, mut inheritance: Inheritance) {
        let listeners = std::mem::take(&mut inheritance.listeners);
        let listeners = Listeners::inherited(listeners, &self.settings.addresses, self.settings.port);
        let own = self.link.as_ref().and_then(Link::local_address);
        let (contents, heirs) = std::mem::take(&mut inheritance.replica).revive(&self.handle.registry, own);
        let inherited = Inherited { listeners, contents: Some(contents), heirs, inheritance };
        self.estate = Some(Estate::Inherited(Box::new(inherited)));
    }

    /// Serves the port until the member stops.
    async fn serve(&mut self, estate: Estate, stop: &Notify) -> io::Result<()> {
        let registry = self.handle.registry.clone();
        let (passing, rules) = (Passing::default(), Arc::clone(&self.handle.rules));
        let start = |listeners| {
            Server::start(listeners, registry.clone(), rules, self.handle.connections.clone(), passing.clone())
        };
        let (mut server, mut own, claim);
        match estate {
            Estate::Bound(listeners) => {
                if self.was_joined {
                    registry.fills_until(std::time::Instant::now() + SETTLING);
                }
                (server, claim) = (start(listeners)?, None);
                own = self.register_here(&registry);
            }
            Estate::Inherited(inherited) => {
                let Inherited { mut listeners, heirs, mut inheritance, .. } = *inherited;
                listeners.complete();
                server = start(listeners)?;
                inheritance.confirm();
                server.keep(heirs.connected);
                own = match heirs.own {
                    Some(registration) => Own::Registered(registration),
                    None => self.register_here(&registry),
                };
                claim = Some(inheritance.claim);
            }
        }
        let mut offer = Offer::new(
            hand_over::Terms {
                place: self.place(),
                addresses: self.handle.wanted.to_vec(),
                node: self.node(),
                registry: registry.clone(),
                passing,
                enabled: self.handle.hand_over.subscribe(),
                standby: Arc::clone(&self.handle.standby),
            },
            claim,
            server.listeners(),
        );
        loop {
            tokio::select! {
                error = server.failed() => return Err(error),
                command = next(&mut self.commands) => {
                    drop(own);
                    self.obey(command);
                    own = self.register_here(&registry);
                }
                () = own.freed(&registry) => own = self.register_here(&registry),
                () = offer.hung() => {
                    tracing::warn!("opening the port again, since a standby that hangs has copies of its listeners");
                    server.renew()?;
                    offer.renew(server.listeners());
                }
                () = stop.notified() => {
                    drop(own);
                    server.halt();
                    if offer.hand_over().await {
                        server.drain().await;
                    } else {
                        server.renounce();
                    }
                    return Ok(());
                }
            }
        }
    }

    fn register_here(&mut self, registry: &Registry) -> Own {
        let Some(local) = self.local.as_mut() else { return Own::None };
        let granted = match local.creation {
            Some(creation) => registry.restore(&local.node, Holder::Host, creation),
            None => registry.register(&local.node, Holder::Host),
        };
        match granted {
            Ok(registration) => {
                local.registered(registration.creation());
                Own::Registered(registration)
            }
            Err(NameTaken(holder)) => {
                self.refused();
                Own::Taken(holder)
            }
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
            let name = local.node.name.as_str();
            let refused = || Change::Refused { name: name.into(), reason: "the name is taken" };
            self.handle.registry.journal().record(refused);
            tracing::error!(%name, "this node's name is registered by another node");
        }
    }

    /// Goes on to what comes after this event, and tells the new role.
    fn enter(&mut self, event: Event) {
        self.state = self.state.after(event);
        let role = self.handle.status.lock().role;
        match self.state {
            State::Serving => {
                let (listeners, contents) = match &mut self.estate {
                    Some(Estate::Bound(listeners)) => (listeners, None),
                    Some(Estate::Inherited(inherited)) => (&mut inherited.listeners, inherited.contents.take()),
                    None => return,
                };
                let (addresses, port) = (listeners.addresses(), listeners.port);
                let how =
                    if contents.is_some() { "serving the port in its last owner's place" } else { "serving the port" };
                tracing::info!(port, ?addresses, "{how}");
                self.complaint = None;
                let status = self.change(|status| {
                    status.role = Role::Serving;
                    status.owner = None;
                    status.owner_answers = true;
                    status.addresses = addresses;
                    status.port = port;
                });
                // Nobody sees the role without the table.
                if let Some(contents) = contents {
                    self.handle.registry.adopt(contents);
                }
                drop(status);
            }
            State::Joined => {
                self.was_joined = true;
                self.complaint = None;
                let Some(owner) = self.owner.filter(|_| role != Role::Joined) else { return };
                tracing::info!(%owner, "joined the owner of the port");
                drop(self.change(|status| {
                    status.role = Role::Joined;
                    status.owner = Some(owner);
                }));
            }
            // Where the node changed it is the same owner that is asked again.
            State::Joining => {}
            State::Searching | State::Resting if role == Role::Joined => {
                if let Some(owner) = self.owner.take() {
                    tracing::info!(%owner, "the link to the owner of the port ended");
                }
                drop(self.change(|status| {
                    status.role = Role::Searching;
                    status.owner = None;
                    status.owner_answers = true;
                }));
            }
            State::Searching | State::Resting => {}
        }
    }

    /// Changes the status, which is locked until what this returns is dropped.
    fn change(&self, change: impl FnOnce(&mut Status)) -> MutexGuard<'_, Status> {
        let mut status = self.handle.status.lock();
        change(&mut status);
        self.handle.registry.journal().record(|| Change::Role(status.role));
        status.since = SystemTime::now();
        status.changes += 1;
        status
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
        if passes(error) {
            return;
        }
        let complaint = error.to_string();
        if self.complaint.as_ref() != Some(&complaint) {
            tracing::error!("{complaint}; trying again");
            self.complaint = Some(complaint);
        }
    }
}

/// What a member serves.
#[derive(Debug)]
enum Estate {
    /// A port that was free.
    Bound(Listeners),
    Inherited(Box<Inherited>),
}

/// All that the last owner had.
#[derive(Debug)]
struct Inherited {
    listeners: Listeners,
    /// Until the table has them.
    contents: Option<Contents>,
    heirs: Heirs,
    inheritance: Inheritance,
}

/// The local node in the table of its own VM.
#[derive(Debug)]
enum Own {
    None,
    /// It is registered for as long as this is kept.
    Registered(#[allow(dead_code, reason = "kept for its end")] Registration),
    /// Another node has its name.
    Taken(Arc<Entry>),
}

impl Own {
    /// Waits until the name is free again.
    async fn freed(&self, registry: &Registry) {
        match self {
            Self::Taken(holder) => registry.ended(holder).await,
            Self::None | Self::Registered(_) => std::future::pending().await,
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
fn passes(error: &StartError) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof};
    let StartError::Held { error, .. } = error else { return false };
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionRefused | ConnectionReset | UnexpectedEof)
}
