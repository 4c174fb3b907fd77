//! The owner's side: accepts followers, and passes to standbys what they need to take over.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::{watch, Notify};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout, timeout_at, Instant};

use super::channel::{self, Failure, Receiver};
use super::hello::{Hello, Standby, FIRST_VERSION, HELLO_TIMEOUT, VERSION};
use super::message::Message;
use super::permits::Permits;
use super::rendezvous::{self, Claim, Name, Rendezvous};
use super::replication::{Progress, Reason, Replication, Session, SILENCE_TIMEOUT};
use super::settings::HandOver;
use super::standby::CLAIM_TIMEOUT;
use crate::backoff::Backoff;
use crate::node::NodeName;
use crate::registry::follower::Follower;
use crate::registry::{Descriptor, Registry};
use crate::reserve::Reserve;

/// How long a standby may take to confirm that it serves. It normally takes less than a millisecond.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// How long after a change of owner to wait for the last owner's other standbys. They normally take a few milliseconds.
const RESUME_TIMEOUT: Duration = Duration::from_secs(1);
/// Members that may follow, or wait for a permit to stand by, at one time.
const MAX_FOLLOWERS: usize = 256;
/// The longest pause between attempts to claim the name.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long another process may hold the name before that is logged: an owner that is ending may still have it.
const CLAIM_WARNING: Duration = Duration::from_secs(1);

/// The owner's offer to other members to follow it. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Offer {
    context: Arc<Context>,
    /// The task that accepts members. It holds the claim.
    accepting: JoinSet<()>,
}

/// How to make an offer.
#[derive(Clone, Debug)]
pub(crate) struct OfferConfig {
    pub(crate) rendezvous: Rendezvous,
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether the service manager holds the listeners as well.
    pub(crate) lent: bool,
    pub(crate) node: Option<NodeName>,
    pub(crate) registry: Registry,
    pub(crate) replication: Replication,
    /// How many may stand by, and who.
    pub(crate) settings: watch::Receiver<HandOver>,
    /// Where the current standbys are published.
    pub(crate) standbys: Arc<watch::Sender<Vec<Standby>>>,
}

impl OfferConfig {
    /// The hello of this owner.
    pub(crate) fn hello(&self) -> Hello {
        let (addresses, node) = (self.addresses.clone(), self.node.clone());
        Hello { version: VERSION, addresses, node, stands_by: true, resume: None }
    }
}

#[derive(Debug)]
struct Context {
    config: OfferConfig,
    listeners: watch::Sender<Vec<Arc<dyn Descriptor>>>,
    permits: Mutex<Permits>,
    members: Mutex<JoinSet<()>>,
    hung: Notify,
    taken: Notify,
    /// Why processes could not stand by, each told once.
    told: Mutex<BTreeSet<String>>,
    /// Until when standbys of the last owner are waited for.
    resume_until: Instant,
}

