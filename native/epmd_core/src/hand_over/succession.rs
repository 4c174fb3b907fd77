//! The rules of succession as state machines without I/O: what a follower keeps and gives up, when it tries to serve, and
//! when an owner that stops has handed over.
//!
//! Exclusion and meeting are two things. Exclusive is the lock on the listeners, which only those can try who were given
//! them: whoever holds it serves. Meeting the owner may fail at any time, and then nothing is given up.
//!
//! [`mod@super::follow`] and [`super::primary`] carry this out. The walk in the tests explores every order in which four
//! members can act.

#[cfg(test)]
mod walk;

/// What a member that follows an owner has, and how far its session with the owner has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Follower {
    /// It holds the listeners of an owner that put it in sync, so it can serve.
    can_serve: bool,
    session: Session,
}

/// How far the session with an owner has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Session {
    /// There is none.
    #[default]
    None,
    /// The owner sends its table.
    Copying,
    /// The replica is complete. The member may have none of the connections.
    InSync,
    /// The owner has sent everything.
    StandingBy,
}

/// What happens to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A session with a trusted owner has begun.
    Met,
    /// The replica is complete.
    InSync,
    /// The owner has sent everything, in the place of what the member held before.
    StandBy,
    /// The owner stops, and asks the member to take over.
    TakeOver,
    /// The session has ended, however it did, or no owner was met.
    Ended,
    /// Whoever has the port is no member, or has no handover.
    NotAMember,
    /// This process may not have as many descriptors as that takes.
    Unfit,
    /// The lock is this process's. The listeners may have been shut.
    Locked { is_listening: bool },
    /// Another process has the lock.
    Occupied,
}

/// What a follower does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Go on with the session.
    Follow,
    /// Bring to the owner the registrations that its table lacks, and go on.
    Bring,
    /// Look for the owner.
    Meet,
    /// Try to lock the listeners.
    Lock,
    /// Serve with what it holds.
    Serve,
    /// Close the listeners, which nobody can serve any more, and look for the owner. Connections and table stay.
    DropListeners,
    /// Close the listeners and connections, and look for the owner.
    GiveUp,
}

impl Follower {
    /// A follower without a session.
    pub(crate) fn new(can_serve: bool) -> Self {
        Self { can_serve, session: Session::None }
    }

    /// The next state, and what to do.
    pub(crate) fn after(self, event: Event) -> (Self, Action) {
        let Self { can_serve, session } = self;
        let next = |can_serve, session| Self { can_serve, session };
        match event {
            Event::Met => (next(can_serve, Session::Copying), Action::Follow),
            Event::InSync => (next(can_serve, Session::InSync), Action::Bring),
            Event::StandBy => (next(true, Session::StandingBy), Action::Follow),
            // Whoever has the lock is one.
            Event::NotAMember if can_serve => (next(true, Session::None), Action::Lock),
            Event::NotAMember | Event::Unfit => (next(false, Session::None), Action::GiveUp),
            Event::TakeOver | Event::Ended if can_serve => (next(true, Session::None), Action::Lock),
            Event::TakeOver | Event::Ended => (next(false, Session::None), Action::Meet),
            Event::Locked { is_listening: true } => (self, Action::Serve),
            Event::Locked { is_listening: false } => (next(false, session), Action::DropListeners),
            // Whoever serves may end before this member is in sync with it, so nothing is given up.
            Event::Occupied => (self, Action::Meet),
        }
    }

    /// Whether its replica is complete.
    pub(crate) fn is_in_sync(self) -> bool {
        matches!(self.session, Session::InSync | Session::StandingBy)
    }

    /// Whether it has everything of its owner.
    pub(crate) fn stands_by(self) -> bool {
        self.session == Session::StandingBy
    }

    /// Whether it can serve with what it holds.
    pub(crate) fn can_serve(self) -> bool {
        self.can_serve
    }
}

/// How the stop of an owner ends, once its standbys have been asked to take over and the lock was free for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Another process serves, so it is one that was given the listeners.
    HandedOver,
    /// This process has the lock again. Nobody else can serve: the sockets are shut.
    Alone,
}

impl Stopped {
    /// What it means that this process has, or has not, got the lock back.
    pub(crate) fn after(has_lock_again: bool) -> Self {
        if has_lock_again {
            Self::Alone
        } else {
            Self::HandedOver
        }
    }
}
