//! The owner's side: it takes standbys, one at a time, and passes them what they need to go on for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::{watch, Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout, Instant};

use super::channel::{self, Claim, Failure, Receiver, Rendezvous, Sender};
use super::message::{Hello, Message, VERSION};
use super::replication::{Progress, Reason, Replication, SILENCE};
use super::standby::CLAIM_PATIENCE;
use crate::backoff::Backoff;
use crate::node::NodeName;
use crate::registry::{Descriptor, Registry};

/// How long a member that connects may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// How long a standby may take to say that it serves. It takes less than a millisecond.
const CONFIRMATION: Duration = Duration::from_secs(1);
/// Members that may wait for their turn to stand by.
const CANDIDATES: usize = 64;
/// The pauses between attempts to get the name, which somebody else may have.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The pause after a member that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the name may be somebody else's before that is told: an owner that ends may still have it.
const NAME_PATIENCE: Duration = Duration::from_secs(1);

/// Who stands by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    /// Its node's name, if it has one.
    pub node: Option<NodeName>,
    /// Its process, where the system says which it is.
    pub pid: Option<i32>,
}

/// What an owner offers to those that would stand by for it, for as long as this is kept.
#[derive(Debug)]
pub(crate) struct Offer {
    shared: Arc<Shared>,
    /// Has the claim.
    accepting: JoinSet<()>,
}

/// What an offer is made with.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) rendezvous: Rendezvous,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) node: Option<NodeName>,
    pub(crate) registry: Registry,
    pub(crate) replication: Replication,
    /// Whether anybody may stand by.
    pub(crate) enabled: watch::Receiver<bool>,
    /// Where it is told who does.
    pub(crate) standby: Arc<watch::Sender<Option<Standby>>>,
}

#[derive(Debug)]
struct Shared {
    terms: Terms,
    listeners: Mutex<Vec<Arc<dyn Descriptor>>>,
    turns: Semaphore,
    members: Mutex<JoinSet<()>>,
    hung: Notify,
    renewed: Notify,
    taken: Notify,
}

