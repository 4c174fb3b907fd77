//! The handle through which the VM queries and controls a running member.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{mpsc as std_mpsc, Arc};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch, Notify};
use tokio::time::Instant;

use super::accounts::Accounts;
use super::settings::{ListenError, Settings};
use crate::address::{self, OpenError, Wanted};
use crate::hand_over::{HandOver, Obstacle, Standby};
use crate::health::Health;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::node::{Node, NodeName};
use crate::registry::{Entry, Known, Registry, Tombstone};
use crate::role::Role;
use crate::server::{Connections, Open, Policy, Rules};
use crate::service_manager::{ServiceManager, StoreSender, StoreState};

/// A member's state, for people and for the VM's own lookups.
#[derive(Clone, Debug)]
pub struct Status {
    /// The role.
    pub role: Role,
    /// Since when it has the role.
    pub since: SystemTime,
    /// How often the role changed.
    pub changes: u64,
    /// The owner that it joined, if any.
    pub owner: Option<SocketAddr>,
    /// False while the owner holds its port and does not answer.
    pub owner_answers: bool,
    /// The addresses that are served.
    pub addresses: Vec<IpAddr>,
    /// The port.
    pub port: u16,
    /// The standbys of this owner that have a copy of everything.
    pub standbys: Vec<Standby>,
    /// Whether this member stands by for its owner, with a copy of everything.
    pub stands_by: bool,
    /// What keeps this member from standing by, or others from standing by for it, as far as it was tried.
    pub obstacle: Option<String>,
    /// Where lookups from inside the VM are answered.
    pub table: Table,
    /// Whether the service manager has passed the listeners.
    pub lent: bool,
    /// What it keeps for the next life of this service.
    pub kept: Keeps,
}

/// How much of the table and its connections the service manager keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// All of it.
    All,
    /// What it has room for.
    Some,
    /// Nothing.
    Nothing,
}

/// Where this member finds the table of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// In this member, which serves it.
    Here,
    /// In this member, as a copy that its owner keeps up to date.
    Copy,
    /// In the owner, which is asked each time.
    Owner,
}

/// Why the host's node is not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// The host's node is registered already, or about to be.
    AlreadyRegistered,
    /// Another node of that name is registered.
    DuplicateName,
    /// The name belongs to users other than that of this process: a sentence says to whom.
    NotTheirs(String),
    /// The process that holds the port does not register it. A sentence says what is known about that process, and how
    /// to find out more. The member does not try again.
    Held(String),
    /// There was no answer in time. The member goes on trying.
    Timeout,
    /// The member has stopped.
    Stopped,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyRegistered => f.write_str("this VM's node is registered already"),
            Self::DuplicateName => f.write_str("another node of that name is registered"),
            Self::NotTheirs(sentence) | Self::Held(sentence) => f.write_str(sentence),
            Self::Timeout => f.write_str("there was no answer in time"),
            Self::Stopped => f.write_str("the server has stopped"),
        }
    }
}

impl std::error::Error for RegisterError {}

/// A handle to a running member.
#[derive(Clone, Debug)]
pub struct Handle {
    /// The table, or a replica of the owner's.
    pub(super) registry: Registry,
    /// This VM's node, while there is one.
    pub(super) node: Arc<watch::Sender<Option<NodeName>>>,
    /// Where this member listens when it serves.
    pub(super) wanted: Arc<RwLock<Arc<Wanted>>>,
    inet6: bool,
    service_manager: ServiceManager,
    pub(super) status: Arc<Mutex<Status>>,
    pub(super) rules: Arc<RwLock<Rules>>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    moves: mpsc::UnboundedSender<Move>,
    pub(super) stop: Arc<Notify>,
    /// Whether it is being stopped because the process ends.
    pub(super) process_ends: Arc<AtomicBool>,
    /// The current settings of the handover.
    pub(super) hand_over: Arc<watch::Sender<HandOver>>,
    pub(super) standbys: Arc<watch::Sender<Vec<Standby>>>,
    /// The service manager's store, if it keeps anything.
    pub(super) store: StoreSender,
    pub(super) stands_by: Arc<watch::Sender<bool>>,
    pub(super) obstacle: Obstacle,
    pub(super) connections: Connections,
    pub(super) accounts: Accounts,
    pub(super) health: Health,
    pub(super) started: Instant,
}

/// The state after the change with this number. Later changes have higher numbers.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The number of the last change that it includes.
    pub number: u64,
    /// The role.
    pub role: Role,
    /// The registered nodes, the newest first, if the table is here or a copy of it.
    pub nodes: Vec<Arc<Entry>>,
}

#[derive(Debug)]
pub(super) enum Command {
    Register { node: Node, creation: Option<u32>, reply: std_mpsc::SyncSender<Result<u32, RegisterError>> },
    Unregister,
}

/// A command to listen on other addresses, with the channel for the outcome.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) wanted: Wanted,
    pub(super) reply: std_mpsc::SyncSender<Result<(), OpenError>>,
}

