//! The owner's side of a session with a follower, without I/O: what to send next, and what the follower may say.

use std::collections::VecDeque;
use std::sync::Arc;

use super::message::Message;
use crate::registry::log::{Lagged, LogEntry, Subscription};
use crate::registry::{Descriptor, Entry};

/// A message, and the descriptor that goes with it.
pub(super) type Outgoing = (Vec<u8>, Option<Arc<dyn Descriptor>>);

/// What one follower has been sent, and what it lacks.
#[derive(Debug)]
pub(super) struct Session {
    subscription: Arc<Subscription>,
    /// Whether the follower resumed with the connections of the registrations that it retained.
    has_retained: bool,
    permit: Option<Permit>,
    has_begun: bool,
    stage: Stage,
}

/// What a follower that may stand by is sent beside the log.
#[derive(Debug)]
struct Permit {
    listeners: VecDeque<Arc<dyn Descriptor>>,
    /// Whether the service manager holds the listeners as well.
    lent: bool,
    /// Registrations that the follower was sent without their connections.
    connections: VecDeque<Arc<Entry>>,
}

/// How far the session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Copying,
    InSync,
    StandingBy,
    /// It is to be asked to take over.
    Ending,
    /// Nothing more is sent.
    Silent,
}

/// What a follower has said.
#[derive(Debug)]
pub(super) enum Heard {
    Alive,
    TakenOver,
    /// A registration that this table lacks.
    Missing(Arc<Entry>),
}

impl Session {
    /// A session in which nothing has been sent yet.
    pub(super) fn new(subscription: Arc<Subscription>, has_retained: bool) -> Self {
        Self { subscription, has_retained, permit: None, has_begun: false, stage: Stage::Copying }
    }

    /// Lets the follower stand by, with these listeners. `entries` are the table's.
    pub(super) fn permit(&mut self, listeners: Vec<Arc<dyn Descriptor>>, lent: bool, entries: Vec<Arc<Entry>>) {
        let retained = if self.has_retained { self.subscription.shared() } else { 0 };
        // Those that are still to be sent come with their connections.
        let sent = if self.has_begun { u64::MAX } else { self.subscription.shared() };
        let lacks = |entry: &Arc<Entry>| entry.id() > retained && entry.id() <= sent;
        let connections = entries.into_iter().rev().filter(lacks).collect();
        self.permit = Some(Permit { listeners: listeners.into(), lent, connections });
    }

    /// Sends these listeners as well, to a follower that may stand by.
    pub(super) fn extend(&mut self, new: &[Arc<dyn Descriptor>]) {
        if let Some(permit) = &mut self.permit {
            permit.listeners.extend(new.iter().cloned());
        }
    }

    /// Whether the follower may stand by, and so must have a registration before its node is told.
    pub(super) fn has_permit(&self) -> bool {
        self.permit.is_some()
    }

    /// Whether the follower has been sent everything.
    pub(super) fn stands_by(&self) -> bool {
        matches!(self.stage, Stage::StandingBy | Stage::Ending)
    }

    /// Asks a follower that stands by to take over, once it has been sent everything. Others are sent nothing more:
    /// later entries would mislead them, since this owner's own node leaves its table.
    pub(super) fn end(&mut self) {
        self.stage = if self.stands_by() { Stage::Ending } else { Stage::Silent };
    }

    /// The next message.
    pub(super) fn next(&mut self) -> Result<Option<Outgoing>, Lagged> {
        if self.stage == Stage::Silent {
            return Ok(None);
        }
        if let Some(Permit { listeners, lent, .. }) = &mut self.permit {
            if let Some(listener) = listeners.pop_front() {
                return Ok(Some((Message::Listener { lent: *lent }.encode_with(true), Some(listener))));
            }
        }
        if let Some(entry) = self.subscription.take()? {
            self.has_begun = true;
            if entry == LogEntry::InSync {
                self.stage = Stage::InSync;
            }
            let connection = match &entry {
                // One that has ended meanwhile is sent without a connection; its end follows.
                LogEntry::Registered(entry) if self.permit.is_some() => entry.connection(),
                _ => None,
            };
            return Ok(Some((Message::Log(entry).encode_with(connection.is_some()), connection)));
        }
        let Some(permit) = &mut self.permit else { return Ok(None) };
        while let Some(entry) = permit.connections.pop_front() {
            if let Some(connection) = entry.connection() {
                return Ok(Some((Message::Connection(entry.id()).encode_with(true), Some(connection))));
            }
        }
        let message = match self.stage {
            Stage::InSync => {
                self.stage = Stage::StandingBy;
                Message::StandBy
            }
            Stage::Ending => {
                self.stage = Stage::Silent;
                Message::TakeOver
            }
            Stage::Copying | Stage::StandingBy | Stage::Silent => return Ok(None),
        };
        Ok(Some((message.encode(), None)))
    }

    /// What a message of the follower says, if it may say it now.
    pub(super) fn hear(&self, message: Message, has_descriptor: bool) -> Option<Heard> {
        match (message, has_descriptor) {
            (Message::Alive, false) => Some(Heard::Alive),
            (Message::TakenOver, false) if self.stage == Stage::Silent => Some(Heard::TakenOver),
            (Message::Missing(entry), true) if self.stage != Stage::Copying => Some(Heard::Missing(entry)),
            _ => None,
        }
    }
}
