//! One of the processes of a host that can serve the port. It serves, or joins the process that does, and takes over
//! when that ends.
//!
//! The process that binds the port, the owner, serves it. The others register their node there over a connection that
//! stays open, the link. When the link ends, in whatever way, each of them tries to bind at once, and joins the winner
//! if it fails. The table of the new owner fills with the registrations that arrive.
//!
//! Some of those that have joined stand by ([`crate::hand_over`]). A standby has copies of the table and of the
//! connections. When the owner ends, no link ends with it: the standby serves, and the other processes notice nothing.

mod accounts;
mod change_over;
mod client;
mod examiner;
mod exposition;
mod handle;
mod local;
mod port;
mod serving;
mod settings;
mod trouble;

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{mpsc, Notify};
use tokio::time::{sleep, timeout, Instant};

use crate::address::{self, Wanted};
use crate::backoff::Backoff;
use crate::hand_over::{self, Candidate, Holdings, OwnNode, Takeover};
use crate::journal::Change;
use crate::node::NodeName;
use crate::role::Role;
use crate::service_manager::{Kept, Stored};
use change_over::{Event, State};
use client::{Joined, Link};
use handle::Move;
use local::{LocalNode, NotRegistered};
use serving::{Origin, Startup};
use trouble::Trouble;

pub use handle::{Answer, Handle, Keeps, RegisterError, Snapshot, Status, Table};
pub use settings::{ListenError, Settings, StartError};

/// How long a new owner waits for the nodes that were registered with the last one. Stock nodes register again after
/// 2 seconds (OTP's `erl_epmd`). Until then, lookups of missing names wait rather than fail.
const GRACE_PERIOD: Duration = Duration::from_millis(2_500);
/// How often a member that has joined checks that the owner answers.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The longest pause between attempts to bind or join.
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// A link that ends sooner is short. Many short links in a row may mean an owner that closes every link.
const SHORT_LINK: Duration = Duration::from_secs(1);
/// How many short links in a row are taken for owners that were killed. After that the member pauses between attempts.
const MAX_SHORT_LINKS: u32 = 32;

/// A process among those that can serve the port.
#[derive(Debug)]
pub struct Member {
    settings: Settings,
    handle: Handle,
    local: LocalNode,
    moves: mpsc::UnboundedReceiver<Move>,
    state: State,
    /// What to serve, until serving begins.
    startup: Option<Startup>,
    /// What it has of its owners' sockets.
    holdings: Arc<Mutex<Holdings>>,
    /// Notified when it has joined an owner.
    joined: Arc<Notify>,
    /// What an earlier run of the service left in the service manager's store, until it is used.
    kept: Option<Kept>,
    /// What is still in the store.
    stored: Stored,
    /// The process that has the port.
    owner: Option<SocketAddr>,
    /// The address that cannot be listened on since that process, or another, has it.
    refused: Option<SocketAddr>,
    /// The link that keeps the local node registered with the owner.
    link: Option<Link>,
    backoff: Backoff,
    /// How many links in a row were short.
    short_links: u32,
    was_joined: bool,
    trouble: Trouble,
    /// Why the last attempt to bind or join failed, if that does not pass by itself.
    failure: Option<StartError>,
}

impl Member {
    /// Binds the port or finds its owner.
    pub async fn start(settings: Settings) -> Result<(Self, Handle), StartError> {
        let lent = settings.service_manager.agree(settings.port, &settings.addresses).map_err(StartError::Lent)?;
        let stored = settings.service_manager.take_stored();
        let kept = (!stored.is_empty()).then(|| Kept::sort(stored, settings.port));
        let wanted = lent.unwrap_or_else(|| Wanted::new(&settings.addresses, settings.inet6));
        let (handle, commands, moves) = Handle::new(&settings, wanted);
        let (policy, hand_over) = handle.identify(settings.policy.clone(), settings.hand_over.clone());
        handle.configure(policy, settings.limits.clone(), hand_over);
        let local = LocalNode::new(Arc::clone(&handle.node), commands);
        let mut member = Self {
            settings,
            handle: handle.clone(),
            local,
            moves,
            state: State::Searching,
            startup: None,
            holdings: Arc::default(),
            joined: Arc::default(),
            kept,
            stored: Stored::default(),
            owner: None,
            refused: None,
            link: None,
            backoff: Backoff::up_to(MAX_BACKOFF),
            short_links: 0,
            was_joined: false,
            trouble: Trouble::default(),
            failure: None,
        };
        while !matches!(member.state, State::Serving | State::Joined) {
            let event = member.act().await;
            if let Some(failure) = member.failure.take() {
                return Err(failure);
            }
            member.enter(event);
        }
        Ok((member, handle))
    }

