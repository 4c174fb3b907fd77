//! What an owner passes to those who follow it, message by message.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::channel::Sender;
use super::hello::FIRST_VERSION;
use super::message::{self, Message};
use super::store::Store;
use crate::registry::follower::{Follower, Lagged, Step};
use crate::registry::Descriptor;

/// Messages that are sent before other peers get a turn.
const MESSAGES_AT_ONCE: usize = 256;
/// How long a standby may say nothing: it says something every 5 seconds.
pub(super) const SILENCE_TIMEOUT: Duration = Duration::from_secs(12);

/// Passes steps to everybody who follows, if anybody does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replication(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    sessions: BTreeMap<u64, Session>,
    /// The service manager's, if that keeps anything.
    store: Option<Store>,
    /// What this owner had is another's.
    handed_over: bool,
}

/// One who follows.
#[derive(Debug)]
pub(super) struct Session {
    sender: Sender,
    version: u16,
    /// None for who does not stand by: such a one gets no descriptors.
    listeners: Option<VecDeque<Arc<dyn Descriptor>>>,
    /// Whether they are the service manager's as well.
    lent: bool,
    follower: Arc<Follower>,
    /// What the other end's socket did not take.
    waiting: Option<OutgoingMessage>,
    whole: bool,
    ending: Ending,
}

/// A message, and the descriptor that goes with it.
type OutgoingMessage = (Vec<u8>, Option<Arc<dyn Descriptor>>);

/// Whether there is a last message to say when all else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    None,
    TakeOver,
    Sent,
}

/// How far the passing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything is sent.
    Done,
    /// The other end has to read first.
    Blocked,
    /// Others shall have a turn in between.
    More,
}

/// Why somebody does not follow any more.
#[derive(Debug)]
pub(super) enum Reason {
    Gone,
    Silent,
    Slow,
    Malformed,
    /// What this owner offers has changed.
    Changed,
    Failed(io::Error),
}

