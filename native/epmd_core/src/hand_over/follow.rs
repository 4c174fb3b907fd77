//! The follower's side: keeps a replica of the owner's table and, as a standby, everything else that the owner has; and
//! serves when the owner ends. The rules are those of [`super::succession`].

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::ioctl_fionbio;
use tokio::sync::{watch, Notify};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, sleep_until, timeout, Instant, Interval, MissedTickBehavior};

use super::channel::{self, Failure, Receiver, Sender};
use super::hello::{Hello, Resume, HELLO_TIMEOUT};
use super::holdings::{Holdings, Inherited};
use super::lock::{OwnerLock, PendingLock};
use super::meeting::{meet, NotMet};
use super::message::Message;
use super::obstacle::Obstacle;
use super::settings::HandOver;
use super::succession::{Action, Event, Follower};
use crate::address::{is_tcp, LOOPBACKS};
use crate::backoff::Backoff;
use crate::health::{Health, Report};
use crate::limits::Limits;
use crate::node::NodeName;
use crate::os;
use crate::registry::log::{InvalidEntry, LogEntry, Position};
use crate::registry::{Entry, Incoming, Registry};
use crate::reserve::Reserve;

/// How often a follower says that it is alive.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a member without a node waits for one, so that the owner can log the standby by name.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a replica goes on answering after its owner has gone, if this member cannot serve and no other owner can be
/// followed.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest pause before the next attempt, and the pause after a failure that will not pass soon.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
const LONG_PAUSE: Duration = Duration::from_secs(60);
/// After how many attempts in a row it is told that the owner does not call.
const NOT_CALLED: u32 = 5;
/// How many reports an owner waits for at one time.
const MAX_REPORTS: usize = 2;
/// How long a member that is behind leaves the lock to those that are not; twice as long if others are less behind.
const PRECEDENCE: Duration = Duration::from_millis(100);
/// The longest pause before it is looked again whether the lock is free, while there is no session that would end.
const MAX_LOCK_PAUSE: Duration = Duration::from_millis(100);

/// A member that follows the owner.
pub(crate) struct Candidate {
    /// Where the owner is met.
    pub(crate) owner: Box<dyn Fn() -> SocketAddr + Send + Sync>,
    /// Notified when this member has joined an owner.
    pub(crate) joined: Arc<Notify>,
    /// Where this member listens when it serves.
    pub(crate) addresses: Vec<IpAddr>,
    /// This VM's node, once there is one.
    pub(crate) node: watch::Receiver<Option<NodeName>>,
    /// Whether it may stand by, and for whom.
    pub(crate) settings: watch::Receiver<HandOver>,
    /// Its current limits.
    pub(crate) limits: Box<dyn Fn() -> Limits + Send + Sync>,
    /// The replica.
    pub(crate) registry: Registry,
    pub(crate) holdings: Arc<Mutex<Holdings>>,
    /// Where it publishes whether it stands by.
    pub(crate) stands_by: Arc<watch::Sender<bool>>,
    /// Where it publishes why it cannot.
    pub(crate) obstacle: Obstacle,
    /// The health of this VM, after which the owner may ask.
    pub(crate) health: Health,
}

/// What a new owner serves with, beside the connections in its holdings.
#[derive(Debug)]
pub(crate) struct Takeover {
    pub(crate) sockets: Vec<TcpListener>,
    /// Whether the service manager holds them as well.
    pub(crate) lent: bool,
    pub(crate) lock: OwnerLock,
    pub(crate) reserve: Reserve,
    /// Whether another process may have served after the owner that put this member in sync.
    pub(crate) is_behind: bool,
    pub(crate) last_owner: Option<LastOwner>,
}

/// The channel to the last owner, which waits to hear who serves.
#[derive(Debug)]
pub(crate) struct LastOwner(Sender);

impl LastOwner {
    /// Tells the last owner that this member serves now.
    pub(crate) fn confirm(mut self) {
        let _ = self.0.send(&Message::TakenOver.encode(), None);
    }
}

/// Why a session ends that the owner has not ended.
#[derive(Debug)]
enum Failed {
    /// The owner has gone, or wants this member to connect again.
    Gone,
    /// A log entry does not fit the replica, which begins anew.
    Diverged(InvalidEntry),
    /// What the owner sends cannot be used.
    Malformed,
    /// This process cannot stand by; it may have the replica all the same.
    OutOfDescriptors,
    /// The same, since the owner has more nodes than this server may have descriptors.
    TooManyNodes { most: usize },
}