    /// Serves or joins until [`Handle::stop`] is called, or until a listener fails for good.
    pub async fn run(mut self) -> io::Result<()> {
        let stop = Arc::clone(&self.handle.stop);
        let handle = self.handle.clone();
        let mut followed = handle.wanted();
        let mut following = self.follow();
        loop {
            if let Some(startup) = self.startup.take() {
                drop(following);
                let Self { handle, local, moves, stored, .. } = &mut self;
                let stored = std::mem::take(stored);
                return serving::serve(startup, handle, local, moves, stored).await;
            }
            tokio::select! {
                // A member that is told to stop must not start serving first.
                biased;
                () = stop.notified() => return Ok(()),
                takeover = &mut following => {
                    self.startup = Some(Startup::after(takeover, &followed, self.settings.port));
                    self.enter(Event::TookOver);
                    continue;
                }
                event = self.act() => {
                    if let Some(failure) = self.failure.take() {
                        self.trouble.tell(&failure);
                    }
                    self.enter(event);
                }
            }
            let wanted = handle.wanted();
            if wanted != followed {
                // The owner must expose the same addresses.
                self.holdings.lock().drop_listeners();
                following = self.follow();
                followed = wanted;
            }
        }
    }

    /// Follows each owner of the port, until this member can take over.
    fn follow(&self) -> Pin<Box<dyn Future<Output = Takeover> + Send>> {
        let (handle, port) = (self.handle.clone(), self.settings.port);
        let limits = self.handle.clone();
        let wanted = handle.wanted();
        let first = address::reachable(SocketAddr::new(wanted.first(), port));
        Box::pin(hand_over::follow(Candidate {
            owner: Box::new(move || handle.status.lock().owner.unwrap_or(first)),
            joined: Arc::clone(&self.joined),
            addresses: wanted.addresses().collect(),
            node: self.handle.node.subscribe(),
            settings: self.handle.hand_over.subscribe(),
            limits: Box::new(move || limits.rules.read().limits.clone()),
            registry: self.handle.registry.clone(),
            holdings: Arc::clone(&self.holdings),
            stands_by: Arc::clone(&self.handle.stands_by),
            obstacle: self.handle.obstacle.clone(),
            health: self.settings.health.clone(),
        }))
    }

    /// Does what the state asks for, and returns the outcome.
    async fn act(&mut self) -> Event {
        match self.state {
            State::Searching => self.bind().await,
            State::Joining => self.join().await,
            State::Joined => self.stay().await,
            State::BackingOff => self.back_off().await,
            State::Serving => std::future::pending().await,
        }
    }

    async fn join(&mut self) -> Event {
        let Some(owner) = self.owner else { return Event::Failed };
        let joining = client::join(owner, self.local.node(), self.link.take(), self.trouble.persists());
        let joined = timeout(client::TIMEOUT, joining).await;
        match joined.unwrap_or_else(|_| Err(StartError::Held { address: owner, error: ErrorKind::TimedOut.into() })) {
            Ok(Joined::Granted(link, creation)) => {
                self.link = Some(link);
                self.local.registered(creation);
                Event::Granted
            }
            Ok(Joined::Kept(link)) => {
                self.link = Some(link);
                Event::Granted
            }
            Ok(Joined::Alone) => Event::Granted,
            Ok(Joined::Taken) => self.refused(NotRegistered::Taken),
            Ok(Joined::Refused) => self.refused(NotRegistered::Unexplained(owner)),
            Err(error) => self.failed(error),
        }
    }

    fn refused(&mut self, why: NotRegistered) -> Event {
        let (registry, journal) = (&self.handle.registry, &self.settings.journal);
        // A replica of the owner's table tells what the owner refuses.
        self.local.refused(why, |name| {
            if !registry.is_replica() {
                journal.record(|| Change::Refused { name: name.into(), reason: why.to_string().into() });
            }
        });
        // Who waited for the answer has it, and there is no node of ours any more.
        if self.local.node().is_none() {
            Event::Granted
        } else {
            Event::Failed
        }
    }

    /// Keeps an error that does not pass by itself, and tells it to who waits for the registration.
    fn failed(&mut self, error: StartError) -> Event {
        if self.trouble.lasts(&error) {
            let error = self.explained(error);
            self.local.held(&error.to_string());
            self.failure = Some(error);
        }
        Event::Failed
    }

    /// Where nobody answers, what is in the way of listening is another than who was asked.
    fn explained(&self, error: StartError) -> StartError {
        match (error, self.refused) {
            (StartError::Held { address: asked, error }, Some(wanted))
                if error.kind() == ErrorKind::ConnectionRefused =>
            {
                let is_in_the_way = |ip: &IpAddr| address::overlap(*ip, wanted.ip());
                let listening = address::listened_on(wanted.port()).ok();
                let at = |ip| SocketAddr::new(ip, wanted.port());
                let listening = listening.map(|all| all.into_iter().filter(is_in_the_way).map(at).collect());
                StartError::Unanswered { wanted, asked, listening }
            }
            (error, _) => error,
        }
    }