impl Reason {
    pub(super) fn describe(&self) -> String {
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

impl Session {
    /// One with whom nothing has been passed yet.
    pub(super) fn new(
        sender: Sender,
        version: u16,
        listeners: Option<VecDeque<Arc<dyn Descriptor>>>,
        lent: bool,
        follower: Arc<Follower>,
    ) -> Self {
        Self { sender, version, listeners, lent, follower, waiting: None, whole: false, ending: Ending::None }
    }
}

impl Replication {
    /// Passes what those lack who stand by, as far as it can be without waiting. Whoever only follows has it a moment
    /// later: no node waits for that.
    pub(crate) fn pass(&self) {
        for session in self.0.lock().sessions.values_mut().filter(|session| session.listeners.is_some()) {
            // The session's task finds the same error and ends.
            let _ = session.pass();
        }
        if let Some(store) = &self.0.lock().store {
            store.pass();
        }
    }

    /// Passes to this store, too, from now on.
    pub(crate) fn set_store(&self, store: Option<Store>) {
        self.0.lock().store = store;
    }

    /// Whether another serves now what this owner had.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.0.lock().handed_over
    }

    /// Passes to this one, too, from now on: the listeners, all of the table, and each of its steps.
    pub(super) fn begin(&self, session: Session) -> u64 {
        let mut state = self.0.lock();
        state.last_id += 1;
        let id = state.last_id;
        state.sessions.insert(id, session);
        id
    }

    /// Passes these listeners as well.
    pub(super) fn extend(&self, new: &[Arc<dyn Descriptor>]) {
        for listeners in self.0.lock().sessions.values_mut().filter_map(|session| session.listeners.as_mut()) {
            listeners.extend(new.iter().cloned());
        }
        self.pass();
    }

    pub(super) fn try_pass(&self, id: u64) -> Result<Progress, Reason> {
        match self.0.lock().sessions.get_mut(&id) {
            Some(session) => session.pass(),
            None => Ok(Progress::Done),
        }
    }

    /// Whether anybody can go on for this owner.
    pub(super) fn has_whole_standby(&self) -> bool {
        self.0.lock().sessions.values().any(Session::can_take_over)
    }

    pub(super) fn is_whole(&self, id: u64) -> bool {
        self.0.lock().sessions.get(&id).is_some_and(|session| session.whole)
    }

    /// Tells all that can to take over: who claims the names first does. The others are told nothing more. Whether any can.
    pub(super) fn request_takeover(&self) -> bool {
        let mut state = self.0.lock();
        let mut any = false;
        for session in state.sessions.values_mut() {
            if session.can_take_over() {
                session.ending = Ending::TakeOver;
                any = true;
            } else {
                // What happens here from now on is not true of the table that goes on: the next owner ends its own link.
                let _ = session.pass();
                session.ending = Ending::Sent;
            }
        }
        any
    }

    /// Ends a session; the other end hears whether it shall connect again. Whether this owner still serves.
    pub(super) fn end(&self, id: u64, reason: &Reason) -> bool {
        let mut state = self.0.lock();
        if let (Some(mut session), Reason::Changed) = (state.sessions.remove(&id), reason) {
            session.dismiss();
        }
        !state.handed_over
    }

    /// Ends all sessions, to begin anew.
    pub(super) fn end_all(&self) {
        for (_, mut session) in std::mem::take(&mut self.0.lock().sessions) {
            session.dismiss();
        }
    }

    pub(super) fn set_handed_over(&self) {
        self.0.lock().handed_over = true;
    }
}

impl Session {
    fn can_take_over(&self) -> bool {
        self.whole && self.listeners.is_some()
    }

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
        if self.ending == Ending::Sent {
            return Ok(None);
        }
        if let Some(listener) = self.listeners.as_mut().and_then(VecDeque::pop_front) {
            return Ok(Some((Message::Listener { lent: self.lent }.encode(), Some(listener))));
        }
        let message = match self.follower.take() {
            Err(Lagged) => return Err(Reason::Slow),
            Ok(None) if self.ending == Ending::TakeOver => {
                self.ending = Ending::Sent;
                Message::TakeOver
            }
            Ok(None) => return Ok(None),
            Ok(Some(Step::Epoch { .. } | Step::Resumed(_) | Step::Settled | Step::Refused(_)))
                if self.version == FIRST_VERSION =>
            {
                return self.next();
            }
            Ok(Some(Step::Epoch { epoch, refusals })) => Message::Epoch { epoch, refusals },
            Ok(Some(Step::Resumed(registrations))) => Message::Resumed(registrations),
            Ok(Some(Step::Entered(entry))) => {
                // One that has ended meanwhile is told without its connection; its end follows.
                let connection = entry.connection().filter(|_| self.listeners.is_some());
                return Ok(Some((message::entry(&entry, connection.is_some()), connection)));
            }
            Ok(Some(Step::Kept(entry))) => {
                Message::Kept { id: entry.id(), connected: entry.connection().is_some() && self.listeners.is_some() }
            }
            Ok(Some(Step::Counters(counters))) => Message::Counters(counters),
            Ok(Some(Step::Departed(departure))) => Message::Departed(departure),
            Ok(Some(Step::Left(id))) => Message::Left(id),
            Ok(Some(Step::Settled)) => Message::Settled,
            Ok(Some(Step::Refused(refusal))) => Message::Refused(refusal),
            Ok(Some(Step::Whole)) => {
                self.whole = true;
                Message::Whole
            }
        };
        Ok(Some((message.encode(), None)))
    }

    /// Tells the other end, if it hears it at once, that its copy is worth nothing and that it may have another.
    fn dismiss(&mut self) {
        if self.version != FIRST_VERSION && self.waiting.is_none() {
            let _ = self.sender.send(&Message::Reconnect.encode(), None);
        }
    }
}