impl From<InvalidEntry> for Failed {
    fn from(invalid: InvalidEntry) -> Self {
        Self::Diverged(invalid)
    }
}

/// A session with an owner.
#[derive(Debug)]
struct Session {
    sender: Sender,
    receiver: Receiver,
    /// The process of the owner.
    owner: Option<i32>,
    /// Where the owner listens.
    addresses: Vec<IpAddr>,
    /// The table of the owner, once it has begun to send it.
    epoch: Option<u64>,
    /// The snapshot, until it is complete, and the connections that came with it.
    incoming: Option<Incoming>,
    connections: Vec<(Arc<Entry>, OwnedFd)>,
    /// The listeners, until everything has come.
    listeners: Vec<TcpListener>,
    lent: bool,
    /// Whether the owner lets this member stand by: then it sends its listeners, and each connection from then on.
    has_permit: bool,
    /// What was not sent yet.
    outgoing: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    /// The reports that the owner has asked for.
    reports: JoinSet<Report>,
    alive: Interval,
}

struct Following {
    candidate: Candidate,
    rules: Follower,
    session: Option<Session>,
    /// What to serve with, once the lock is held.
    takeover: Option<Takeover>,
    /// The channel to an owner that has asked to take over.
    last_owner: Option<LastOwner>,
    /// Whether another process was seen to have the lock since this member was in sync.
    is_passed_over: bool,
    backoff: Backoff,
    pause: Duration,
    /// Until when it does not try to stand by.
    unfit_until: Option<Instant>,
    /// When it was in sync for the last time.
    in_sync_until: Instant,
    has_diverged: bool,
    /// Whether the last attempt to meet an owner was closed without an answer.
    was_not_answered: bool,
    /// How many attempts in a row ended so that the owner did not call.
    not_called: u32,
    logged: String,
}

/// Follows the owner, and each owner after it, until this member holds the lock on listeners that it can serve.
pub(crate) async fn follow(candidate: Candidate) -> Takeover {
    let rules = Follower::new(candidate.holdings.lock().can_serve());
    candidate.obstacle.clear();
    let mut following = Following {
        candidate,
        rules,
        session: None,
        takeover: None,
        last_owner: None,
        is_passed_over: false,
        backoff: Backoff::up_to(MAX_BACKOFF),
        pause: Duration::ZERO,
        unfit_until: None,
        in_sync_until: Instant::now(),
        has_diverged: false,
        was_not_answered: false,
        not_called: 0,
        logged: String::new(),
    };
    let mut node = following.candidate.node.clone();
    let _ = timeout(NODE_TIMEOUT, node.wait_for(Option::is_some)).await;
    let mut event = Event::Ended;
    loop {
        if !following.candidate.settings.borrow().is_enabled() {
            following.give_up();
            HandOver::enabled(&mut following.candidate.settings).await;
        }
        let (rules, action) = following.rules.after(event);
        following.rules = rules;
        event = match action {
            Action::Lock => {
                if let Some(time) = following.precedence() {
                    sleep(time).await;
                }
                following.lock()
            }
            Action::Serve => match following.takeover.take() {
                Some(takeover) => return takeover,
                None => Event::Ended,
            },
            Action::Bring => {
                following.bring();
                following.run_session().await
            }
            Action::DropListeners => {
                following.candidate.holdings.lock().drop_listeners();
                following.meet().await
            }
            Action::GiveUp => {
                following.candidate.holdings.lock().give_up();
                following.meet().await
            }
            Action::Follow | Action::Meet => following.go_on().await,
        };
    }
}

/// A member that wants other addresses follows anew. Until it stands by again, it must notice the end of its owner in
/// another way.
impl Drop for Following {
    fn drop(&mut self) {
        self.candidate.stands_by.send_replace(false);
    }
}

impl Following {
    /// Goes on with the session, or looks for an owner.
    async fn go_on(&mut self) -> Event {
        if self.session.is_some() {
            self.run_session().await
        } else {
            self.meet().await
        }
    }

