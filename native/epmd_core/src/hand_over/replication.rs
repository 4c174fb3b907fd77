//! Sends the steps of the owner's table to its followers, message by message.

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

/// Messages that are sent to one follower before other tasks run.
const MESSAGES_AT_ONCE: usize = 256;
/// How long a follower may stay silent. It sends something every 5 seconds.
pub(super) const SILENCE_TIMEOUT: Duration = Duration::from_secs(12);

/// The sessions with all followers, and the service manager's store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replication(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    sessions: BTreeMap<u64, Session>,
    /// The service manager's store, if it has room.
    store: Option<Store>,
    /// Another process has taken over.
    handed_over: bool,
}

/// A session with one follower.
#[derive(Debug)]
pub(super) struct Session {
    sender: Sender,
    version: u16,
    /// Listeners still to be sent. `None` for a follower that does not stand by: it gets no descriptors.
    listeners: Option<VecDeque<Arc<dyn Descriptor>>>,
    /// Whether the service manager holds the listeners as well.
    lent: bool,
    follower: Arc<Follower>,
    /// The message that the socket had no room for.
    waiting: Option<OutgoingMessage>,
    whole: bool,
    ending: Ending,
}

/// A message, and the descriptor that goes with it.
type OutgoingMessage = (Vec<u8>, Option<Arc<dyn Descriptor>>);

/// Whether the session is ending, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    None,
    TakeOver,
    Sent,
}

/// The result of sending as much as possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything is sent.
    Done,
    /// The socket is full until the other end reads.
    Blocked,
    /// There is more to send; other tasks run first.
    More,
}

/// Why a session ended.
#[derive(Debug)]
pub(super) enum Reason {
    Gone,
    Silent,
    Slow,
    Malformed,
    /// The owner's settings or listeners have changed.
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
    /// A session in which nothing has been sent yet.
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
    /// Sends to the standbys and the store what they lack, as far as possible without waiting. Other followers get it a
    /// moment later from their own tasks: no node waits for them.
    pub(crate) fn pass(&self) {
        for session in self.0.lock().sessions.values_mut().filter(|session| session.listeners.is_some()) {
            // The session's task finds the same error and ends.
            let _ = session.pass();
        }
        if let Some(store) = &self.0.lock().store {
            store.pass();
        }
    }

    /// Sets the store to fill from now on, or none.
    pub(crate) fn set_store(&self, store: Option<Store>) {
        self.0.lock().store = store;
    }

    /// Whether another process has taken over.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.0.lock().handed_over
    }

    /// Begins a session: the listeners, the whole table, and then each step will be sent. Returns its number.
    pub(super) fn begin(&self, session: Session) -> u64 {
        let mut state = self.0.lock();
        state.last_id += 1;
        let id = state.last_id;
        state.sessions.insert(id, session);
        id
    }

    /// Sends these listeners to all standbys as well.
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

    /// Whether any standby can take over.
    pub(super) fn has_whole_standby(&self) -> bool {
        self.0.lock().sessions.values().any(Session::can_take_over)
    }

    pub(super) fn is_whole(&self, id: u64) -> bool {
        self.0.lock().sessions.get(&id).is_some_and(|session| session.whole)
    }

    /// Tells every whole standby to take over; the first to claim the names does. Other followers are sent nothing
    /// more. Returns whether any standby is whole.
    pub(super) fn request_takeover(&self) -> bool {
        let mut state = self.0.lock();
        let mut any = false;
        for session in state.sessions.values_mut() {
            if session.can_take_over() {
                session.ending = Ending::TakeOver;
                any = true;
            } else {
                // Later steps would mislead followers: the next owner closes its link to this one, and so its node
                // leaves this table, but not its own.
                let _ = session.pass();
                session.ending = Ending::Sent;
            }
        }
        any
    }

    /// Ends a session. If something has changed, the follower is told to connect again. Returns whether this owner
    /// still serves.
    pub(super) fn end(&self, id: u64, reason: &Reason) -> bool {
        let mut state = self.0.lock();
        if let (Some(mut session), Reason::Changed) = (state.sessions.remove(&id), reason) {
            session.dismiss();
        }
        !state.handed_over
    }

    /// Ends all sessions, and tells the followers to connect again.
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
        let step = match self.follower.take() {
            Err(Lagged) => return Err(Reason::Slow),
            Ok(Some(step)) => step,
            Ok(None) if self.ending == Ending::TakeOver => {
                self.ending = Ending::Sent;
                return Ok(Some((Message::TakeOver.encode(), None)));
            }
            Ok(None) => return Ok(None),
        };
        let is_of_version_2 = matches!(step, Step::Epoch { .. } | Step::Resumed(_) | Step::Settled | Step::Refused(_));
        if is_of_version_2 && self.version == FIRST_VERSION {
            return self.next();
        }
        self.whole |= matches!(step, Step::Whole);
        Ok(Some(message::step(step, self.listeners.is_some())))
    }

    /// Tells the follower to connect again, if its socket has room at once.
    fn dismiss(&mut self) {
        if self.version != FIRST_VERSION && self.waiting.is_none() {
            let _ = self.sender.send(&Message::Reconnect.encode(), None);
        }
    }
}
