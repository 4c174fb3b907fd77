//! The standby's side: keeps a copy of everything that an owner has, and takes over when the owner ends.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::watch;
use tokio::time::{sleep, timeout, Instant, MissedTickBehavior};

use super::channel::{self, Failure, Receiver, Sender};
use super::copying;
use super::hello::{Hello, FIRST_VERSION, HELLO_TIMEOUT, VERSION};
use super::message::Message;
use super::rendezvous::{Claim, Claimant, Name, Rendezvous};
use super::settings::{HandOver, Trusted};
use crate::address::{is_listener, is_tcp, Listeners, Wanted};
use crate::backoff::Backoff;
use crate::limits::Limits;
use crate::node::NodeName;
use crate::os;
use crate::registry::replica::{Impossible, Replica};
use crate::registry::NodeConnection;
use crate::reserve::Reserve;

/// How often a follower says that it is alive.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a member without a node waits for one, so that the owner can log the standby by name.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an owner that has ended may still hold the name: the system closes its descriptors one by one.
pub(super) const CLAIM_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a copy is kept after its owner has gone, while the next owner sends nothing.
const COPY_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest pause before the next attempt, and the pause after a failure that will not pass soon.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
const INCOMPATIBLE_PAUSE: Duration = Duration::from_secs(60);

/// A member that wants to stand by.
pub(crate) struct Candidate<'a> {
    pub(crate) rendezvous: &'a Rendezvous,
    /// Where it listens when it serves.
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) node: Option<NodeName>,
    /// Whether it may stand by, and for whom.
    pub(crate) settings: watch::Receiver<HandOver>,
    /// Its current limits.
    pub(crate) limits: &'a (dyn Fn() -> Limits + Send + Sync),
    /// Where it publishes whether its copy is whole.
    pub(crate) whole: &'a watch::Sender<bool>,
}

/// An owner's listeners.
#[derive(Debug)]
pub(crate) struct Inherited {
    sockets: Vec<TcpListener>,
    /// Whether the service manager holds them as well.
    lent: bool,
}

impl Inherited {
    /// These listeners, and new ones for the wanted addresses that the owner lacked.
    pub(crate) fn listeners(self, wanted: &Wanted, port: u16) -> Listeners {
        if self.lent {
            Listeners::lent(self.sockets, port)
        } else {
            Listeners::inherited(self.sockets, wanted, port)
        }
    }
}

/// What a new owner inherits beside the listeners.
#[derive(Debug)]
pub(crate) struct Handoff {
    /// `None` if the names could not be claimed.
    pub(crate) claim: Option<Claim>,
    pub(crate) replica: Replica,
    pub(crate) reserve: Reserve,
    pub(crate) last_owner: Option<LastOwner>,
}

/// The channel to the last owner, which may have ended.
#[derive(Debug)]
pub(crate) struct LastOwner(Sender);

impl LastOwner {
    /// Tells the last owner that this member serves now.
    pub(crate) fn confirm(&mut self) {
        let _ = self.0.send(&Message::Taken.encode(), None);
    }
}

/// Why this member does not stand by.
#[derive(Debug)]
pub(super) enum StandbyError {
    /// There is no owner, or it has just gone.
    Absent,
    /// The owner told it to connect again, or another standby took over.
    Dismissed,
    OutOfDescriptors,
    /// The owner exposes other addresses. Either side may change its own.
    AddressMismatch(String),
    /// The owner has more nodes than this member may have descriptors.
    TooManyNodes {
        descriptors: usize,
    },
    /// The owner is not trusted, or what it sends cannot be used.
    Incompatible(String),
}

impl StandbyError {
    /// Classifies an error of the system.
    fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => Self::OutOfDescriptors,
            _ => Self::Incompatible(channel::explain(error)),
        }
    }

    /// Logs what does not pass by itself, unless it was logged last.
    fn log(&self, logged: &mut String) {
        let reason = match self {
            Self::Absent | Self::Dismissed => return,
            Self::OutOfDescriptors => "no descriptors are left".into(),
            Self::TooManyNodes { descriptors } => {
                format!("the owner has more nodes than this server may have descriptors here, which are {descriptors}")
            }
            Self::AddressMismatch(reason) | Self::Incompatible(reason) => reason.clone(),
        };
        if reason != *logged {
            tracing::warn!(%reason, "this VM cannot stand by for the owner of the port");
            *logged = reason;
        }
    }
}

