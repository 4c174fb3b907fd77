//! The owner's side: calls the followers that ask for it, sends them the log of the table, and to standbys what they need
//! to take over.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, TcpStream};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fd::{AsFd, OwnedFd};
use tokio::sync::{mpsc, oneshot, watch, Notify};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout, timeout_at, Instant};

use super::channel::{self, Failure, Receiver, Sender};
use super::follow::is_connection;
use super::hello::{Hello, Standby, HELLO_TIMEOUT};
use super::lock::OwnerLock;
use super::meeting::{self, Name};
use super::message::Message;
use super::obstacle::Obstacle;
use super::peer;
use super::places::{resume_until, Place, Places};
use super::session::{Heard, Outgoing, Session};
use super::settings::HandOver;
use super::succession::Stopped;
use crate::health::{Question, Report};
use crate::node::NodeName;
use crate::os::{self, UnixStream};
use crate::registry::log::Subscription;
use crate::registry::{Descriptor, Entry, Holder, NodeConnection, Registration, Registry};
use crate::reserve::Reserve;

/// How long a follower may stay silent. It sends something every 5 seconds.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(12);
/// How long a standby may take to confirm that it serves. It normally takes less than a millisecond, but its process may
/// have to wait for a processor. A VM's supervisor waits for 5 seconds in all.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one that was not asked to take over may take to notice that it can. It looks at least ten times a second, and
/// one that is behind leaves the others a tenth of a second.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// How often an owner that stops looks whether another has the lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);
/// How long after a change of owner, or after the end of a session, whoever has a copy of everything may have no session
/// and not know yet that it can serve.
const HEIRS_COME: Duration = Duration::from_secs(10);
/// Members that may follow, or wait for a place to stand by, at one time.
const MAX_FOLLOWERS: usize = 256;
/// Messages that are sent to one follower before other tasks run.
const MESSAGES_AT_ONCE: usize = 256;
/// The pause before a descriptor is sent again while too many are on their way.
const CROWDED_PAUSE: Duration = Duration::from_millis(50);

/// The owner's offer to other members to follow it. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Primary {
    context: Arc<Context>,
    /// The task that calls followers.
    calling: JoinSet<()>,
}

/// What an owner offers.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) node: Option<NodeName>,
    /// Whether the service manager holds the listeners as well.
    pub(crate) lent: bool,
    pub(crate) registry: Registry,
    pub(crate) links: Links,
    /// How many may stand by, and who.
    pub(crate) settings: watch::Receiver<HandOver>,
    /// Where the current standbys are published.
    pub(crate) standbys: Arc<watch::Sender<Vec<Standby>>>,
    /// Where it is published why nobody can stand by.
    pub(crate) obstacle: Obstacle,
    /// Where registrations go that followers bring, to be held as long as their connections last.
    pub(crate) brought: mpsc::UnboundedSender<(Registration, NodeConnection)>,
}

#[derive(Debug)]
struct Context {
    offer: Offer,
    addresses: Mutex<Vec<IpAddr>>,
    listeners: watch::Sender<Vec<Arc<dyn Descriptor>>>,
    places: Mutex<Arc<Places>>,
    followers: Mutex<JoinSet<()>>,
    exposed: Notify,
    taken_over: Notify,
    /// Why processes could not follow, each logged once.
    logged: Mutex<BTreeSet<String>>,
    /// Until when standbys of the last owner are waited for.
    resume_until: Instant,
    /// Until when others may hold what they were given, and have no session: the last owner's standbys, and those of this
    /// owner that have just left.
    heirs_until: Mutex<Instant>,
}

/// The sessions with all followers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    last_id: u64,
    links: BTreeMap<u64, Link>,
}

#[derive(Debug)]
struct Link {
    sender: Sender,
    session: Session,
    follower: Standby,
    /// Whether it was told that this one stands by.
    is_listed: bool,
    /// Notified when the follower is asked something, and when the link is ended.
    asked: Arc<Notify>,
    /// The message that the socket had no room for.
    waiting: Option<Outgoing>,
}

/// The result of sending as much as possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Everything is sent.
    Done,
    /// The socket is full until the other end reads.
    Blocked,
    /// Too many descriptors are on their way.
    Crowded,
    /// There is more to send; other tasks run first.
    More,
}

/// Why a session ended.
#[derive(Debug)]
enum Reason {
    Gone,
    Silent,
    Slow,
    Malformed,
    /// The owner's settings or listeners have changed.
    Changed,
    Failed(io::Error),
}

