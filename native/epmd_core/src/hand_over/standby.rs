//! The standby's side: it keeps a copy of all that an owner has, and goes on with it when the owner ends.

use std::io;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use tokio::sync::watch;
use tokio::time::{sleep, timeout, Instant, MissedTickBehavior};

use super::channel::{Claim, Failure, Rendezvous, Sender};
use super::message::{Hello, Message, VERSION};
use crate::backoff::Backoff;
use crate::node::NodeName;
use crate::registry::replica::{Impossible, Replica};
use crate::reserve::Reserve;

/// How often a standby says that it is there.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How long an owner may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// How long the name of an owner that ended may still be its own: the system closes one descriptor after the other.
pub(super) const CLAIM_PATIENCE: Duration = Duration::from_millis(500);
/// The pauses between attempts to stand by: while another owner comes, and while it cannot work out.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const LONG_PAUSE: Duration = Duration::from_secs(60);

/// All that an owner had.
#[derive(Debug)]
pub(crate) struct Handoff {
    pub(crate) claim: Claim,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) replica: Replica,
    owner: Sender,
}

impl Handoff {
    /// Tells the last owner, if it is still there, that its place is taken.
    pub(crate) fn confirm(&mut self) {
        let _ = self.owner.send(&Message::Taken.encode(), None);
    }
}

/// Why this member does not stand by.
#[derive(Debug)]
enum Trouble {
    /// Nobody is there to stand by for, or only for a moment.
    Absent,
    /// The owner goes on, and does without this standby.
    Dismissed,
    OutOfDescriptors,
    /// It cannot work out with this owner, unless one of both changes: its addresses may.
    Unlike(String),
    /// It cannot work out with this owner.
    Unfit(String),
}

/// Stands by for the owner at this rendezvous, and for each that follows, until one ends. `whole` tells whether the copy is.
pub(crate) async fn stand_by(
    rendezvous: &Rendezvous,
    addresses: &[IpAddr],
    node: Option<NodeName>,
    mut enabled: watch::Receiver<bool>,
    whole: &watch::Sender<bool>,
) -> Handoff {
    let hello = Hello { version: VERSION, addresses: addresses.to_vec(), node };
    let mut backoff = Backoff::up_to(LONGEST_PAUSE);
    let mut told = String::new();
    loop {
        let _ = enabled.wait_for(|enabled| *enabled).await;
        let mut met = false;
        let trouble = tokio::select! {
            outcome = attend(rendezvous, &hello, &mut met, whole) => match outcome {
                Ok(handoff) => return handoff,
                Err(trouble) => trouble,
            },
            _ = enabled.wait_for(|enabled| !*enabled) => Trouble::Dismissed,
        };
        whole.send_replace(false);
        if met {
            backoff = Backoff::up_to(LONGEST_PAUSE);
        }
        let pause = match &trouble {
            Trouble::Absent | Trouble::Dismissed => backoff.next(),
            Trouble::OutOfDescriptors => {
                tracing::error!("no descriptors are left to stand by for the owner of the port");
                LONG_PAUSE
            }
            Trouble::Unlike(reason) | Trouble::Unfit(reason) => {
                if *reason != told {
                    tracing::warn!(%reason, "this VM cannot stand by for the owner of the port");
                    told.clone_from(reason);
                }
                if matches!(trouble, Trouble::Unlike(_)) {
                    LONGEST_PAUSE
                } else {
                    LONG_PAUSE
                }
            }
        };
        sleep(pause).await;
    }
}