impl Offer {
    /// Claims the rendezvous, unless it comes with a claim, and passes these listeners to every standby.
    pub(crate) fn new(config: OfferConfig, claim: Option<Claim>, listeners: Vec<Arc<dyn Descriptor>>) -> Self {
        let permits = Permits::of(&config.settings.borrow());
        let context = Arc::new(Context {
            config,
            listeners: watch::Sender::new(listeners),
            permits: Mutex::new(permits),
            members: Mutex::default(),
            hung: Notify::new(),
            taken: Notify::new(),
            told: Mutex::default(),
            resume_until: Instant::now() + if claim.is_some() { RESUME_TIMEOUT } else { Duration::ZERO },
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(Arc::clone(&context), claim));
        Self { context, accepting }
    }

    /// Replaces the listeners. Standbys are told to connect again, and get the new ones.
    pub(crate) fn renew(&self, listeners: Vec<Arc<dyn Descriptor>>) {
        self.context.listeners.send_replace(listeners);
    }

    /// Adds listeners. Current standbys get them too.
    pub(crate) fn extend(&self, new: Vec<Arc<dyn Descriptor>>) {
        self.context.config.replication.extend(&new);
        // Without a notification: no standby has to connect again.
        self.context.listeners.send_if_modified(|listeners| {
            listeners.extend(new);
            false
        });
    }

    /// Where followers find this owner.
    pub(crate) fn rendezvous(&self) -> &Rendezvous {
        &self.context.config.rendezvous
    }

    /// Offers other listeners, at another rendezvous if their first address has changed. Standbys connect again. The
    /// old rendezvous stays claimed until they must have given up their copies of the old listeners.
    pub(crate) async fn relocate(
        &mut self,
        rendezvous: Rendezvous,
        addresses: Vec<IpAddr>,
        listeners: Vec<Arc<dyn Descriptor>>,
    ) {
        self.accepting.shutdown().await;
        let last = &self.context.config;
        let claim = if last.settings.borrow().is_enabled() { last.rendezvous.claim().ok() } else { None };
        let mut members = std::mem::take(&mut *self.context.members.lock());
        members.shutdown().await;
        last.replication.end_all();
        let stays = last.rendezvous == rendezvous;
        let config = OfferConfig { rendezvous, addresses, ..last.clone() };
        let (claim, former) = if stays { (claim, None) } else { (None, claim) };
        *self = Self::new(config, claim, listeners);
        self.accepting.spawn(async move {
            sleep(CLAIM_TIMEOUT * 2).await;
            drop(former);
        });
    }

    /// Waits until a standby hangs. Its copies of the listeners may keep the port taken.
    pub(crate) async fn hung(&self) {
        self.context.hung.notified().await;
    }

    /// Hands over to a standby that has a whole copy. The caller must have stopped accepting. Returns whether another
    /// process serves now. If not, none can later: this process holds the name.
    pub(crate) async fn hand_over(&mut self) -> bool {
        let context = Arc::clone(&self.context);
        let config = &context.config;
        if !config.replication.has_whole_standby() {
            let mut standbys = config.standbys.subscribe();
            let _ = timeout_at(context.resume_until, standbys.wait_for(|standbys| !standbys.is_empty())).await;
        }
        if !config.replication.has_whole_standby() {
            return false;
        }
        // The standby must find the name free.
        self.accepting.shutdown().await;
        if !config.replication.request_takeover() {
            return false;
        }
        config.replication.pass();
        let gone = async {
            let mut standbys = config.standbys.subscribe();
            let _ = standbys.wait_for(Vec::is_empty).await;
        };
        let confirmed = tokio::select! {
            // A standby of version 1 confirms and has gone at once.
            biased;
            () = context.taken.notified() => true,
            () = gone => false,
            () = sleep(CONFIRM_TIMEOUT) => false,
        };
        // A standby that took over and could not confirm it holds the name.
        match if confirmed { None } else { config.rendezvous.claim().ok() } {
            Some(claim) => {
                self.accepting.spawn(async move {
                    let _claim = claim;
                    std::future::pending().await
                });
                false
            }
            None => {
                config.replication.set_handed_over();
                true
            }
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        // The tasks share the context that holds them, so they would never be dropped.
        self.context.members.lock().abort_all();
        self.context.config.standbys.send_replace(Vec::new());
    }
}

async fn accept(context: Arc<Context>, claim: Option<Claim>) {
    let claim = match claim {
        Some(claim) => claim,
        None => claim_name(&context.config).await,
    };
    let spare = Reserve::of(1);
    let mut settings = context.config.settings.clone();
    loop {
        let accepted = tokio::select! {
            accepted = claim.accept() => accepted,
            Ok(()) = settings.changed() => {
                *context.permits.lock() = Permits::of(&settings.borrow_and_update());
                continue;
            }
        };
        match accepted {
            Ok((stream, name)) => {
                spare.restore();
                let mut members = context.members.lock();
                while members.try_join_next().is_some() {}
                if members.len() < MAX_FOLLOWERS {
                    members.spawn(serve(Arc::clone(&context), stream, name));
                }
            }
            // The member closed at once, or no descriptor was left. One is kept in reserve for that: a VM that is full
            // needs its standby most.
            Err(_) => {
                if !spare.give_up() {
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Claims the name; tries again until it succeeds.
async fn claim_name(config: &OfferConfig) -> Claim {
    HandOver::enabled(&mut config.settings.clone()).await;
    let (mut backoff, began, mut told) = (Backoff::up_to(MAX_BACKOFF), Instant::now(), false);
    loop {
        match config.rendezvous.claim() {
            Ok(claim) => return claim,
            Err(error) => {
                if began.elapsed() > CLAIM_WARNING && !std::mem::replace(&mut told, true) {
                    tracing::warn!(error = %channel::explain(&error), "nobody can stand by for this owner");
                }
                sleep(backoff.next()).await;
            }
        }
    }
}

/// Serves one member: exchanges hellos, waits for a permit if it wants to stand by, and replicates to it.
async fn serve(context: Arc<Context>, stream: UnixStream, name: Name) {
    let config = &context.config;
    let mut settings = config.settings.clone();
    let HandOver { standbys, trusted } = settings.borrow_and_update().clone();
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let (mut sender, mut receiver) = match rendezvous::open(stream, name, &trusted) {
        Ok(ends) => ends,
        Err(error) => {
            let mut told = context.told.lock();
            // The same process asks again and again.
            if told.len() < MAX_FOLLOWERS && told.insert(error.to_string()) {
                tracing::warn!(%error, "only processes of this user and of those in :hand_over may stand by");
            }
            return;
        }
    };
    if standbys == 0 {
        return;
    }
    let mut listeners = context.listeners.subscribe();
    let permits = context.permits.lock().clone();
    let version = if name == Name::Shared { VERSION } else { FIRST_VERSION };
    let hello = Hello { version, ..config.hello() };
    if sender.send(&Message::Hello(hello.clone()).encode(), None).is_err() {
        return;
    }
    let said = match timeout(HELLO_TIMEOUT, receiver.receive()).await {
        // If they do not fit, the other side finds that out too, and logs it.
        Ok(Ok((Message::Hello(said), None))) if said.fits(&hello).is_ok() || !said.stands_by => said,
        _ => return,
    };
    let version = said.common_version(&hello);
    if config.lent && version == FIRST_VERSION {
        // It would shut the service manager's listeners.
        return;
    }
    // A standby of version 1 must be the only one.
    let permit = permits.semaphore.acquire_many(if version == FIRST_VERSION { permits.count } else { 1 });
    tokio::pin!(permit);
    let _permit = loop {
        if !said.stands_by {
            break None;
        }
        tokio::select! {
            permit = &mut permit => break permit.ok(),
            Ok(()) = settings.changed() => return,
            heard = receiver.receive() => match heard {
                Ok((Message::Alive, None)) => {}
                _ => return,
            },
        }
    };
    let passed = said.stands_by.then(|| listeners.borrow_and_update().iter().cloned().collect());
    let follower = config.registry.follow(said.resume.filter(|_| version != FIRST_VERSION));
    let stream = sender.stream();
    let id = config.replication.begin(Session::new(sender, version, passed, config.lent, Arc::clone(&follower)));
    let standby = said.stands_by.then_some(Standby { node: said.node, pid });
    let reason = tokio::select! {
        reason = run_session(&context, id, &stream, &follower, receiver, standby.as_ref()) => reason,
        _ = settings.changed() => Reason::Changed,
        _ = listeners.changed() => Reason::Changed,
    };
    let still_serves = config.replication.end(id, &reason);
    let Some(standby) = standby else { return };
    let was_listed = config.standbys.send_if_modified(|standbys| {
        let before = standbys.len();
        standbys.retain(|other| *other != standby);
        standbys.len() < before
    });
    if !still_serves {
        return;
    }
    if was_listed {
        let reason = reason.describe();
        if config.standbys.borrow().is_empty() {
            tracing::info!(%standby, %reason, "nobody stands by for this owner any more");
        } else {
            tracing::info!(%standby, %reason, "a standby has gone, and another is left");
        }
    }
    if matches!(reason, Reason::Silent | Reason::Slow) {
        context.hung.notify_one();
        // Keeps the permit until the listeners are replaced, so that the next standby gets the new ones.
        let _ = listeners.changed().await;
    }
}

/// Replicates to a follower until one side ends; returns why.
async fn run_session(
    context: &Context,
    id: u64,
    stream: &UnixStream,
    follower: &Follower,
    mut receiver: Receiver,
    standby: Option<&Standby>,
) -> Reason {
    let config = &context.config;
    let (mut heard, mut told) = (Instant::now(), false);
    loop {
        let progress = match config.replication.try_pass(id) {
            Ok(progress) => progress,
            Err(reason) => return reason,
        };
        if let Some(standby) = standby.filter(|_| !told && config.replication.is_whole(id)) {
            told = true;
            tracing::info!(%standby, "a standby has a copy of everything");
            config.standbys.send_modify(|standbys| standbys.push(standby.clone()));
        }
        tokio::select! {
            // Reading comes first: after a stop of this process the standby's messages are there, and it was not
            // silent.
            biased;
            said = receiver.receive() => match said {
                Ok((Message::Alive, None)) => heard = Instant::now(),
                Ok((Message::Taken, None)) => context.taken.notify_one(),
                Ok(_) | Err(Failure::Malformed | Failure::OutOfDescriptors) => return Reason::Malformed,
                Err(Failure::Closed) => return Reason::Gone,
            },
            () = sleep_until(heard + SILENCE_TIMEOUT) => return Reason::Silent,
            () = tokio::task::yield_now(), if progress == Progress::More => {}
            _ = stream.writable(), if progress == Progress::Blocked => {}
            () = follower.stepped(), if progress == Progress::Done => {}
        }
    }
}