    /// There is no handover any more.
    fn give_up(&mut self) {
        self.end_session();
        self.candidate.obstacle.clear();
        self.rules = Follower::default();
        self.candidate.holdings.lock().give_up();
        self.candidate.registry.give_up();
    }

    fn end_session(&mut self) -> Option<Session> {
        if self.rules.is_in_sync() {
            self.in_sync_until = Instant::now();
        }
        self.candidate.stands_by.send_replace(false);
        self.session.take()
    }

    /// Whether another process may have served after the owner that put this member in sync, so that others may have
    /// more than it has.
    fn is_behind(&self) -> bool {
        self.is_passed_over || !self.is_complete(self.candidate.registry.settled_replica())
    }

    /// How long to leave the lock to those that may have more. Who has all of the owner that it followed last comes before
    /// who has not, also if that owner served too briefly to have all of the one before.
    fn precedence(&self) -> Option<Duration> {
        let has_all = self.is_complete(self.candidate.registry.replica_position());
        self.is_behind().then_some(if has_all { PRECEDENCE } else { 2 * PRECEDENCE })
    }

    /// Whether this member has all connections of the table of which its replica is.
    fn is_complete(&self, position: Option<Position>) -> bool {
        position.is_some_and(|at| self.candidate.holdings.lock().complete_for() == Some(at.epoch))
    }

    /// Tries to lock the listeners.
    fn lock(&mut self) -> Event {
        let is_behind = self.is_behind();
        let mut holdings = self.candidate.holdings.lock();
        let Some(inherited) = holdings.take_listeners() else { return Event::Locked { is_listening: false } };
        let Inherited { sockets, lent, owner, lock, reserve } = inherited;
        match lock.try_lock() {
            Ok(lock) => {
                // An owner that replaces its listeners shuts the old ones.
                let is_listening = sockets.iter().all(os::is_listening);
                if is_listening {
                    let last_owner = self.last_owner.take();
                    self.takeover = Some(Takeover { sockets, lent, lock, reserve, is_behind, last_owner });
                }
                Event::Locked { is_listening }
            }
            Err((lock, error)) => {
                self.is_passed_over |= lock.holder().is_some_and(|holder| Some(holder) != owner);
                holdings.put_listeners(Inherited { sockets, lent, owner, lock, reserve });
                drop(holdings);
                if let Some(error) = error {
                    self.log(&format!("the listeners cannot be locked: {error}"));
                }
                Event::Occupied
            }
        }
    }

    /// Looks for the owner, after a pause if the last attempt failed.
    async fn meet(&mut self) -> Event {
        let Candidate { owner, joined, registry, holdings, .. } = &self.candidate;
        let mut settings = self.candidate.settings.clone();
        let HandOver { trusted, .. } = settings.borrow_and_update().clone();
        let gone_at = self.in_sync_until + REPLICA_TIMEOUT;
        let can_serve = self.rules.can_serve();
        let pause = std::mem::take(&mut self.pause);
        let meeting = async {
            tokio::select! {
                () = sleep(pause) => {}
                () = joined.notified() => {}
            }
            meet(owner(), &trusted).await
        };
        let lock_is_free = async {
            let mut pause = Backoff::up_to(MAX_LOCK_PAUSE);
            loop {
                sleep(pause.next()).await;
                if holdings.lock().listeners().is_none_or(|inherited| inherited.lock.is_free()) {
                    return;
                }
            }
        };
        let is_stale = async {
            sleep_until(gone_at).await;
            registry.give_up();
            std::future::pending().await
        };
        let met = tokio::select! {
            met = meeting => met,
            () = lock_is_free, if can_serve => return Event::Ended,
            () = is_stale, if !can_serve && registry.is_replica() => return Event::Ended,
            Ok(()) = settings.changed() => return Event::Ended,
        };
        self.pause = self.backoff.next();
        if !matches!(met, Err(NotMet::NotAMember)) {
            self.was_not_answered = false;
        }
        if let Err(why) = &met {
            tracing::debug!(?why, pause = ?self.pause, "the owner was not met");
        }
        self.not_called = if matches!(met, Err(NotMet::NotCalled)) { self.not_called.saturating_add(1) } else { 0 };
        let why = match met {
            Ok(channel) => return self.greet(channel).await,
            // An owner that ends just then closes the connection without an answer, too.
            Err(NotMet::NotAMember) if std::mem::replace(&mut self.was_not_answered, true) => {
                self.candidate.obstacle.clear();
                return Event::NotAMember;
            }
            Err(NotMet::NotAMember) => return Event::Ended,
            Err(NotMet::Absent) => return Event::Ended,
            Err(NotMet::NotCalled) => {
                // An owner that ends just then does not call, either, and one that is busy calls too late.
                if self.not_called >= NOT_CALLED {
                    self.log("the owner does not call back: its log and its doctor say why");
                }
                return Event::Ended;
            }
            // Anybody may have called, before the owner did. With a long pause, one call a minute would keep this member
            // from standing by.
            Err(NotMet::Untrusted(error)) => {
                self.log(&error.to_string());
                return Event::Ended;
            }
            Err(NotMet::Failed(error)) => channel::explain(&error),
        };
        self.pause = LONG_PAUSE;
        self.log(&why);
        Event::Ended
    }

