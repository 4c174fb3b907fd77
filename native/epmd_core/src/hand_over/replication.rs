//! What an owner passes to its standby, message by message.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::channel::Sender;
use super::message::{self, Message};
use crate::registry::follower::{Behind, Follower, Step};
use crate::registry::Descriptor;

/// Messages that are sent before other peers get a turn.
const MESSAGES_AT_ONCE: usize = 256;
/// How long a standby may say nothing: it says something every 5 seconds.
pub(super) const SILENCE: Duration = Duration::from_secs(12);

/// Passes steps to the standby, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replication(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Alone,
    Replicating(Session),
    /// What this owner had is another's.
    HandedOver,
}

#[derive(Debug)]
struct Session {
    sender: Sender,
    listeners: VecDeque<Arc<dyn Descriptor>>,
    follower: Arc<Follower>,
    /// What the standby's socket did not take.
    waiting: Option<OutgoingMessage>,
    whole: bool,
    leaving: Leaving,
}

/// A message, and the descriptor that goes with it.
type OutgoingMessage = (Vec<u8>, Option<Arc<dyn Descriptor>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    Wanted,
    Told,
}

/// How far the passing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything is sent.
    Done,
    /// The standby has to read first.
    Blocked,
    /// Others shall have a turn in between.
    More,
}

/// Why nobody stands by any more.
#[derive(Debug)]
pub(super) enum Reason {
    Gone,
    Silent,
    Slow,
    Malformed,
    SwitchedOff,
    Failed(io::Error),
}

impl Reason {
    pub(super) fn describe(&self) -> String {
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

impl Replication {
    /// Passes what the standby lacks, as far as it can be without waiting.
    pub(crate) fn pass(&self) {
        // The session's task finds the same error and ends.
        let _ = self.try_pass();
    }

    /// Whether another serves now what this owner had.
    pub(crate) fn is_over(&self) -> bool {
        matches!(*self.0.lock(), State::HandedOver)
    }

    pub(super) fn try_pass(&self) -> Result<Progress, Reason> {
        match &mut *self.0.lock() {
            State::Replicating(session) => session.pass(),
            State::Alone | State::HandedOver => Ok(Progress::Done),
        }
    }

    /// Passes to this standby from now on: the listeners, all of the table, and each of its steps.
    pub(super) fn begin(&self, sender: Sender, listeners: VecDeque<Arc<dyn Descriptor>>, follower: Arc<Follower>) {
        *self.0.lock() = State::Replicating(Session {
            sender,
            listeners,
            follower,
            waiting: None,
            whole: false,
            leaving: Leaving::No,
        });
    }

    /// Passes these listeners as well.
    pub(super) fn extend(&self, listeners: &[Arc<dyn Descriptor>]) {
        if let State::Replicating(session) = &mut *self.0.lock() {
            session.listeners.extend(listeners.iter().cloned());
        }
        self.pass();
    }

    /// Whether a standby has a whole copy; it is told to take over then.
    pub(super) fn leave(&self) -> bool {
        match &mut *self.0.lock() {
            State::Replicating(session) if session.whole => {
                session.leaving = Leaving::Wanted;
                true
            }
            _ => false,
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        matches!(&*self.0.lock(), State::Replicating(session) if session.whole)
    }

    /// Whether it did not end with a hand-over.
    pub(super) fn end(&self) -> bool {
        let mut state = self.0.lock();
        let was_replicating = matches!(*state, State::Replicating(_));
        if was_replicating {
            *state = State::Alone;
        }
        was_replicating
    }

    pub(super) fn over(&self) {
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

    fn next(&mut self) -> Result<Option<OutgoingMessage>, Reason> {
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