/// Stands by for one owner.
async fn attend(
    rendezvous: &Rendezvous,
    hello: &Hello,
    met: &mut bool,
    whole: &watch::Sender<bool>,
) -> Result<Handoff, Trouble> {
    let (mut owner, mut receiver) = rendezvous.connect().await.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Trouble::Unfit(error.to_string()),
        _ => Trouble::Absent,
    })?;
    owner.send(&Message::Hello(hello.clone()).encode(), None).map_err(|_| Trouble::Absent)?;
    match timeout(INTRODUCTION, receiver.receive()).await {
        Ok(Ok((Message::Hello(said), None))) => said.fits(hello).map_err(Trouble::Unlike)?,
        Ok(Err(Failure::Closed)) | Err(_) => return Err(Trouble::Absent),
        Ok(_) => return Err(malformed()),
    }
    *met = true;

    let (mut listeners, mut replica) = (Vec::new(), Replica::default());
    let reserve = Reserve::new();
    let mut alive = tokio::time::interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (message, descriptor) = tokio::select! {
            biased;
            received = receiver.receive() => match received {
                Ok(received) => received,
                Err(Failure::Closed) if *whole.borrow() => break,
                Err(Failure::Closed) => return Err(Trouble::Absent),
                Err(Failure::Malformed) => return Err(malformed()),
                Err(Failure::OutOfDescriptors) => return Err(Trouble::OutOfDescriptors),
            },
            _ = alive.tick() => {
                // The owner reads when it can; its end is found by reading.
                let _ = owner.send(&Message::Alive.encode(), None);
                continue;
            }
        };
        let has_descriptor = descriptor.is_some();
        match (message, descriptor) {
            (Message::Listener, Some(descriptor)) => listeners.push(listener(descriptor, hello, rendezvous.port)?),
            (Message::Counters(counters), None) => replica.counted(counters)?,
            (Message::Departed(departure), None) => replica.departed(departure)?,
            (Message::Entered(entered), descriptor) => {
                let connection = descriptor.map(connection).transpose()?;
                replica.entered(entered.id, entered.creation, &entered.node, connection)?;
            }
            (Message::Left(id), None) => replica.left(id)?,
            (Message::Whole, None) if !listeners.is_empty() => {
                tracing::info!(names = replica.len(), "standing by for the owner of the port");
                whole.send_replace(true);
            }
            (Message::TakeOver, None) if *whole.borrow() => break,
            _ => return Err(malformed()),
        }
        // The VM needs some for itself.
        if has_descriptor && !reserve.is_whole() {
            return Err(Trouble::OutOfDescriptors);
        }
    }

    let claim = claim(rendezvous).await.ok_or(Trouble::Dismissed)?;
    // An owner that takes its listeners back shuts them.
    if !listeners.iter().all(|listener| socket_acceptconn(listener).unwrap_or(false)) {
        return Err(Trouble::Dismissed);
    }
    Ok(Handoff { claim, listeners, replica, owner })
}

/// The name, which is free as soon as the owner has ended.
async fn claim(rendezvous: &Rendezvous) -> Option<Claim> {
    let (mut backoff, deadline) = (Backoff::up_to(CLAIM_PATIENCE / 10), Instant::now() + CLAIM_PATIENCE);
    loop {
        match rendezvous.claim() {
            Ok(claim) => return Some(claim),
            Err(_) if Instant::now() < deadline => sleep(backoff.next()).await,
            Err(_) => return None,
        }
    }
}

/// A listener, if it is one of those that this member would have opened itself.
fn listener(descriptor: OwnedFd, hello: &Hello, port: u16) -> Result<TcpListener, Trouble> {
    let is_listener = is_tcp(&descriptor) && socket_acceptconn(&descriptor).unwrap_or(false);
    let listener = TcpListener::from(descriptor);
    let is_wanted = listener.local_addr().is_ok_and(|bound| bound.port() == port && hello.may_listen_on(bound.ip()));
    if is_listener && is_wanted && listener.set_nonblocking(true).is_ok() {
        Ok(listener)
    } else {
        Err(malformed())
    }
}

fn connection(descriptor: OwnedFd) -> Result<TcpStream, Trouble> {
    if !is_tcp(&descriptor) {
        return Err(malformed());
    }
    let stream = TcpStream::from(descriptor);
    stream.set_nonblocking(true).map_err(|_| malformed())?;
    Ok(stream)
}

fn is_tcp(descriptor: &OwnedFd) -> bool {
    socket_type(descriptor).is_ok_and(|kind| kind == SocketType::STREAM)
        && socket_domain(descriptor).is_ok_and(|family| [AddressFamily::INET, AddressFamily::INET6].contains(&family))
}

fn malformed() -> Trouble {
    Trouble::Unfit("what it says is no message of the hand-over".into())
}

impl From<Impossible> for Trouble {
    fn from(Impossible(what): Impossible) -> Self {
        Self::Unfit(format!("it told of {what}"))
    }
}
