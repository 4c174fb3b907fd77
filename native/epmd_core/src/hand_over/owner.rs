//! The owner's side: it takes standbys, one at a time, and passes them what they need to go on for it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::{watch, Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout, Instant};

use super::channel::{self, Claim, Failure, Place, Receiver, Sender};
use super::message::{self, Hello, Message, VERSION};
use crate::node::NodeName;
use crate::pauses::Pauses;
use crate::registry::follower::{Behind, Follower, Step};
use crate::registry::{Descriptor, Registry};

/// How long a standby may say nothing: it says something every 5 seconds.
const SILENCE: Duration = Duration::from_secs(12);
/// How long a member that connects may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// How long a standby may take to say that it serves. It takes less than a millisecond.
const CONFIRMATION: Duration = Duration::from_secs(1);
/// Members that may wait for their turn to stand by.
const CANDIDATES: usize = 64;
/// Messages that are sent before other peers get a turn.
const MESSAGES_AT_ONCE: usize = 256;
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
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) place: Place,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) node: Option<NodeName>,
    pub(crate) registry: Registry,
    pub(crate) passing: Passing,
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

impl std::fmt::Debug for dyn Descriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_fd().fmt(f)
    }
}

/// Passes steps to the standby, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passing(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Alone,
    Passing(Session),
    /// What this owner had is another's.
    HandedOver,
}

#[derive(Debug)]
struct Session {
    sender: Sender,
    listeners: VecDeque<Arc<dyn Descriptor>>,
    follower: Arc<Follower>,
    /// What the standby's socket did not take.
    waiting: Option<Parcel>,
    whole: bool,
    leaving: Leaving,
}

/// A message, and the descriptor that goes with it.
type Parcel = (Vec<u8>, Option<Arc<dyn Descriptor>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    Wanted,
    Told,
}

/// How far the passing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Everything is sent.
    Done,
    /// The standby has to read first.
    Blocked,
    /// Others shall have a turn in between.
    More,
}

/// Why nobody stands by any more.
#[derive(Debug)]
enum Reason {
    Gone,
    Silent,
    Slow,
    Malformed,
    SwitchedOff,
    Failed(io::Error),
}

impl Reason {
    fn describe(&self) -> String {
        match self {
            Self::Gone => "it has gone".into(),
            Self::Silent => format!("it has said nothing for {} seconds", SILENCE.as_secs()),
            Self::Slow => "it is too slow".into(),
            Self::Malformed => "what it says is no message".into(),
            Self::SwitchedOff => "the hand-over is switched off".into(),
            Self::Failed(error) => error.to_string(),
        }
    }
}

impl Passing {
    /// Passes what the standby lacks, as far as it can be without waiting.
    pub(crate) fn pass(&self) {
        // The session's task finds the same error and ends.
        let _ = self.try_pass();
    }

    /// Whether another serves now what this owner had.
    pub(crate) fn is_over(&self) -> bool {
        matches!(*self.0.lock(), State::HandedOver)
    }

    fn try_pass(&self) -> Result<Progress, Reason> {
        match &mut *self.0.lock() {
            State::Passing(session) => session.pass(),
            State::Alone | State::HandedOver => Ok(Progress::Done),
        }
    }

    /// Whether a standby has a whole copy; it is told to take over then.
    fn leave(&self) -> bool {
        match &mut *self.0.lock() {
            State::Passing(session) if session.whole => {
                session.leaving = Leaving::Wanted;
                true
            }
            _ => false,
        }
    }

    fn is_whole(&self) -> bool {
        matches!(&*self.0.lock(), State::Passing(session) if session.whole)
    }

    /// Whether it did not end with a hand-over.
    fn end(&self) -> bool {
        let mut state = self.0.lock();
        let was_passing = matches!(*state, State::Passing(_));
        if was_passing {
            *state = State::Alone;
        }
        was_passing
    }

    fn over(&self) {
        *self.0.lock() = State::HandedOver;
    }
}

impl Session {
    fn pass(&mut self) -> Result<Progress, Reason> {
        for _ in 0..MESSAGES_AT_ONCE {
            let Some((bytes, descriptor)) = self.next()? else { return Ok(Progress::Done) };
            match self.sender.send(&bytes, descriptor.as_deref().map(AsFd::as_fd)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.waiting = Some((bytes, descriptor));
                    return Ok(Progress::Blocked);
                }
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(Reason::Gone),
                Err(error) => return Err(Reason::Failed(error)),
            }
        }
        Ok(Progress::More)
    }

    fn next(&mut self) -> Result<Option<Parcel>, Reason> {
        if let Some(waiting) = self.waiting.take() {
            return Ok(Some(waiting));
        }
        if self.leaving == Leaving::Told {
            return Ok(None);
        }
        if let Some(listener) = self.listeners.pop_front() {
            return Ok(Some((Message::Listener.encode(), Some(listener))));
        }
        let message = match self.follower.take() {
            Err(Behind) => return Err(Reason::Slow),
            Ok(None) if self.leaving == Leaving::Wanted => {
                self.leaving = Leaving::Told;
                Message::TakeOver
            }
            Ok(None) => return Ok(None),
            Ok(Some(Step::Entered(entry))) => {
                // One that has ended meanwhile is told without its connection; its end follows.
                let connection = entry.connection();
                return Ok(Some((message::entry(&entry, connection.is_some()), connection)));
            }
            Ok(Some(Step::Counters(counters))) => Message::Counters(counters),
            Ok(Some(Step::Departed(departure))) => Message::Departed(departure),
            Ok(Some(Step::Left(id))) => Message::Left(id),
            Ok(Some(Step::Whole)) => {
                self.whole = true;
                Message::Whole
            }
        };
        Ok(Some((message.encode(), None)))
    }
}

impl Offer {
    /// Claims the place, unless the last owner left its claim, and passes these listeners to whoever stands by.
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

    /// Waits until a standby hangs. It still has copies of the listeners, and may hold the port with them.
    pub(crate) async fn hung(&self) {
        self.shared.hung.notified().await;
    }

    /// Hands over to the standby, if there is one with a whole copy; nothing may be accepted any more. Whether another
    /// process serves now: otherwise none can, since this one still has the name.
    pub(crate) async fn hand_over(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let terms = &shared.terms;
        if !terms.passing.is_whole() {
            return false;
        }
        // The standby must find the name free.
        self.accepting.shutdown().await;
        if !terms.passing.leave() {
            return false;
        }
        terms.passing.pass();
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
        match if confirmed { None } else { terms.place.claim().ok() } {
            Some(claim) => {
                self.accepting.spawn(async move {
                    let _claim = claim;
                    std::future::pending().await
                });
                false
            }
            None => {
                terms.passing.over();
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
    let (mut pauses, began, mut told) = (Pauses::up_to(LONGEST_PAUSE), Instant::now(), false);
    loop {
        match terms.place.claim() {
            Ok(claim) => return claim,
            Err(error) => {
                if began.elapsed() > NAME_PATIENCE && !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "nobody can stand by for this owner");
                }
                sleep(pauses.next()).await;
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
    if !terms.passing.end() {
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
    *terms.passing.0.lock() = State::Passing(Session {
        sender,
        listeners,
        follower: Arc::clone(&follower),
        waiting: None,
        whole: false,
        leaving: Leaving::No,
    });
    let mut heard = Instant::now();
    loop {
        let progress = match terms.passing.try_pass() {
            Ok(progress) => progress,
            Err(reason) => return reason,
        };
        if terms.standby.borrow().is_none() && terms.passing.is_whole() {
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
