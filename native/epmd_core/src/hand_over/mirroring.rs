//! The side of a member that mirrors the owner's table without standing by.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout, Instant, MissedTickBehavior};

use super::channel::Failure;
use super::hello::{Hello, HELLO_TIMEOUT, VERSION};
use super::message::{Entered, Message};
use super::rendezvous::{Name, Rendezvous};
use super::settings::{HandOver, Trusted};
use super::standby::KEEPALIVE_INTERVAL;
use crate::backoff::Backoff;
use crate::registry::follower::Position;
use crate::registry::mirror::{Image, Mirror};
use crate::registry::replica::Impossible;

/// How long a copy goes on answering after its owner has gone, while no other owner can be followed.
const COPY_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest pause before the next attempt, and the pause after an owner that cannot be followed.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
const INCOMPATIBLE_PAUSE: Duration = Duration::from_secs(60);

/// Why the member stopped following an owner.
#[derive(Debug)]
enum Ended {
    /// The owner has gone, or wants the member to connect again.
    Gone,
    /// A message did not fit the copy.
    Diverged,
    /// This owner cannot be followed.
    Incompatible,
}

/// How far the session with an owner has come.
#[derive(Debug)]
enum Stage {
    Introduced,
    Copying(Image),
    Following,
}

/// Keeps the mirror up to date with the owner at this rendezvous, and with each owner after it.
pub(crate) async fn follow(
    rendezvous: Rendezvous,
    mut settings: watch::Receiver<HandOver>,
    mirror: Mirror,
) -> Infallible {
    let mut backoff = Backoff::up_to(MAX_BACKOFF);
    let (mut followed, mut has_diverged) = (Instant::now(), false);
    loop {
        if !settings.borrow().is_enabled() {
            mirror.give_up();
        }
        let trusted = HandOver::enabled(&mut settings).await.trusted;
        let resume = mirror.position().filter(|_| !has_diverged);
        let mut stage = Stage::Introduced;
        let ended = tokio::select! {
            ended = follow_owner(&rendezvous, &trusted, resume, &mirror, &mut stage) => ended,
            Ok(()) = settings.changed() => Ended::Gone,
        };
        if matches!(stage, Stage::Following) {
            (followed, backoff) = (Instant::now(), Backoff::up_to(MAX_BACKOFF));
        }
        if matches!(ended, Ended::Incompatible) || followed.elapsed() >= COPY_TIMEOUT {
            mirror.give_up();
        }
        has_diverged = matches!(ended, Ended::Diverged);
        sleep(if matches!(ended, Ended::Incompatible) { INCOMPATIBLE_PAUSE } else { backoff.next() }).await;
    }
}

/// Follows one owner until that ends. Resumes from an earlier copy where both tables allow it.
async fn follow_owner(
    rendezvous: &Rendezvous,
    trusted: &Trusted,
    resume: Option<Position>,
    mirror: &Mirror,
    stage: &mut Stage,
) -> Ended {
    let (mut owner, mut receiver) = match rendezvous.connect(trusted).await {
        Ok((owner, receiver, Name::Shared)) => (owner, receiver),
        // An owner of version 1 serves standbys only. An owner that is just ending lets go of this name last.
        Ok((_, _, Name::OwnUser)) => return Ended::Gone,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ended::Incompatible,
        Err(_) => return Ended::Gone,
    };
    let hello = Hello { version: VERSION, addresses: Vec::new(), node: None, stands_by: false, resume };
    if owner.send(&Message::Hello(hello).encode(), None).is_err() {
        return Ended::Gone;
    }
    let addresses = match timeout(HELLO_TIMEOUT, receiver.receive()).await {
        Ok(Ok((Message::Hello(said), None))) => said.addresses,
        Ok(Ok(_) | Err(Failure::Malformed | Failure::OutOfDescriptors)) => return Ended::Incompatible,
        Ok(Err(Failure::Closed)) | Err(_) => return Ended::Gone,
    };
    let mut alive = tokio::time::interval(KEEPALIVE_INTERVAL);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            biased;
            received = receiver.receive() => match received {
                Ok((Message::Reconnect, None)) | Err(Failure::Closed) => return Ended::Gone,
                Ok((message, None)) => message,
                Ok((_, Some(_))) | Err(Failure::Malformed | Failure::OutOfDescriptors) => return Ended::Incompatible,
            },
            _ = alive.tick() => {
                // A failure does not matter: the end of the owner is found by reading.
                let _ = owner.send(&Message::Alive.encode(), None);
                continue;
            }
        };
        if let Err(Impossible(what)) = apply(message, &addresses, mirror, stage) {
            tracing::debug!(%what, "the copy of the owner's table begins anew, since it was told of something impossible");
            return Ended::Diverged;
        }
    }
}

/// Applies a message of the owner that listens at these addresses.
fn apply(message: Message, addresses: &[IpAddr], mirror: &Mirror, stage: &mut Stage) -> Result<(), Impossible> {
    let entry = |Entered { id, creation, node, .. }: Entered| Image::entry(id, creation, &node);
    match (message, &mut *stage) {
        (Message::Epoch { epoch, refusals }, Stage::Introduced) => {
            *stage = Stage::Copying(Image::new(addresses, epoch, refusals));
        }
        (Message::Resumed(_) | Message::Departed(_) | Message::Whole, Stage::Copying(_)) => {}
        (Message::Counters(counters), Stage::Copying(image)) => image.counted(counters),
        (Message::Kept { id, .. }, Stage::Copying(image)) => {
            image.enter(mirror.get(id).ok_or(Impossible("a registration that this copy does not have"))?)?;
        }
        (Message::Entered(entered), Stage::Copying(image)) => image.enter(entry(entered))?,
        (Message::Left(id), Stage::Copying(image)) => _ = image.leave(id)?,
        (Message::Refused(refusal), Stage::Copying(image)) => image.refuse(refusal),
        (Message::Settled, Stage::Copying(_)) => {
            if let Stage::Copying(image) = std::mem::replace(stage, Stage::Following) {
                mirror.replace(image);
            }
        }
        (Message::Entered(entered), Stage::Following) => mirror.entered(entry(entered))?,
        (Message::Left(id), Stage::Following) => mirror.left(id)?,
        (Message::Refused(refusal), Stage::Following) => mirror.refused(refusal),
        _ => return Err(Impossible("what comes at another time, or not at all")),
    }
    Ok(())
}