/// Stands by for the owner at this rendezvous, and for each later one, until it can take over.
pub(crate) async fn stand_by(mut candidate: Candidate<'_>) -> (Handoff, Inherited) {
    if candidate.node.is_none() {
        sleep(NODE_TIMEOUT).await;
    }
    let mut hello = Hello {
        version: VERSION,
        addresses: candidate.addresses.to_vec(),
        node: candidate.node.take(),
        stands_by: true,
        resume: None,
    };
    let mut backoff = Backoff::up_to(MAX_BACKOFF);
    let (mut logged, mut copy) = (String::new(), None);
    let mut settings = candidate.settings.clone();
    loop {
        let trusted = HandOver::enabled(&mut settings).await.trusted;
        let mut greeted = false;
        let error = tokio::select! {
            outcome = follow_owner(&candidate, &trusted, &mut hello, &mut copy, &mut greeted) => match outcome {
                Ok(handoff) => return handoff,
                Err(error) => error,
            },
            Ok(()) = settings.changed() => StandbyError::Dismissed,
        };
        // A copy that was whole can be resumed with the next owner, as far as both had the same table.
        if !(candidate.whole.send_replace(false) && matches!(error, StandbyError::Dismissed)) {
            copy = None;
        }
        if greeted {
            backoff = Backoff::up_to(MAX_BACKOFF);
        }
        error.log(&mut logged);
        sleep(match error {
            StandbyError::Absent | StandbyError::Dismissed => backoff.next(),
            StandbyError::AddressMismatch(_) => MAX_BACKOFF,
            StandbyError::OutOfDescriptors | StandbyError::TooManyNodes { .. } | StandbyError::Incompatible(_) => {
                INCOMPATIBLE_PAUSE
            }
        })
        .await;
    }
}

/// Stands by for one owner. Resumes from an earlier copy where both tables allow it.
async fn follow_owner(
    candidate: &Candidate<'_>,
    trusted: &Trusted,
    hello: &mut Hello,
    copy: &mut Option<Replica>,
    greeted: &mut bool,
) -> Result<(Handoff, Inherited), StandbyError> {
    let Candidate { rendezvous, whole, .. } = candidate;
    let (mut owner, mut receiver, name) = rendezvous.connect(trusted).await.map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound | ErrorKind::WouldBlock => StandbyError::Absent,
        _ => StandbyError::of(&error),
    })?;
    hello.version = if name == Name::Shared { VERSION } else { FIRST_VERSION };
    hello.resume = copy.as_ref().map(Replica::position);
    owner.send(&Message::Hello(hello.clone()).encode(), None).map_err(|_| StandbyError::Absent)?;
    await_hello(&mut receiver, hello).await?;
    *greeted = true;

    // What taking over needs is acquired before the copy begins, so that no descriptor is missing when the owner ends.
    let reserve = Reserve::new();
    if !reserve.is_whole() {
        return Err(StandbyError::OutOfDescriptors);
    }
    let claimant = rendezvous.claimant().map_err(|error| StandbyError::of(&error))?;
    let (mut listeners, mut lent) = (Vec::new(), false);
    let mut alive = tokio::time::interval(KEEPALIVE_INTERVAL);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // While this member waits for a permit, it must not hold the connections of an owner that has gone.
    let expired = sleep(COPY_TIMEOUT);
    tokio::pin!(expired);
    let mut begun = false;
    loop {
        let (message, descriptor) = tokio::select! {
            biased;
            received = receiver.receive() => match received {
                Ok(received) => received,
                Err(Failure::Closed) if *whole.borrow() => break,
                Err(Failure::Closed) => return Err(StandbyError::Absent),
                Err(Failure::Malformed) => return Err(malformed()),
                Err(Failure::OutOfDescriptors) => return Err(StandbyError::OutOfDescriptors),
            },
            _ = alive.tick() => {
                // A failure does not matter: the end of the owner is found by reading.
                let _ = owner.send(&Message::Alive.encode(), None);
                continue;
            }
            () = &mut expired, if !begun && copy.is_some() => {
                *copy = None;
                continue;
            }
        };
        begun = true;
        let replica = copy.get_or_insert_with(Replica::default);
        match (message, descriptor) {
            (Message::Listener { lent: is_lent }, Some(descriptor)) => {
                lent = is_lent;
                listeners.push(listener(descriptor, hello, rendezvous.port())?);
            }
            (message @ Message::Entered(_), descriptor) => {
                let descriptors = (candidate.limits)().descriptors();
                if descriptor.is_some() && replica.len() >= descriptors {
                    return Err(StandbyError::TooManyNodes { descriptors });
                }
                let connection = descriptor.map(connection).transpose()?;
                copying::follow(replica, message, connection)?;
            }
            (message @ Message::Whole, None) if !listeners.is_empty() => {
                copying::follow(replica, message, None)?;
                tracing::info!(names = replica.len(), "standing by for the owner of the port");
                whole.send_replace(true);
            }
            (Message::TakeOver, None) if *whole.borrow() => break,
            (Message::Reconnect, None) => return Err(StandbyError::Dismissed),
            (message, None) if message != Message::Whole && copying::follow(replica, message.clone(), None)? => {}
            _ => return Err(malformed()),
        }
    }

    let claim = claim(candidate, trusted, claimant, name).await?;
    // An owner that replaces its listeners shuts the old ones.
    if !listeners.iter().all(os::is_listening) {
        return Err(StandbyError::Dismissed);
    }
    let replica = copy.take().unwrap_or_default();
    let (claim, last_owner) = (Some(claim), Some(LastOwner(owner)));
    Ok((Handoff { claim, replica, reserve, last_owner }, Inherited { sockets: listeners, lent }))
}