/// The answer to a lookup from inside the VM.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The name is registered here.
    Found(Arc<Entry>),
    /// The name is not registered.
    NotFound,
    /// Not known yet: the port is changing owners.
    Unsettled,
    /// The owner of the port must be asked.
    AskOwner,
    /// The address is not this member's.
    Elsewhere,
    /// The member has ended.
    Stopped,
}

impl Handle {
    /// A handle to a member with these settings, and the receiving ends of its channels.
    pub(super) fn new(
        settings: &Settings,
        wanted: Wanted,
    ) -> (Self, mpsc::UnboundedReceiver<Command>, mpsc::UnboundedReceiver<Move>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (moves, moves_receiver) = mpsc::unbounded_channel();
        let status = Status {
            role: Role::Searching,
            since: SystemTime::now(),
            changes: 0,
            owner: None,
            owner_answers: true,
            addresses: Vec::new(),
            port: settings.port,
            standbys: Vec::new(),
            stands_by: false,
            obstacle: None,
            table: Table::Owner,
            lent: settings.service_manager.port().is_some(),
            kept: Keeps::Nothing,
        };
        let rules = Rules { policy: settings.policy.clone(), limits: settings.limits.clone() };
        let handle = Self {
            registry: Registry::with_journal(settings.journal.clone()),
            node: Arc::default(),
            wanted: Arc::new(RwLock::new(Arc::new(wanted))),
            inet6: settings.inet6,
            service_manager: settings.service_manager.clone(),
            status: Arc::new(Mutex::new(status)),
            rules: Arc::new(RwLock::new(rules)),
            commands,
            moves,
            stop: Arc::new(Notify::new()),
            process_ends: Arc::default(),
            hand_over: Arc::new(watch::Sender::new(settings.hand_over.clone())),
            standbys: Arc::default(),
            store: Arc::default(),
            stands_by: Arc::default(),
            obstacle: Obstacle::default(),
            connections: Connections::default(),
            accounts: Accounts::new(),
            health: settings.health.clone(),
            started: Instant::now(),
        };
        (handle, receiver, moves_receiver)
    }

    /// Registers the host's node, here or with the owner, and waits at most `patience` for the answer: the creation.
    ///
    /// The node stays registered until [`Handle::unregister`], through every change of owner. Pass a `creation` to
    /// register a node that has one already.
    pub fn register(&self, node: Node, creation: Option<u32>, patience: Duration) -> Result<u32, RegisterError> {
        // Whoever serves now may have another list; this member will serve with its own.
        self.rules.read().policy.reserved_names.admit_own_user(&node.name).map_err(RegisterError::NotTheirs)?;
        let (reply, answer) = std_mpsc::sync_channel(1);
        self.commands.send(Command::Register { node, creation, reply }).map_err(|_| RegisterError::Stopped)?;
        answer.recv_timeout(patience).unwrap_or_else(|error| match error {
            std_mpsc::RecvTimeoutError::Timeout => Err(RegisterError::Timeout),
            std_mpsc::RecvTimeoutError::Disconnected => Err(RegisterError::Stopped),
        })
    }

    /// Changes the addresses to listen on, at once if the member serves. No addresses means all. Registrations and
    /// links stay. Waits at most `patience` for the outcome.
    ///
    /// # Errors
    ///
    /// If an address cannot be listened on, nothing is changed. A member that has joined stays with its owner if that
    /// has the port at the new addresses too; if not, it serves them. With listeners from the service manager, any
    /// addresses but theirs are an error.
    pub fn listen_on(&self, addresses: Vec<IpAddr>, patience: Duration) -> Result<(), ListenError> {
        if let Some(port) = self.service_manager.port() {
            return self.service_manager.agree(port, &addresses).map(drop).map_err(ListenError::Lent);
        }
        let (reply, answer) = std_mpsc::sync_channel(1);
        let wanted = Wanted::new(&addresses, self.inet6);
        self.moves.send(Move { wanted, reply }).map_err(|_| ListenError::Stopped)?;
        match answer.recv_timeout(patience) {
            Ok(outcome) => outcome.map_err(ListenError::Open),
            Err(std_mpsc::RecvTimeoutError::Timeout) => Err(ListenError::Timeout(patience)),
            Err(std_mpsc::RecvTimeoutError::Disconnected) => Err(ListenError::Stopped),
        }
    }

    /// What the service manager has passed.
    pub fn service_manager(&self) -> ServiceManager {
        self.service_manager.clone()
    }

    /// Names the VM's node to other members where this one does not register it, since the node registers over TCP.
    pub fn name_node(&self, name: Option<NodeName>) {
        self.node.send_replace(name);
    }

    /// The addresses that this member serves or would serve.
    pub(super) fn wanted(&self) -> Arc<Wanted> {
        Arc::clone(&self.wanted.read())
    }

    /// Ends the registration of the host's node. Does not wait.
    pub fn unregister(&self) {
        let _ = self.commands.send(Command::Unregister);
    }