impl Offer {
    /// Claims the rendezvous, unless the last owner left its claim, and passes these listeners to whoever stands by.
    pub(crate) fn new(terms: Terms, claim: Option<Claim>, listeners: Vec<Arc<dyn Descriptor>>) -> Self {
        let shared = Arc::new(Shared {
            terms,
            listeners: Mutex::new(listeners),
            turns: Semaphore::new(1),
            members: Mutex::default(),
            hung: Notify::new(),
            renewed: Notify::new(),
            taken: Notify::new(),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(Arc::clone(&shared), claim));
        Self { shared, accepting }
    }

    /// Has these listeners passed from now on, in the place of those that a standby that hangs has.
    pub(crate) fn renew(&self, listeners: Vec<Arc<dyn Descriptor>>) {
        *self.shared.listeners.lock() = listeners;
        self.shared.renewed.notify_one();
    }

    /// Has these listeners passed as well, also to who stands by already.
    pub(crate) fn extend(&self, listeners: Vec<Arc<dyn Descriptor>>) {
        self.shared.terms.replication.extend(&listeners);
        self.shared.listeners.lock().extend(listeners);
    }

    /// Where the standby finds this.
    pub(crate) fn rendezvous(&self) -> &Rendezvous {
        &self.shared.terms.rendezvous
    }

    /// Offers other listeners, at another rendezvous if their first address is another. A standby begins anew: it finds
    /// the last rendezvous claimed, until it has given up the copies that it has of the last listeners.
    pub(crate) async fn relocate(
        &mut self,
        rendezvous: Rendezvous,
        addresses: Vec<IpAddr>,
        listeners: Vec<Arc<dyn Descriptor>>,
    ) {
        self.accepting.shutdown().await;
        let last = &self.shared.terms;
        let claim = if *last.enabled.borrow() { last.rendezvous.claim().ok() } else { None };
        let mut members = std::mem::take(&mut *self.shared.members.lock());
        members.shutdown().await;
        last.replication.end();
        last.standby.send_replace(None);
        let stays = last.rendezvous == rendezvous;
        let terms = Terms { rendezvous, addresses, ..last.clone() };
        let (claim, former) = if stays { (claim, None) } else { (None, claim) };
        *self = Self::new(terms, claim, listeners);
        self.accepting.spawn(async move {
            sleep(CLAIM_PATIENCE * 2).await;
            drop(former);
        });
    }

    /// Waits until a standby hangs. It still has copies of the listeners, and may hold the port with them.
    pub(crate) async fn hung(&self) {
        self.shared.hung.notified().await;
    }

    /// Hands over to the standby, if there is one with a whole copy; nothing may be accepted any more. Whether another
    /// process serves now: otherwise none can, since this one still has the name.
    pub(crate) async fn hand_over(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let terms = &shared.terms;
        if !terms.replication.is_whole() {
            return false;
        }
        // The standby must find the name free.
        self.accepting.shutdown().await;
        if !terms.replication.leave() {
            return false;
        }
        terms.replication.pass();
        let gone = async {
            let mut standby = terms.standby.subscribe();
            let _ = standby.wait_for(Option::is_none).await;
        };
        let confirmed = tokio::select! {
            () = shared.taken.notified() => true,
            () = gone => false,
            () = sleep(CONFIRMATION) => false,
        };
        // One that took over and could not say so any more has the name.
        match if confirmed { None } else { terms.rendezvous.claim().ok() } {
            Some(claim) => {
                self.accepting.spawn(async move {
                    let _claim = claim;
                    std::future::pending().await
                });
                false
            }
            None => {
                terms.replication.over();
                true
            }
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        // They share what has them.
        self.shared.members.lock().abort_all();
    }
}

async fn accept(shared: Arc<Shared>, claim: Option<Claim>) {
    let claim = match claim {
        Some(claim) => claim,
        None => claimed(&shared.terms).await,
    };
    loop {
        match claim.accept().await {
            Ok(stream) => {
                let mut members = shared.members.lock();
                while members.try_join_next().is_some() {}
                if members.len() < CANDIDATES {
                    members.spawn(serve(Arc::clone(&shared), stream));
                }
            }
            // Out of descriptors, or a member that went at once.
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Waits until the name is this process's.
async fn claimed(terms: &Terms) -> Claim {
    let mut enabled = terms.enabled.clone();
    let _ = enabled.wait_for(|enabled| *enabled).await;
    let (mut backoff, began, mut told) = (Backoff::up_to(LONGEST_PAUSE), Instant::now(), false);
    loop {
        match terms.rendezvous.claim() {
            Ok(claim) => return claim,
            Err(error) => {
                if began.elapsed() > NAME_PATIENCE && !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "nobody can stand by for this owner");
                }
                sleep(backoff.next()).await;
            }
        }
    }
}

/// One member that would stand by: it says who it is, waits for its turn, and stands by.
async fn serve(shared: Arc<Shared>, stream: UnixStream) {
    let terms = &shared.terms;
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let (mut sender, mut receiver) = match channel::open(stream) {
        Ok(ends) => ends,
        Err(error) => {
            tracing::warn!(%error, "nobody but this user's processes may stand by");
            return;
        }
    };
    let mut enabled = terms.enabled.clone();
    if !*enabled.borrow() {
        return;
    }
    let hello = Hello { version: VERSION, addresses: terms.addresses.clone(), node: terms.node.clone() };
    if sender.send(&Message::Hello(hello.clone()).encode(), None).is_err() {
        return;
    }
    let node = match timeout(INTRODUCTION, receiver.receive()).await {
        // The other side finds what does not fit, and tells it.
        Ok(Ok((Message::Hello(said), None))) if said.fits(&hello).is_ok() => said.node,
        _ => return,
    };
    let turn = shared.turns.acquire();
    tokio::pin!(turn);
    let _turn = loop {
        tokio::select! {
            turn = &mut turn => break turn,
            heard = receiver.receive() => match heard {
                Ok((Message::Alive, None)) => {}
                _ => return,
            },
        }
    };
    let standby = Standby { node, pid };
    let reason = tokio::select! {
        reason = accompany(&shared, sender, receiver, &standby) => reason,
        _ = enabled.wait_for(|enabled| !*enabled) => Reason::SwitchedOff,
    };
    let was_told = terms.standby.send_replace(None).is_some();
    if !terms.replication.end() {
        return;
    }
    if was_told {
        tracing::info!(%standby, reason = %reason.describe(), "nobody stands by for this owner any more");
    }
    if matches!(reason, Reason::Silent | Reason::Slow) {
        shared.hung.notify_one();
        // The next one gets the listeners that take the place of those which this one has.
        shared.renewed.notified().await;
    }
}

/// Passes all that comes to a standby, until one of both ends.
async fn accompany(shared: &Shared, sender: Sender, mut receiver: Receiver, standby: &Standby) -> Reason {
    let terms = &shared.terms;
    let (stream, follower) = (sender.stream(), terms.registry.follow());
    let listeners = shared.listeners.lock().iter().cloned().collect();
    terms.replication.begin(sender, listeners, Arc::clone(&follower));
    let mut heard = Instant::now();
    loop {
        let progress = match terms.replication.try_pass() {
            Ok(progress) => progress,
            Err(reason) => return reason,
        };
        if terms.standby.borrow().is_none() && terms.replication.is_whole() {
            tracing::info!(%standby, "a standby has a copy of everything");
            terms.standby.send_replace(Some(standby.clone()));
        }
        tokio::select! {
            // What was said while this process did not run counts.
            biased;
            said = receiver.receive() => match said {
                Ok((Message::Alive, None)) => heard = Instant::now(),
                Ok((Message::Taken, None)) => shared.taken.notify_one(),
                Ok(_) | Err(Failure::Malformed | Failure::OutOfDescriptors) => return Reason::Malformed,
                Err(Failure::Closed) => return Reason::Gone,
            },
            () = sleep_until(heard + SILENCE) => return Reason::Silent,
            () = tokio::task::yield_now(), if progress == Progress::More => {}
            _ = stream.writable(), if progress == Progress::Blocked => {}
            () = follower.stepped(), if progress == Progress::Done => {}
        }
    }
}

impl std::fmt::Display for Standby {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.node.as_ref().map_or("a VM without a node", NodeName::as_str))?;
        self.pid.map_or(Ok(()), |pid| write!(f, ", process {pid}"))
    }
}