/// Waits for the owner's hello, and checks that it fits.
async fn await_hello(receiver: &mut Receiver, hello: &Hello) -> Result<(), StandbyError> {
    match timeout(HELLO_TIMEOUT, receiver.receive()).await {
        Ok(Ok((Message::Hello(said), None))) => said.fits(hello).map_err(StandbyError::AddressMismatch),
        Ok(Err(Failure::Closed)) | Err(_) => Err(StandbyError::Absent),
        Ok(_) => Err(malformed()),
    }
}

/// Claims the names. They are free once the owner has ended, unless another standby has claimed them and serves.
async fn claim(
    candidate: &Candidate<'_>,
    trusted: &Trusted,
    mut claimant: Claimant,
    name: Name,
) -> Result<Claim, StandbyError> {
    let (mut backoff, deadline) = (Backoff::up_to(CLAIM_TIMEOUT / 10), Instant::now() + CLAIM_TIMEOUT);
    loop {
        match claimant.claim(name) {
            Ok(claim) => return Ok(claim),
            Err(error) if error.kind() != ErrorKind::AddrInUse => return Err(StandbyError::of(&error)),
            Err(_) if Instant::now() >= deadline => return Err(StandbyError::Dismissed),
            Err(_) => {}
        }
        // An owner that is just ending sends no hello any more.
        if let Ok((_owner, mut receiver, _)) = candidate.rendezvous.connect(trusted).await {
            if let Ok(Ok((Message::Hello(_), None))) = timeout(CLAIM_TIMEOUT / 10, receiver.receive()).await {
                return Err(StandbyError::Dismissed);
            }
        }
        sleep(backoff.next()).await;
    }
}

/// Checks that a descriptor is a listener that this member would open itself.
fn listener(descriptor: OwnedFd, hello: &Hello, port: u16) -> Result<TcpListener, StandbyError> {
    let is_listener = is_listener(&descriptor);
    let listener = TcpListener::from(descriptor);
    let is_wanted = listener.local_addr().is_ok_and(|bound| bound.port() == port && hello.may_listen_on(bound.ip()));
    if is_listener && is_wanted && listener.set_nonblocking(true).is_ok() {
        Ok(listener)
    } else {
        Err(malformed())
    }
}

/// A registered node's connection, watched by the runtime at once: its end is not missed, and a takeover needs no more
/// descriptors or memory for it.
pub(super) fn connection(descriptor: OwnedFd) -> Result<NodeConnection, StandbyError> {
    if !is_tcp(&descriptor) {
        return Err(malformed());
    }
    let stream = TcpStream::from(descriptor);
    stream.set_nonblocking(true).map_err(|_| malformed())?;
    os::watch(stream).map(Arc::new).map_err(|error| StandbyError::of(&error))
}

fn malformed() -> StandbyError {
    StandbyError::Incompatible("what it says is no message of the hand-over".into())
}

impl From<Impossible> for StandbyError {
    fn from(Impossible(what): Impossible) -> Self {
        Self::Incompatible(format!("it told of {what}"))
    }
}