impl Reason {
    fn describe(&self) -> String {
        match self {
            Self::Gone => "it has gone".into(),
            Self::Silent => format!("it has said nothing for {} seconds", SILENCE_TIMEOUT.as_secs()),
            Self::Slow => "it is too slow".into(),
            Self::Malformed => "what it says is no message".into(),
            Self::Changed => "the settings have changed".into(),
            Self::Failed(error) => error.to_string(),
        }
    }
}

impl Link {
    /// Sends what the follower lacks, as far as possible without waiting.
    fn pass(&mut self) -> Result<Progress, Reason> {
        for _ in 0..MESSAGES_AT_ONCE {
            let next = match self.waiting.take() {
                Some(waiting) => Some(waiting),
                None => self.session.next().map_err(|_| Reason::Slow)?,
            };
            let Some((bytes, descriptor)) = next else { return Ok(Progress::Done) };
            match self.sender.send(&bytes, descriptor.as_deref().map(AsFd::as_fd)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(Reason::Gone),
                Err(error) => {
                    self.waiting = Some((bytes, descriptor));
                    return match error {
                        error if error.kind() == ErrorKind::WouldBlock => Ok(Progress::Blocked),
                        error if os::passing::is_crowded(&error) => Ok(Progress::Crowded),
                        error => Err(Reason::Failed(error)),
                    };
                }
            }
        }
        Ok(Progress::More)
    }

    /// Lists it if it stands by. Returns whether that is new.
    fn list(&mut self) -> bool {
        self.session.stands_by() && !std::mem::replace(&mut self.is_listed, true)
    }
}

impl Links {
    /// Sends to the standbys what they lack, as far as possible without waiting. Other followers get it a moment later
    /// from their own tasks: no node waits for them.
    pub(crate) fn pass(&self) {
        for link in self.0.lock().links.values_mut().filter(|link| link.session.has_permit()) {
            // The task of the link finds the same error and ends.
            let _ = link.pass();
        }
    }

    /// Asks the follower with this node about the health of its VM, if there is one.
    pub(crate) fn ask(&self, node: &NodeName, question: Question) -> Option<oneshot::Receiver<Report>> {
        let mut table = self.0.lock();
        let link = table.links.values_mut().rev().find(|link| link.follower.node.as_ref() == Some(node))?;
        link.asked.notify_one();
        Some(link.session.ask(question))
    }

    /// Begins a link. A follower has one: that its last one has ended may not have been noticed yet, as long as a process
    /// that it is just starting has a copy of the socket.
    fn begin(&self, sender: Sender, session: Session, follower: Standby, asked: Arc<Notify>) -> u64 {
        let mut table = self.0.lock();
        table.links.retain(|_, last| {
            let is_same = follower.node.is_some() && last.follower == follower;
            if is_same {
                last.asked.notify_one();
            }
            !is_same
        });
        table.last_id += 1;
        let id = table.last_id;
        table.links.insert(id, Link { sender, session, follower, is_listed: false, asked, waiting: None });
        id
    }

    /// The followers of which it was told that they stand by.
    fn standbys(&self) -> Vec<Standby> {
        let table = self.0.lock();
        table.links.values().filter(|link| link.is_listed).map(|link| link.follower.clone()).collect()
    }

    /// Does something with the link of this number, while it is there.
    fn with<T>(&self, id: u64, act: impl FnOnce(&mut Link) -> T) -> Option<T> {
        self.0.lock().links.get_mut(&id).map(act)
    }

