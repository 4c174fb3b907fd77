//! The side of a member that only wants to know what is in the owner's table.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout, Instant, MissedTickBehavior};

use super::channel::Failure;
use super::hello::{Hello, VERSION};
use super::message::{Entered, Message};
use super::rendezvous::{Name, Rendezvous};
use super::settings::{HandOver, Trusted};
use super::standby::{ALIVE_EVERY, INTRODUCTION};
use crate::backoff::Backoff;
use crate::registry::follower::Position;
use crate::registry::mirror::{Image, Mirror};
use crate::registry::replica::Impossible;

/// How long a copy answers whose owner has gone, while no other can be followed.
const COPY_PATIENCE: Duration = Duration::from_secs(5);
/// The pauses between attempts to follow: while another owner comes, and while it cannot work out.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const LONG_PAUSE: Duration = Duration::from_secs(60);

/// Why an owner is not followed any more.
#[derive(Debug)]
enum Ended {
    /// It has gone, or has something else to offer.
    Gone,
    /// What it tells does not fit the copy.
    Astray,
    /// It cannot work out with this owner.
    Unfit,
}

/// How far the copy has come.
#[derive(Debug)]
enum Stage {
    Introduced,
    Copying(Image),
    Following,
}

/// Has the mirror follow the owner at this rendezvous, and each that comes after it.
pub(crate) async fn follow(
    rendezvous: Rendezvous,
    mut settings: watch::Receiver<HandOver>,
    mirror: Mirror,
) -> Infallible {
    let mut backoff = Backoff::up_to(LONGEST_PAUSE);
    let (mut followed, mut is_astray) = (Instant::now(), false);
    loop {
        if !settings.borrow().is_enabled() {
            mirror.give_up();
        }
        let trusted = HandOver::enabled(&mut settings).await.trusted;
        let resume = mirror.position().filter(|_| !is_astray);
        let mut stage = Stage::Introduced;
        let ended = tokio::select! {
            ended = follow_owner(&rendezvous, &trusted, resume, &mirror, &mut stage) => ended,
            Ok(()) = settings.changed() => Ended::Gone,
        };
        if matches!(stage, Stage::Following) {
            (followed, backoff) = (Instant::now(), Backoff::up_to(LONGEST_PAUSE));
        }
        if matches!(ended, Ended::Unfit) || followed.elapsed() >= COPY_PATIENCE {
            mirror.give_up();
        }
        is_astray = matches!(ended, Ended::Astray);
        sleep(if matches!(ended, Ended::Unfit) { LONG_PAUSE } else { backoff.next() }).await;
    }
}

/// Follows one owner. A copy that is there from the last one is gone on with where that can be.
async fn follow_owner(
    rendezvous: &Rendezvous,
    trusted: &Trusted,
    resume: Option<Position>,
    mirror: &Mirror,
    stage: &mut Stage,
) -> Ended {
    let (mut owner, mut receiver) = match rendezvous.connect(trusted).await {
        Ok((owner, receiver, Name::Shared)) => (owner, receiver),
        // Whoever stands by for an owner of the first version is told everything, and nobody else anything.
        Ok((_, _, Name::OwnUser)) => return Ended::Unfit,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ended::Unfit,
        Err(_) => return Ended::Gone,
    };
    let hello = Hello { version: VERSION, addresses: Vec::new(), node: None, stands_by: false, resume };
    if owner.send(&Message::Hello(hello).encode(), None).is_err() {
        return Ended::Gone;
    }
    match timeout(INTRODUCTION, receiver.receive()).await {
        Ok(Ok((Message::Hello(_), None))) => {}
        Ok(Ok(_) | Err(Failure::Malformed | Failure::OutOfDescriptors)) => return Ended::Unfit,
        Ok(Err(Failure::Closed)) | Err(_) => return Ended::Gone,
    }
    let mut alive = tokio::time::interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            biased;
            received = receiver.receive() => match received {
                Ok((Message::Reconnect, None)) | Err(Failure::Closed) => return Ended::Gone,
                Ok((message, None)) => message,
                Ok((_, Some(_))) | Err(Failure::Malformed | Failure::OutOfDescriptors) => return Ended::Unfit,
            },
            _ = alive.tick() => {
                // The owner reads when it can; its end is found by reading.
                let _ = owner.send(&Message::Alive.encode(), None);
                continue;
            }
        };
        if let Err(Impossible(what)) = apply(message, mirror, stage) {
            tracing::debug!(%what, "the copy of the owner's table begins anew, since it was told of something impossible");
            return Ended::Astray;
        }
    }
}

fn apply(message: Message, mirror: &Mirror, stage: &mut Stage) -> Result<(), Impossible> {
    let entry = |Entered { id, creation, node, .. }: Entered| Image::entry(id, creation, &node);
    match (message, &mut *stage) {
        (Message::Epoch { epoch, refusals }, Stage::Introduced) => {
            *stage = Stage::Copying(Image::of_epoch(epoch, refusals));
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
