//! The rules of the change-over as a state machine without I/O: each event leads to the next state.
//!
//! [`super::Member`] carries the states out. The tests below explore every order in which three members can act. Which
//! standby takes over, and with what, is another matter (`hand_over::succession`).

/// What a member is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// It tries to bind the port.
    Searching,
    /// It registers with the owner of the port.
    Joining,
    /// It is registered there, as long as the link lasts.
    Joined,
    /// It waits before it searches again.
    BackingOff,
    /// It serves the port until it stops.
    Serving,
}

/// The outcome of an action, or what happened meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// This member has bound the port.
    Bound,
    /// Another process has the port.
    Taken,
    /// The owner has registered our node, or has answered if there is none.
    Granted,
    /// The link to the owner ended.
    Ended,
    /// The owner ended, and this member, its standby, has taken over everything.
    TookOver,
    /// The local node has changed, or has gone.
    Changed,
    /// Other addresses are wanted, and another process has them. The link to the owner stays.
    Moved,
    /// The attempt failed: refused, owner gone, or not an EPMD.
    Failed,
    /// The pause is over.
    BackedOff,
}

impl State {
    /// What to do next.
    pub(crate) fn after(self, event: Event) -> Self {
        match (self, event) {
            (Self::Serving, _) | (_, Event::Bound | Event::TookOver) => Self::Serving,
            (_, Event::Taken | Event::Moved) | (Self::Joined, Event::Changed) => Self::Joining,
            (Self::Joining, Event::Granted) => Self::Joined,
            (_, Event::Failed) => Self::BackingOff,
            // After the end of an owner every member tries to bind at once.
            _ => Self::Searching,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::{explore, World};

    const MEMBERS: usize = 3;

    type Rules = fn(State, Event) -> State;

    /// A host with its members, the port, and the faults that may still happen.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct Host {
        members: [Option<Member>; MEMBERS],
        /// The bound socket, while anybody has it.
        port: Option<Port>,
        sockets: u8,
        stops: u8,
        starts: u8,
        losses: u8,
        moves: u8,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Port {
        socket: u8,
        /// The member that accepts; `None` if only standbys are left.
        server: Option<usize>,
        /// Binding and listening are two system calls.
        listens: bool,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Member {
        state: State,
        link: Link,
        /// It has the socket and the links to it, whatever it does meanwhile.
        stands_by: bool,
    }

    /// A member's connection to an owner.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    enum Link {
        None,
        /// The owner of this socket has the registration; its answer may not have been read.
        To(u8),
        /// It has ended, and the member has not noticed yet.
        Ended,
    }

    const NEW: Member = Member { state: State::Searching, link: Link::None, stands_by: false };

    impl Host {
        fn new() -> Self {
            Self { members: [Some(NEW); MEMBERS], port: None, sockets: 0, stops: 2, starts: 2, losses: 1, moves: 2 }
        }

        fn steps_of(&self, me: usize, rules: Rules) -> Vec<Self> {
            let Some(member) = self.members[me] else { return Vec::new() };
            let go =
                |event: Event, link: Link| self.with(me, Member { state: rules(member.state, event), link, ..member });
            let acts = match (member.state, member.link) {
                (State::Searching, _) => match self.port {
                    None => {
                        let mut bound = self.clone();
                        bound.sockets += 1;
                        bound.port = Some(Port { socket: bound.sockets, server: Some(me), listens: false });
                        vec![bound]
                    }
                    Some(port) if port.server == Some(me) && !port.listens => {
                        let mut listening = go(Event::Bound, Link::None);
                        listening.port = Some(Port { listens: true, ..port });
                        vec![listening]
                    }
                    Some(_) => vec![go(Event::Taken, Link::None)],
                },
                (State::Joining, Link::None) => match self.port {
                    Some(Port { socket, server: Some(_), listens: true }) => {
                        vec![self.with(me, Member { link: Link::To(socket), ..member })]
                    }
                    // Nobody accepts: the connection waits, and the member may give up.
                    _ => vec![go(Event::Failed, Link::None)],
                },
                (State::Joining, Link::To(_)) => vec![go(Event::Granted, member.link)],
                (State::Joining, Link::Ended) => vec![go(Event::Failed, Link::None)],
                (State::Joined, Link::Ended) => {
                    // A link that did not last counts as a failure, so that nobody spins.
                    vec![go(Event::Ended, Link::None), go(Event::Failed, Link::None)]
                }
                (State::BackingOff, _) => vec![go(Event::BackedOff, Link::None)],
                (State::Joined, _) | (State::Serving, _) => Vec::new(),
            };
            acts.into_iter().chain(self.stand_by(me, member, rules)).collect()
        }

        /// This host after a member has become a standby, or has taken over.
        fn stand_by(&self, me: usize, member: Member, rules: Rules) -> Option<Self> {
            let port = self.port?;
            if member.stands_by {
                let taken_over =
                    Member { state: rules(member.state, Event::TookOver), link: Link::None, stands_by: false };
                let mut next = self.with(me, taken_over);
                next.port = Some(Port { server: Some(me), ..port });
                port.server.is_none().then_some(next)
            } else {
                let is_served = member.link == Link::To(port.socket) && port.server.is_some();
                is_served.then(|| self.with(me, Member { stands_by: true, ..member }))
            }
        }

        /// This host after one member has changed. A port that no member holds any more is free, and its links end.
        fn with(&self, me: usize, member: impl Into<Option<Member>>) -> Self {
            let mut next = self.clone();
            next.members[me] = member.into();
            if let Some(port) = next.port {
                if port.server.is_none() && !next.members.iter().flatten().any(|member| member.stands_by) {
                    next.port = None;
                    for other in next.members.iter_mut().flatten() {
                        if other.link == Link::To(port.socket) {
                            other.link = Link::Ended;
                        }
                    }
                }
            }
            next
        }

        /// This host after a member was given other addresses, where the port is its own or its owner's.
        fn moved(&self, me: usize, member: Member, rules: Rules) -> Option<Self> {
            let port = self.port.filter(|_| self.moves > 0)?;
            let mut moved = self.clone();
            match (member.state, member.link) {
                (State::Serving, _) if port.server == Some(me) => {
                    // Links outlive the listener that accepted them. Standbys have nothing to serve any more.
                    moved.sockets += 1;
                    let new = moved.sockets;
                    moved.port = Some(Port { socket: new, ..port });
                    for other in moved.members.iter_mut().flatten() {
                        if other.link == Link::To(port.socket) {
                            other.link = Link::To(new);
                        }
                        other.stands_by = false;
                    }
                }
                (State::Joined, Link::To(_)) => {
                    let state = rules(member.state, Event::Moved);
                    moved.members[me] = Some(Member { state, stands_by: false, ..member });
                }
                _ => return None,
            }
            moved.moves -= 1;
            Some(moved.with(me, moved.members[me]))
        }
    }

    impl World for Host {
        type Rules = Rules;

        fn broken(&self) -> Option<&'static str> {
            let owners = self.members.iter().flatten().filter(|member| member.state == State::Serving);
            (owners.count() > 1).then_some("two owners")
        }

        fn steps(&self, rules: &Rules) -> Result<Vec<Self>, String> {
            Ok((0..MEMBERS).flat_map(|me| self.steps_of(me, *rules)).collect())
        }

        /// Every host that one fault leads to: a member ends, orderly or killed, or starts; a link breaks; a member is
        /// given other addresses.
        fn faults(&self, rules: &Rules) -> Vec<Self> {
            let mut next = Vec::new();
            for me in 0..MEMBERS {
                match self.members[me] {
                    Some(member) => {
                        if self.stops > 0 {
                            let mut stopped = self.clone();
                            stopped.stops -= 1;
                            if let Some(port) = stopped.port.as_mut().filter(|port| port.server == Some(me)) {
                                port.server = None;
                            }
                            next.push(stopped.with(me, None));
                        }
                        if self.losses > 0 && matches!(member.link, Link::To(_)) {
                            let mut lost = self.with(me, Member { link: Link::Ended, ..member });
                            lost.losses -= 1;
                            next.push(lost);
                        }
                        next.extend(self.moved(me, member, *rules));
                    }
                    None if self.starts > 0 => {
                        let mut started = self.with(me, NEW);
                        started.starts -= 1;
                        next.push(started);
                    }
                    None => {}
                }
            }
            next
        }

        /// Every living member is registered where the port is served.
        fn is_whole(&self) -> bool {
            (0..MEMBERS).all(|me| match (self.members[me], self.port) {
                (None, _) => true,
                (Some(member), Some(Port { socket, server: Some(server), listens: true })) => match member.state {
                    State::Serving => server == me,
                    State::Joined => server != me && member.link == Link::To(socket),
                    _ => false,
                },
                (Some(_), _) => false,
            })
        }
    }

    #[test]
    fn three_members_never_own_a_port_twice_and_always_find_together() {
        let hosts = explore(Host::new(), &(State::after as Rules)).unwrap_or_else(|broken| panic!("{broken}"));
        println!("{hosts} states of a host with {MEMBERS} members");
        assert!(hosts > 1_000, "only {hosts} states were seen");
    }

    #[test]
    fn the_walk_notices_broken_rules() {
        let never_binds_again: Rules = |state, event| match (state, event) {
            (State::Joined, Event::Ended | Event::Failed) => State::Joining,
            (State::Joining, Event::Failed) => State::Joining,
            _ => state.after(event),
        };
        assert!(explore(Host::new(), &never_binds_again).is_err_and(|broken| broken.starts_with("never whole again")));
        let serves_what_is_taken: Rules = |state, event| match (state, event) {
            (State::Searching, Event::Taken) => State::Serving,
            _ => state.after(event),
        };
        assert!(explore(Host::new(), &serves_what_is_taken).is_err_and(|broken| broken.starts_with("two owners")));
        let takes_over_only_where_it_has_joined: Rules = |state, event| match (state, event) {
            (State::Searching | State::Joining | State::BackingOff, Event::TookOver) => state,
            _ => state.after(event),
        };
        assert!(explore(Host::new(), &takes_over_only_where_it_has_joined)
            .is_err_and(|broken| broken.starts_with("never whole again")));
    }
}