    /// Stays with an owner until there is a reason to look for the port again.
    async fn stay(&mut self) -> Event {
        let Some(owner) = self.owner else { return Event::Failed };
        let joined_at = Instant::now();
        let (handle, node) = (self.handle.clone(), self.local.name());
        let event = loop {
            let check = async {
                sleep(CHECK_INTERVAL).await;
                client::is_registered(owner, node.as_ref().map(NodeName::as_str)).await
            };
            tokio::select! {
                () = ended(self.link.as_ref()) => break Event::Ended,
                () = self.local.changed() => break Event::Changed,
                Some(other) = self.moves.recv() => match self.relocate(other) {
                    // The owner may be the same. The link is kept to find out.
                    Some(Event::Taken) => break Event::Moved,
                    Some(event) => break event,
                    None => {}
                },
                answer = check => match answer {
                    Ok(found) => {
                        self.owner_answers(owner, true);
                        // The owner has lost our registration without ending the link, so the link is useless.
                        if !found && self.link.is_some() {
                            break Event::Ended;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::TimedOut => self.owner_answers(owner, false),
                    // A standby notices the end of the owner by itself, and is about to serve.
                    Err(_) if *handle.stands_by.borrow() => {}
                    Err(_) => break Event::Ended,
                },
            }
        };
        if event != Event::Moved {
            self.link = None;
        }
        match event {
            Event::Ended => {
                self.short_links = if joined_at.elapsed() < SHORT_LINK { self.short_links + 1 } else { 0 };
                if self.short_links > MAX_SHORT_LINKS {
                    Event::Failed
                } else {
                    self.backoff = Backoff::up_to(MAX_BACKOFF);
                    Event::Ended
                }
            }
            event => event,
        }
    }

    async fn back_off(&mut self) -> Event {
        let pause = self.trouble.pause(self.backoff.next());
        tokio::select! {
            () = sleep(pause) => Event::BackedOff,
            () = self.local.changed() => Event::Changed,
            Some(other) = self.moves.recv() => self.relocate(other).unwrap_or(Event::BackedOff),
        }
    }

    /// Enters the state that follows this event, and publishes the new role.
    fn enter(&mut self, event: Event) {
        self.state = self.state.after(event);
        let role = self.handle.status.lock().role;
        match self.state {
            State::Serving => {
                let Some(startup) = &self.startup else { return };
                let own = self.local.node().map(|node| {
                    let link = self.link.as_ref().and_then(|link| link.ends().ok());
                    OwnNode { name: node.name.as_str().into(), port: node.port, link }
                });
                let held = self.holdings.lock().take_connections(own.as_ref());
                // Not before: a connection whose other end is closed may not tell its addresses.
                self.link = None;
                let (addresses, port) = (startup.listeners.addresses(), startup.listeners.port);
                let how = match startup.origin {
                    Origin::Bound => "serving the port",
                    Origin::Restored | Origin::TookOver { .. } => "serving the port in its last owner's place",
                };
                tracing::info!(port, ?addresses, "{how}");
                self.trouble = Trouble::default();
                // Nodes whose connections are not here have this time to register again.
                let can_return = match startup.origin {
                    Origin::Bound => self.was_joined,
                    Origin::Restored => false,
                    Origin::TookOver { is_behind } => is_behind,
                };
                let settles_at = can_return.then(|| std::time::Instant::now() + GRACE_PERIOD);
                let restored = self.change(Role::Serving, |status| {
                    status.owner = None;
                    status.owner_answers = true;
                    status.addresses = addresses;
                    status.port = port;
                    // Whoever sees the role looks names up in the table.
                    self.handle.registry.promote(held, settles_at)
                });
                if let Some(startup) = &mut self.startup {
                    startup.restored = restored;
                }
            }
            State::Joined => {
                self.was_joined = true;
                self.trouble = Trouble::default();
                let Some(owner) = self.owner else { return };
                if role == Role::Joined {
                    self.handle.status.lock().owner = Some(owner);
                    return;
                }
                tracing::info!(%owner, "joined the owner of the port");
                self.change(Role::Joined, |status| status.owner = Some(owner));
                self.joined.notify_one();
            }
            // The role stays: after a change of node or addresses it is most likely the same owner.
            State::Joining => {}
            State::Searching | State::BackingOff if role == Role::Joined => {
                if let Some(owner) = self.owner.take() {
                    tracing::info!(%owner, "the link to the owner of the port ended");
                }
                self.change(Role::Searching, |status| {
                    status.owner = None;
                    status.owner_answers = true;
                });
            }
            State::Searching | State::BackingOff => {}
        }
    }

    fn change<T>(&self, role: Role, change: impl FnOnce(&mut Status) -> T) -> T {
        let mut status = self.handle.status.lock();
        status.role = role;
        status.since = SystemTime::now();
        status.changes += 1;
        self.handle.registry.journal().record(|| Change::Role(role));
        change(&mut status)
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
}

/// Waits for the end of the link, if there is one.
async fn ended(link: Option<&Link>) {
    match link {
        Some(link) => link.ended().await,
        None => std::future::pending().await,
    }
}