    /// Exchanges hellos.
    async fn greet(&mut self, (mut sender, mut receiver, owner): (Sender, Receiver, Option<i32>)) -> Event {
        let Candidate { addresses, node, registry, holdings, .. } = &mut self.candidate;
        let position = registry.replica_position().filter(|_| !self.has_diverged);
        let complete_for = holdings.lock().complete_for();
        let resume =
            position.map(|position| Resume { position, has_connections: complete_for == Some(position.epoch) });
        let stands_by = self.unfit_until.is_none_or(|until| until <= Instant::now());
        let hello = Hello::new(addresses.clone(), node.borrow_and_update().clone());
        let hello = Hello { stands_by, resume, ..hello };
        if sender.send(&Message::Hello(hello.clone()).encode(), None).is_err() {
            return Event::Ended;
        }
        let Ok(Ok((Message::Hello(said), None))) = timeout(HELLO_TIMEOUT, receiver.receive()).await else {
            return Event::Ended;
        };
        match said.fits(&hello) {
            Err(why) => self.log(&why),
            Ok(()) if stands_by => self.candidate.obstacle.clear(),
            Ok(()) => {}
        }
        let mut alive = interval(KEEPALIVE_INTERVAL);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.session = Some(Session {
            sender,
            receiver,
            owner,
            addresses: said.addresses,
            epoch: None,
            incoming: None,
            connections: Vec::new(),
            listeners: Vec::new(),
            lent: false,
            has_permit: false,
            outgoing: VecDeque::new(),
            reports: JoinSet::new(),
            alive,
        });
        Event::Met
    }

    /// Brings to the owner what its table lacks.
    fn bring(&mut self) {
        let Some(session) = &mut self.session else { return };
        for (entry, connection) in self.candidate.holdings.lock().missing() {
            session.outgoing.push_back((Message::Missing(entry).encode_with(true), Some(connection)));
        }
        session.send();
    }

    /// Runs the session until something happens that the rules decide about.
    async fn run_session(&mut self) -> Event {
        let failed = loop {
            let Some(session) = &mut self.session else { return Event::Ended };
            let stream = session.sender.stream();
            let fit_again = self.unfit_until;
            let Candidate { settings, node, .. } = &mut self.candidate;
            tokio::select! {
                biased;
                received = session.receiver.receive() => match received {
                    Ok((message, descriptor)) => match self.receive(message, descriptor) {
                        Ok(None) => {}
                        Ok(Some(Event::TakeOver)) => {
                            self.last_owner = self.end_session().map(|session| LastOwner(session.sender));
                            return Event::TakeOver;
                        }
                        Ok(Some(event)) => return event,
                        Err(failed) => break failed,
                    },
                    Err(Failure::Closed) => break Failed::Gone,
                    Err(Failure::Malformed) => break Failed::Malformed,
                    Err(Failure::OutOfDescriptors) => break Failed::OutOfDescriptors,
                },
                _ = session.alive.tick() => {
                    if session.outgoing.is_empty() {
                        session.outgoing.push_back((Message::Alive.encode(), None));
                    }
                    session.send();
                }
                _ = stream.writable(), if !session.outgoing.is_empty() => session.send(),
                Some(Ok(report)) = session.reports.join_next(), if session.outgoing.is_empty() => {
                    session.outgoing.push_back((Message::Report(report).encode(), None));
                    session.send();
                }
                Ok(()) = settings.changed() => break Failed::Gone,
                Ok(()) = node.changed() => break Failed::Gone,
                () = async { sleep_until(fit_again.unwrap_or_else(Instant::now)).await }, if fit_again.is_some() => {
                    self.unfit_until = None;
                    break Failed::Gone;
                }
            }
        };
        self.end_session();
        self.has_diverged = matches!(failed, Failed::Diverged(_));
        match failed {
            Failed::Gone => tracing::debug!("the session with the owner ended"),
            Failed::Diverged(InvalidEntry(what)) => {
                tracing::debug!(%what, "the replica of the owner's table begins anew, since it was sent something invalid");
            }
            Failed::Malformed => {
                self.pause = LONG_PAUSE;
                self.log("the owner sent an invalid message");
            }
            Failed::OutOfDescriptors => {
                self.unfit_until = Some(Instant::now() + LONG_PAUSE);
                tracing::error!("no descriptors are left to stand by for the owner of the port");
                self.candidate.obstacle.set("no descriptors are left for it");
                return Event::Unfit;
            }
            Failed::TooManyNodes { most } => {
                self.unfit_until = Some(Instant::now() + LONG_PAUSE);
                self.log(&format!(
                    "the owner has more nodes than this server may have descriptors here, which are {most}"
                ));
                return Event::Unfit;
            }
        }
        Event::Ended
    }