    /// Ends the member. Does not wait.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// Ends the member because the process ends: what is in the service manager's store stays there for the next run.
    pub fn stop_with_process(&self) {
        self.process_ends.store(true, Relaxed);
        self.stop();
    }

    /// Whether the member has ended.
    pub fn is_stopped(&self) -> bool {
        self.commands.is_closed()
    }

    /// The member's state.
    pub fn status(&self) -> Status {
        // Before the role: a replica that becomes the table in between has its role by then.
        let is_replica = self.registry.is_replica();
        let status = self.status.lock().clone();
        let table = match status.role {
            Role::Serving => Table::Here,
            _ if is_replica => Table::Copy,
            _ => Table::Owner,
        };
        let kept = match &*self.store.borrow() {
            StoreState::Some(store) if store.has_all() => Keeps::All,
            StoreState::Some(_) => Keeps::Some,
            StoreState::Unknown | StoreState::None => Keeps::Nothing,
        };
        let (standbys, stands_by) = (self.standbys.borrow().clone(), *self.stands_by.borrow());
        Status { standbys, stands_by, obstacle: self.obstacle.get(), table, kept, ..status }
    }

    /// Looks a name up in memory, as a server at `address` would.
    pub fn find(&self, address: IpAddr, name: &str) -> Answer {
        if self.is_stopped() {
            return Answer::Stopped;
        }
        loop {
            let role = self.place_of(address);
            let answer = self.answer(role, address, name.as_bytes());
            // A member that begins to serve makes its replica the table in between.
            if matches!(answer, Answer::Found(_)) || self.place_of(address) == role {
                return answer;
            }
        }
    }

    fn answer(&self, role: Option<Role>, address: IpAddr, name: &[u8]) -> Answer {
        match role {
            None => Answer::Elsewhere,
            Some(role @ (Role::Joined | Role::Searching)) => match self.registry.find_replicated(address, name) {
                Some(entry) => Answer::Found(entry),
                // It may not have reached the copy yet.
                None if role == Role::Joined => Answer::AskOwner,
                None => Answer::Unsettled,
            },
            Some(Role::Serving) => match self.registry.look_up(name) {
                Known::Registered(entry) => Answer::Found(entry),
                Known::Missing => Answer::NotFound,
                Known::Unsettled => Answer::Unsettled,
            },
        }
    }

    /// The member's role at an address, if the address is one that it serves or would serve.
    pub fn place_of(&self, address: IpAddr) -> Option<Role> {
        let status = self.status.lock();
        let covered = match status.role {
            Role::Serving => address::covers(status.addresses.iter().copied(), address),
            Role::Searching | Role::Joined => self.wanted().covers(address),
        };
        covered.then_some(status.role)
    }

    /// The registered nodes, the newest first, if the table is here or a copy of it.
    pub fn entries(&self) -> Option<Vec<Arc<Entry>>> {
        match self.status().table {
            Table::Here => Some(self.registry.entries()),
            Table::Copy => Some(self.registry.snapshot().1),
            Table::Owner => None,
        }
    }

    /// The remembered names that left, the first to leave first, if the table is here or a copy of it.
    pub fn departed(&self) -> Option<Vec<Tombstone>> {
        (self.status().table != Table::Owner).then(|| self.registry.tombstones())
    }

    /// The current state, to which an observer adds later changes.
    pub fn snapshot(&self) -> Snapshot {
        loop {
            let (role, changes) = self.role();
            let (number, nodes) = self.registry.snapshot();
            // A role is never told with the table of another. The lock is not held meanwhile: lookups take it.
            if self.role() == (role, changes) {
                return Snapshot { number, role, nodes };
            }
        }
    }

    fn role(&self) -> (Role, u64) {
        let status = self.status.lock();
        (status.role, status.changes)
    }

    /// Counters of requests and their outcomes since the member started.
    pub fn metrics(&self) -> &Metrics {
        &self.connections.metrics
    }

    /// The health of this VM.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> Open {
        self.connections.open()
    }

    /// How many nodes are registered here.
    pub fn names(&self) -> usize {
        self.registry.len()
    }

    /// The time since the member started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The same settings with the numbers that the users and groups named there have now. Waits for a moment only: those
    /// that nobody has, or that are not known in time, are asked for again every 5 seconds once the settings apply.
    pub fn identify(&self, mut policy: Policy, mut hand_over: HandOver) -> (Policy, HandOver) {
        (policy.reserved_names, hand_over.trusted) = self.accounts.look_up(policy.reserved_names, hand_over.trusted);
        (policy, hand_over)
    }

    /// Changes the settings that can be changed while the member runs. Waiting connections keep their deadline.
    pub fn configure(&self, policy: Policy, limits: Limits, hand_over: HandOver) {
        *self.rules.write() = Rules { policy, limits };
        self.hand_over.send_if_modified(|current| {
            let changed = *current != hand_over;
            *current = hand_over;
            changed
        });
        self.accounts.watch(self);
    }
}