    /// Ends a link. With `reconnect` the follower is told to connect again, if its socket has room at once.
    fn end(&self, id: u64, reconnect: bool) {
        if let Some(mut link) = self.0.lock().links.remove(&id).filter(|_| reconnect) {
            if link.waiting.is_none() {
                let _ = link.sender.send(&Message::Reconnect.encode(), None);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.0.lock().links.is_empty()
    }

    fn has_standby(&self) -> bool {
        self.0.lock().links.values().any(|link| link.session.stands_by())
    }

    /// Asks every standby to take over; the first to lock the listeners does.
    fn request_takeover(&self) {
        self.0.lock().links.values_mut().for_each(|link| link.session.end());
        self.pass();
    }
}

impl Primary {
    /// Calls the followers whose names arrive, and passes these listeners to every standby. `resumes` tells whether
    /// another owner has just ended, whose standbys are about to connect.
    pub(crate) fn new(
        offer: Offer,
        names: mpsc::Receiver<Name>,
        listeners: Vec<Arc<dyn Descriptor>>,
        resumes: bool,
    ) -> Self {
        let resume_until = resume_until(resumes);
        let places = places(&offer.settings.borrow(), resume_until);
        let context = Arc::new(Context {
            addresses: Mutex::new(offer.addresses.clone()),
            offer,
            listeners: watch::Sender::new(listeners),
            places: Mutex::new(places),
            followers: Mutex::default(),
            exposed: Notify::new(),
            taken_over: Notify::new(),
            logged: Mutex::default(),
            resume_until,
            heirs_until: Mutex::new(Instant::now() + if resumes { HEIRS_COME } else { Duration::ZERO }),
        });
        let mut calling = JoinSet::new();
        calling.spawn(call_followers(Arc::clone(&context), names));
        Self { context, calling }
    }

    /// Replaces the listeners and their addresses. Standbys are told to connect again, and get the new ones.
    pub(crate) fn renew(&self, listeners: Vec<Arc<dyn Descriptor>>, addresses: Vec<IpAddr>) {
        *self.context.addresses.lock() = addresses;
        self.context.listeners.send_replace(listeners);
    }

    /// Adds listeners. Current standbys get them too.
    pub(crate) fn extend(&self, new: Vec<Arc<dyn Descriptor>>) {
        let links = &self.context.offer.links;
        links.0.lock().links.values_mut().for_each(|link| link.session.extend(&new));
        links.pass();
        // Without a notification: no standby has to connect again.
        self.context.listeners.send_if_modified(|listeners| {
            listeners.extend(new);
            false
        });
    }

    /// Waits until a process that is not to serve has copies of the listeners: a standby that hangs, or one whose user
    /// is not trusted any more. They may keep the port taken.
    pub(crate) async fn exposed(&self) {
        self.context.exposed.notified().await;
    }

    /// Waits for a standby, if another owner has just ended whose standbys are about to connect. The caller must still
    /// serve, since they come over the port.
    pub(crate) async fn await_standby(&self) {
        let mut standbys = self.context.offer.standbys.subscribe();
        let _ = timeout_at(self.context.resume_until, standbys.wait_for(|standbys| !standbys.is_empty())).await;
    }

    /// Whether others may hold what they were given, and have no session: they can serve with it, as long as the sockets
    /// are not shut.
    pub(crate) fn may_have_heirs(&self) -> bool {
        Instant::now() < *self.context.heirs_until.lock()
    }

    /// Whether other members follow this owner, though they may not stand by.
    pub(crate) fn has_followers(&self) -> bool {
        !self.context.offer.links.is_empty()
    }

    /// Hands over to a standby, or to any other that can serve. The caller must have stopped accepting and registering.
    /// Returns the lock if no other process serves: then none can later.
    pub(crate) async fn hand_over(&mut self, lock: OwnerLock) -> Result<(), OwnerLock> {
        let Context { offer, taken_over, .. } = &*self.context;
        let has_standby = offer.links.has_standby();
        if !has_standby && !self.may_have_heirs() {
            return Err(lock);
        }
        self.calling.shutdown().await;
        let pending = lock.release();
        offer.links.request_takeover();
        let deadline = Instant::now() + if has_standby { CONFIRM_TIMEOUT } else { LOCK_TIMEOUT };
        let might_serve = || !offer.standbys.borrow().is_empty() || self.may_have_heirs();
        // Whoever was not asked does not confirm it, but locks.
        while pending.is_free() && might_serve() {
            tokio::select! {
                // It may have ended since: then another has what it had, and must find the sockets open.
                () = taken_over.notified() => return Ok(()),
                () = sleep(LOCK_INTERVAL) => {}
                () = sleep_until(deadline) => break,
            }
        }
        let again = pending.try_lock().ok();
        match (Stopped::after(again.is_some()), again) {
            (Stopped::Alone, Some(lock)) => Err(lock),
            _ => Ok(()),
        }
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        // The tasks share the context that holds them, so they would never be dropped.
        self.context.followers.lock().abort_all();
        self.context.offer.standbys.send_replace(Vec::new());
    }
}

fn places(settings: &HandOver, resume_until: Instant) -> Arc<Places> {
    Arc::new(Places::new(settings.standbys, resume_until))
}

async fn call_followers(context: Arc<Context>, mut names: mpsc::Receiver<Name>) {
    let spare = Reserve::with_size(1);
    let mut settings = context.offer.settings.clone();
    let obstacle = context.offer.obstacle.clone();
    obstacle.clear();
    HandOver::enabled(&mut settings).await;
    // Nobody may ask to be called, since the others may not either.
    if let Err(error) = meeting::rehearse().await {
        let reason = channel::explain(&error);
        tracing::warn!(%reason, "no VM can stand by for this one");
        obstacle.set(&reason);
    }
    loop {
        let name = tokio::select! {
            Some(name) = names.recv() => name,
            Ok(()) = settings.changed() => {
                *context.places.lock() = places(&settings.borrow_and_update(), context.resume_until);
                continue;
            }
            else => return,
        };
        if settings.borrow().standbys == 0 {
            continue;
        }
        // One descriptor is kept in reserve for this: a VM that is full needs its standby most.
        let called = match meeting::call(name).await {
            Err(_) if spare.give_up() => meeting::call(name).await,
            called => called,
        };
        spare.restore();
        let stream = match called {
            Ok(stream) => stream,
            // The follower has ended, or strangers have filled its queue.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::WouldBlock) => continue,
            Err(error) => {
                context.log_uncallable(&channel::explain(&error));
                continue;
            }
        };
        obstacle.clear();
        let mut followers = context.followers.lock();
        while followers.try_join_next().is_some() {}
        if followers.len() < MAX_FOLLOWERS {
            followers.spawn(serve(Arc::clone(&context), stream));
        }
    }
}

/// Serves one member: exchanges hellos, and sends it the log, and what a standby needs once there is a place for it.
async fn serve(context: Arc<Context>, stream: UnixStream) {
    let offer = &context.offer;
    let mut settings = offer.settings.clone();
    let HandOver { trusted, .. } = settings.borrow_and_update().clone();
    let pid = match peer::check(&stream, &trusted) {
        Ok(pid) => pid,
        Err(error) if error.kind() == ErrorKind::NotConnected => return,
        Err(error) => return context.log_untrusted(&error),
    };
    let (mut sender, mut receiver) = channel::open(stream);
    let mut listeners = context.listeners.subscribe();
    let places = Arc::clone(&context.places.lock());
    let hello = Hello::new(context.addresses.lock().clone(), offer.node.clone());
    if sender.send(&Message::Hello(hello.clone()).encode(), None).is_err() {
        return;
    }
    let Ok(Ok((Message::Hello(said), None))) = timeout(HELLO_TIMEOUT, receiver.receive()).await else { return };
    let has_retained = said.resume.is_some_and(|resume| resume.has_connections);
    let subscription = offer.registry.subscribe(said.resume.map(|resume| resume.position));
    // If they do not fit, the other side finds that out too, and logs it.
    let may_stand_by = said.stands_by && said.fits(&hello).is_ok();
    let stream = sender.stream();
    let (session, asked) = (Session::new(Arc::clone(&subscription), has_retained), Arc::<Notify>::default());
    let standby = Standby { node: said.node, pid };
    let id = offer.links.begin(sender, session, standby.clone(), Arc::clone(&asked));
    let run = Run {
        context: &context,
        id,
        stream: &stream,
        subscription: &subscription,
        asked: &asked,
        standby: &standby,
        has_retained,
    };
    // A place that is free is taken before the table is sent, with the connections then.
    let mut place = if may_stand_by { places.try_take(has_retained) } else { None };
    let reason = tokio::select! {
        reason = run.session(receiver, &places, &mut place, may_stand_by) => reason,
        _ = settings.changed() => Reason::Changed,
        _ = listeners.changed() => Reason::Changed,
    };
    // One that hangs cannot serve, and its listeners are replaced.
    if place.is_some() && !matches!(reason, Reason::Silent | Reason::Slow) {
        *context.heirs_until.lock() = Instant::now() + HEIRS_COME;
    }
    offer.links.end(id, matches!(reason, Reason::Changed));
    let was_listed = offer.standbys.borrow().contains(&standby);
    context.list_standbys();
    if offer.registry.is_closed() {
        return;
    }
    if was_listed && !offer.standbys.borrow().contains(&standby) {
        let reason = reason.describe();
        if offer.standbys.borrow().is_empty() {
            tracing::info!(%standby, %reason, "no standby is left");
        } else {
            tracing::info!(%standby, %reason, "a standby has gone, and another is left");
        }
    }
    let is_exposed = match reason {
        Reason::Silent | Reason::Slow => true,
        Reason::Changed => {
            let now = settings.borrow().clone();
            // One that has ended has no copies any more.
            let is_denied = |error: io::Error| error.kind() == ErrorKind::PermissionDenied;
            now.standbys == 0 || peer::check(&stream, &now.trusted).is_err_and(is_denied)
        }
        Reason::Gone | Reason::Malformed | Reason::Failed(_) => false,
    };
    drop(stream);
    if place.is_some() && is_exposed {
        context.exposed.notify_one();
        // Keeps the place until the listeners are replaced, so that the next standby gets the new ones.
        let _ = listeners.changed().await;
    }
}

impl Context {
    fn list_standbys(&self) {
        let now = self.offer.links.standbys();
        self.offer.standbys.send_if_modified(|listed| {
            let changed = *listed != now;
            *listed = now;
            changed
        });
    }

    fn log_uncallable(&self, reason: &str) {
        if self.offer.obstacle.get().as_deref() != Some(reason) || self.logged.lock().insert(reason.into()) {
            tracing::warn!(%reason, "VMs that ask to stand by for this owner cannot be called");
        }
        self.offer.obstacle.set(reason);
    }

    fn log_untrusted(&self, error: &io::Error) {
        let mut logged = self.logged.lock();
        // The same process asks again and again.
        if logged.len() < MAX_FOLLOWERS && logged.insert(error.to_string()) {
            tracing::warn!(%error, "only processes of this user and of those in :hand_over may stand by");
        }
    }
}

/// A session that runs.
struct Run<'a> {
    context: &'a Context,
    id: u64,
    stream: &'a UnixStream,
    subscription: &'a Subscription,
    asked: &'a Notify,
    standby: &'a Standby,
    /// Whether it has the connections of an owner's table: of the last one's, after a change of owner.
    has_retained: bool,
}

impl Run<'_> {
    /// Sends what the follower lacks until one side ends; returns why.
    async fn session<'p>(
        &self,
        mut receiver: Receiver,
        places: &'p Places,
        place: &mut Option<Place<'p>>,
        may_stand_by: bool,
    ) -> Reason {
        let Offer { links, registry, lent, .. } = &self.context.offer;
        let (mut heard, mut is_permitted) = (Instant::now(), false);
        loop {
            if place.is_some() && !std::mem::replace(&mut is_permitted, true) {
                let listeners = self.context.listeners.borrow().clone();
                links.with(self.id, |link| link.session.permit(listeners, *lent, registry.entries()));
            }
            let (progress, is_new) = match links.with(self.id, |link| (link.pass(), link.list())) {
                Some((Ok(progress), is_new)) => (progress, is_new),
                Some((Err(reason), _)) => return reason,
                None => return Reason::Gone,
            };
            if is_new {
                tracing::info!(standby = %self.standby, "a standby has a copy of everything");
                self.context.list_standbys();
            }
            let waits = may_stand_by && !is_permitted;
            tokio::select! {
                // Reading comes first: after a stop of this process the follower's messages are there, and it was not
                // silent.
                biased;
                said = receiver.receive() => {
                    let (message, descriptor) = match said {
                        Ok(said) => said,
                        Err(Failure::Closed) => return Reason::Gone,
                        Err(Failure::Malformed | Failure::OutOfDescriptors) => return Reason::Malformed,
                    };
                    let hear = |link: &mut Link| link.session.hear(message, descriptor.is_some());
                    match links.with(self.id, hear).flatten() {
                        Some(Heard::Alive) => heard = Instant::now(),
                        Some(Heard::TakenOver) => self.context.taken_over.notify_one(),
                        Some(Heard::Missing(entry)) => self.restore(&entry, descriptor),
                        None => return Reason::Malformed,
                    }
                }
                () = sleep_until(heard + SILENCE_TIMEOUT) => return Reason::Silent,
                () = tokio::task::yield_now(), if progress == Progress::More => {}
                _ = self.stream.writable(), if progress == Progress::Blocked => {}
                () = sleep(CROWDED_PAUSE), if progress == Progress::Crowded => {}
                () = self.subscription.appended(), if progress == Progress::Done => {}
                () = self.asked.notified() => {}
                taken = places.take(self.has_retained), if waits => *place = taken,
            }
        }
    }

    /// Registers a node that was registered with an earlier owner, and that only the follower knows of.
    fn restore(&self, entry: &Entry, connection: Option<OwnedFd>) {
        let Offer { registry, brought, .. } = &self.context.offer;
        let Some(connection) = connection.filter(|connection| is_connection(connection) && !registry.is_closed())
        else {
            return;
        };
        let stream = TcpStream::from(connection);
        let Ok(connection) = stream.set_nonblocking(true).and_then(|()| os::watch(stream)).map(Arc::new) else {
            return;
        };
        let holder = Holder::Connection(Arc::downgrade(&connection) as Weak<_>);
        if let Ok(registration) = registry.bring(entry, holder) {
            let _ = brought.send((registration, connection));
        }
    }
}