    /// Carries a message of the owner out. Returns what the rules have to decide about.
    fn receive(&mut self, message: Message, descriptor: Option<OwnedFd>) -> Result<Option<Event>, Failed> {
        let Candidate { addresses, owner, registry, holdings, limits, stands_by, obstacle, health, .. } =
            &self.candidate;
        let Some(session) = &mut self.session else { return Err(Failed::Gone) };
        let held = || holdings.lock().len() + session.connections.len();
        match (message, descriptor) {
            (Message::Log(entry), connection) => {
                let connection = connection.map(|connection| checked(connection, held(), limits().descriptors()));
                if !session.follow(entry, connection.transpose()?, registry, &mut holdings.lock())? {
                    return Ok(None);
                }
                self.has_diverged = false;
                (self.backoff, self.pause) = (Backoff::up_to(MAX_BACKOFF), Duration::ZERO);
                Ok(Some(Event::InSync))
            }
            (Message::Connection(id), Some(connection)) => {
                let connection = checked(connection, held(), limits().descriptors())?;
                // One that has ended meanwhile is not there any more.
                if let Some(entry) = registry.get(id) {
                    holdings.lock().insert(entry, connection);
                }
                Ok(None)
            }
            (Message::Listener { lent }, Some(descriptor)) => {
                let listener = listener(descriptor, owner().port(), addresses)?;
                (session.lent, session.has_permit) = (lent, true);
                let mut holdings = holdings.lock();
                match holdings.listeners_mut().filter(|_| self.rules.stands_by()) {
                    Some(inherited) => {
                        inherited.lock.extend(&listener).map_err(|_| Failed::OutOfDescriptors)?;
                        inherited.sockets.push(listener);
                    }
                    None => session.listeners.push(listener),
                }
                Ok(None)
            }
            (Message::StandBy, None) if self.rules.is_in_sync() && !session.listeners.is_empty() => {
                // What serving takes is acquired now, so that no descriptor is missing when the owner ends.
                let reserve = Reserve::new();
                let lock = PendingLock::on(&session.listeners);
                let (true, Ok(lock)) = (reserve.is_whole(), lock) else { return Err(Failed::OutOfDescriptors) };
                let sockets = std::mem::take(&mut session.listeners);
                let inherited = Inherited { sockets, lent: session.lent, owner: session.owner, lock, reserve };
                let mut holdings = holdings.lock();
                holdings.put_listeners(inherited);
                session.epoch.into_iter().for_each(|epoch| holdings.complete(epoch));
                tracing::info!(names = registry.len(), "standing by for the owner of the port");
                stands_by.send_replace(true);
                obstacle.clear();
                (self.is_passed_over, self.last_owner) = (false, None);
                Ok(Some(Event::StandBy))
            }
            (Message::Examine(question), None) => {
                // An owner asks each question once at a time.
                if session.reports.len() < MAX_REPORTS {
                    let health = health.clone();
                    session.reports.spawn(async move { health.report(question).await });
                }
                Ok(None)
            }
            (Message::TakeOver, None) if self.rules.stands_by() => Ok(Some(Event::TakeOver)),
            (Message::Reconnect, None) => Err(Failed::Gone),
            _ => Err(Failed::Malformed),
        }
    }

    /// Logs why this member cannot stand by, unless that was logged last.
    fn log(&mut self, reason: &str) {
        self.candidate.obstacle.set(reason);
        if reason != self.logged {
            tracing::warn!(%reason, "this VM cannot stand by for the owner of the port");
            self.logged = reason.into();
        }
    }
}

impl Session {
    /// Follows an entry of the log, which may come with a connection. Returns whether a snapshot is complete now.
    fn follow(
        &mut self,
        entry: LogEntry,
        connection: Option<OwnedFd>,
        registry: &Registry,
        holdings: &mut Holdings,
    ) -> Result<bool, Failed> {
        let registered = match (&entry, connection) {
            (LogEntry::Registered(entry), Some(connection)) => Some((Arc::clone(entry), connection)),
            // To a standby it comes without a connection if it has none, or none any more.
            (LogEntry::Registered(entry), None) => {
                holdings.registered_alone(entry, self.has_permit);
                None
            }
            (_, None) => None,
            (_, Some(_)) => return Err(Failed::Malformed),
        };
        match (entry, &mut self.incoming) {
            (LogEntry::Begin { epoch, refusals }, None) if self.epoch.is_none() => {
                self.epoch = Some(epoch);
                self.incoming = Some(Incoming::new(epoch, refusals));
            }
            (_, None) if self.epoch.is_none() => return Err(Failed::Malformed),
            (LogEntry::InSync, Some(_)) => {
                if let Some(incoming) = self.incoming.take() {
                    registry.replace(incoming, &self.addresses);
                }
                holdings.sort(registry);
                self.connections.drain(..).for_each(|(entry, connection)| holdings.insert(entry, connection));
                return Ok(true);
            }
            (entry, Some(incoming)) => {
                registry.build(incoming, entry)?;
                self.connections.extend(registered);
            }
            (entry, None) => {
                if let LogEntry::Ended(id, _) = &entry {
                    holdings.remove(*id);
                }
                registry.follow(entry)?;
                if let Some((entry, connection)) = registered {
                    holdings.insert(entry, connection);
                }
            }
        }
        Ok(false)
    }

    /// Sends what there is to send, as far as possible without waiting.
    fn send(&mut self) {
        while let Some((bytes, descriptor)) = self.outgoing.front() {
            // Another failure does not matter: the end of the owner is found by reading.
            match self.sender.send(bytes, descriptor.as_ref().map(AsFd::as_fd)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || os::passing::is_crowded(&error) => return,
                _ => drop(self.outgoing.pop_front()),
            }
        }
    }
}

/// The connection of a registered node, if this process may have one more than it holds.
fn checked(connection: OwnedFd, held: usize, most: usize) -> Result<OwnedFd, Failed> {
    if held >= most {
        return Err(Failed::TooManyNodes { most });
    }
    if is_connection(&connection) && ioctl_fionbio(&connection, true).is_ok() {
        Ok(connection)
    } else {
        Err(Failed::Malformed)
    }
}

/// Whether a descriptor can be that of a registered node's connection.
pub(super) fn is_connection(descriptor: &OwnedFd) -> bool {
    is_tcp(descriptor) && !os::is_listening(descriptor)
}

/// Checks that a descriptor is a listener that this member would open itself.
fn listener(descriptor: OwnedFd, port: u16, addresses: &[IpAddr]) -> Result<TcpListener, Failed> {
    if !is_tcp(&descriptor) {
        return Err(Failed::Malformed);
    }
    let listener = TcpListener::from(descriptor);
    let may_listen_on = |address: IpAddr| addresses.contains(&address) || LOOPBACKS.contains(&address);
    let is_wanted = listener.local_addr().is_ok_and(|bound| bound.port() == port && may_listen_on(bound.ip()));
    // An owner that replaces its listeners shuts those that it has just sent.
    if is_wanted && os::is_listening(&listener) && listener.set_nonblocking(true).is_ok() {
        Ok(listener)
    } else {
        Err(Failed::Gone)
    }
}
