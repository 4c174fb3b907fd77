//! The rules of the change-over, without sockets: what a member does next, after what came of what it did.
//!
//! [`super::Member`] does it for real; the tests below walk through every order in which three members can do it.

/// What a member is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum State {
    /// Binding the port.
    Searching,
    /// Registering with whoever has the port.
    Joining,
    /// Registered there, for as long as the link lasts.
    Joined,
    /// Waiting a moment before it searches again.
    BackingOff,
    /// Serving the port, until it stops.
    Serving,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The port is ours.
    Bound,
    /// The port is somebody's.
    Taken,
    /// The owner has registered our node, or answered where we have none.
    Granted,
    /// The link to the owner ended.
    Ended,
    /// The owner ended, for which this member stood by: all that it had is ours.
    TookOver,
    /// There is another node to register, or none any more.
    Changed,
    /// Other addresses are wanted, which are somebody's: the link to the owner lasts.
    Moved,
    /// It did not work out: refused, gone, not an EPMD.
    Failed,
    /// The moment is over.
    BackedOff,
}

impl State {
    /// What to do next.
    pub(crate) fn after(self, event: Event) -> Self {
        match (self, event) {
            (Self::Serving, _) | (_, Event::Bound) | (Self::Joined, Event::TookOver) => Self::Serving,
            (_, Event::Taken | Event::Moved) | (Self::Joined, Event::Changed) => Self::Joining,
            (Self::Joining, Event::Granted) => Self::Joined,
            (_, Event::Failed) => Self::BackingOff,
            // Whoever sees the end of the owner first takes the port: at once.
            _ => Self::Searching,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const MEMBERS: usize = 3;

    type Rules = fn(State, Event) -> State;

    /// A host with its members, the port, and what may still go wrong.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Host {
        members: [Option<Member>; MEMBERS],
        /// The bound socket, while anybody has it.
        port: Option<Port>,
        /// Who has claimed the name under which a standby finds its owner.
        name: Option<usize>,
        /// Whether a standby must claim the name before it serves. It must; without, the walk finds two owners.
        claims: bool,
        /// Whether an owner that moves shuts the listeners that it had. It must; without, the walk finds two owners.
        shuts: bool,
        sockets: u8,
        stops: u8,
        starts: u8,
        losses: u8,
        moves: u8,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Port {
        socket: u8,
        /// Who accepts, while not only copies of the socket are left.
        server: Option<usize>,
        /// To bind and to listen are two system calls.
        listens: bool,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Member {
        state: State,
        link: Link,
        copy: Option<Copy>,
    }

    /// A member's connection to an owner.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Link {
        None,
        /// The owner of this socket has the registration; its answer may not have been read.
        To(u8),
        /// It has ended, which the member has not seen yet.
        Ended,
    }

    /// A standby's copy of a socket and of the links to it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Copy {
        socket: u8,
        /// The owner does without this standby, which may not have seen that.
        dismissed: bool,
    }

    const NEW: Member = Member { state: State::Searching, link: Link::None, copy: None };

    impl Host {
        fn new(members: [Option<Member>; MEMBERS], claims: bool, shuts: bool) -> Self {
            Self {
                members,
                port: None,
                name: None,
                claims,
                shuts,
                sockets: 0,
                stops: 2,
                starts: 2,
                losses: 1,
                moves: 2,
            }
        }

        /// Every host that one step of one member leads to.
        fn steps(&self, rules: Rules) -> Vec<Self> {
            (0..MEMBERS).flat_map(|me| self.steps_of(me, rules)).collect()
        }

        fn steps_of(&self, me: usize, rules: Rules) -> Vec<Self> {
            let Some(member) = self.members[me] else { return Vec::new() };
            let go = |event: Event, link: Link| {
                // A copy is kept while its member stays with an owner.
                self.with(me, Member { state: rules(member.state, event), link, copy: None })
            };
            match (member.state, member.link) {
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
                    // Nobody accepts: who connects waits, and may give up.
                    _ => vec![go(Event::Failed, Link::None)],
                },
                (State::Joining, Link::To(_)) => vec![go(Event::Granted, member.link)],
                (State::Joining, Link::Ended) => vec![go(Event::Failed, Link::None)],
                (State::Joined, Link::Ended) => {
                    // A link that did not last counts as a failure, so that nobody spins.
                    vec![go(Event::Ended, Link::None), go(Event::Failed, Link::None)]
                }
                (State::Joined, Link::To(socket)) => self.stand_by(me, member, socket, rules),
                (State::BackingOff, _) => vec![go(Event::BackedOff, Link::None)],
                (State::Serving, _) if self.name.is_none() => {
                    let mut claimed = self.clone();
                    claimed.name = Some(me);
                    vec![claimed]
                }
                (State::Joined, _) | (State::Serving, _) => Vec::new(),
            }
        }

        fn stand_by(&self, me: usize, member: Member, socket: u8, rules: Rules) -> Vec<Self> {
            let server = self.port.and_then(|port| port.server);
            let Some(copy) = member.copy else {
                // The owner takes one at a time; those that it has dismissed do not count.
                let has_standby =
                    |member: &Member| member.copy.is_some_and(|copy| copy.socket == socket && !copy.dismissed);
                let is_free =
                    server.is_some() && server == self.name && !self.members.iter().flatten().any(has_standby);
                let copy = Some(Copy { socket, dismissed: false });
                return if is_free { vec![self.with(me, Member { copy, ..member })] } else { Vec::new() };
            };
            if server.is_some() && !copy.dismissed {
                return Vec::new();
            }
            // The channel has ended. Whoever gets the name may serve, if the listener was not shut; else the copy is given up.
            let is_shut = self.shuts && self.port.is_some_and(|port| port.socket != copy.socket);
            if is_shut || (self.claims && self.name.is_some()) {
                return vec![self.with(me, Member { copy: None, ..member })];
            }
            let mut serving =
                self.with(me, Member { state: rules(member.state, Event::TookOver), link: Link::None, copy: None });
            serving.name = Some(me);
            serving.port = Some(Port { socket: copy.socket, server: Some(me), listens: true });
            vec![serving]
        }

        /// This host after one member has changed: what nobody has any more is gone.
        fn with(&self, me: usize, member: impl Into<Option<Member>>) -> Self {
            let mut next = self.clone();
            next.members[me] = member.into();
            if let Some(port) = next.port {
                let has_copy = |member: &Member| member.copy.is_some_and(|copy| copy.socket == port.socket);
                if port.server.is_none() && !next.members.iter().flatten().any(has_copy) {
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

        /// Every host that one fault leads to: a member ends, orderly or killed, or starts; a link breaks; an owner
        /// takes a standby for dead; a member is told other addresses.
        fn faults(&self, rules: Rules) -> Vec<Self> {
            let mut next = Vec::new();
            for me in 0..MEMBERS {
                match self.members[me] {
                    Some(member) => {
                        if self.stops > 0 {
                            let mut stopped = self.clone();
                            stopped.stops -= 1;
                            if stopped.name == Some(me) {
                                stopped.name = None;
                            }
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
                        if let Some(copy) = member.copy.filter(|copy| self.losses > 0 && !copy.dismissed) {
                            let copy = Some(Copy { dismissed: true, ..copy });
                            let mut dismissed = self.with(me, Member { copy, ..member });
                            dismissed.losses -= 1;
                            next.push(dismissed);
                        }
                        next.extend(self.moved(me, member, rules));
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

        /// This host after a member was told other addresses, at which the port is its own, or its owner's.
        fn moved(&self, me: usize, member: Member, rules: Rules) -> Option<Self> {
            let port = self.port.filter(|_| self.moves > 0)?;
            let mut moved = self.clone();
            match (member.state, member.link) {
                (State::Serving, _) if port.server == Some(me) => {
                    // Links outlive the listener that they came through; the name may be given up for another.
                    moved.sockets += 1;
                    let new = moved.sockets;
                    moved.port = Some(Port { socket: new, ..port });
                    moved.name = None;
                    for other in moved.members.iter_mut().flatten() {
                        if other.link == Link::To(port.socket) {
                            other.link = Link::To(new);
                        }
                        if let Some(copy) = other.copy.as_mut().filter(|copy| copy.socket == port.socket) {
                            copy.dismissed = true;
                        }
                    }
                }
                (State::Joined, Link::To(_)) => {
                    moved.members[me] = Some(Member { state: rules(member.state, Event::Moved), copy: None, ..member });
                }
                _ => return None,
            }
            moved.moves -= 1;
            Some(moved.with(me, moved.members[me]))
        }

        fn owners(&self) -> usize {
            self.members.iter().flatten().filter(|member| member.state == State::Serving).count()
        }

        /// Every living member is registered where the port is served.
        fn is_whole(&self) -> bool {
            (0..MEMBERS).all(|me| match (self.members[me], self.port) {
                (None, _) => true,
                (Some(member), Some(Port { socket, server: Some(server), listens: true })) => match member.state {
                    State::Serving => server == me,
                    State::Joined => member.link == Link::To(socket),
                    _ => false,
                },
                (Some(_), _) => false,
            })
        }
    }

    /// Walks through everything that can happen; the number of hosts seen, or the first that breaks a promise.
    fn explore(rules: Rules, claims: bool, shuts: bool) -> Result<usize, String> {
        let mut todo = vec![Host::new([Some(NEW), Some(NEW), Some(NEW)], claims, shuts)];
        let mut quiet: BTreeMap<Host, Vec<Host>> = BTreeMap::new();
        while let Some(host) = todo.pop() {
            if quiet.contains_key(&host) {
                continue;
            }
            if host.owners() > 1 {
                return Err(format!("two owners: {host:?}"));
            }
            let steps = host.steps(rules);
            todo.extend(steps.iter().cloned());
            todo.extend(host.faults(rules));
            quiet.insert(host, steps);
        }
        // From here on nothing goes wrong any more. Whatever can still become whole is found backwards from what is.
        let mut before: BTreeMap<&Host, Vec<&Host>> = BTreeMap::new();
        for (host, steps) in &quiet {
            steps.iter().for_each(|step| before.entry(step).or_default().push(host));
        }
        let mut heals: BTreeSet<&Host> = quiet.keys().filter(|host| host.is_whole()).collect();
        let mut todo: Vec<&Host> = heals.iter().copied().collect();
        while let Some(host) = todo.pop() {
            for earlier in before.get(host).into_iter().flatten() {
                if heals.insert(earlier) {
                    todo.push(earlier);
                }
            }
        }
        match quiet.keys().find(|host| !heals.contains(host)) {
            Some(host) => Err(format!("never whole again: {host:?}")),
            None => Ok(quiet.len()),
        }
    }

    #[test]
    fn three_members_never_own_a_port_twice_and_always_find_together() {
        let hosts = explore(State::after, true, true).unwrap_or_else(|broken| panic!("{broken}"));
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
        assert!(explore(never_binds_again, true, true).is_err_and(|broken| broken.starts_with("never whole again")));
        let serves_what_is_taken: Rules = |state, event| match (state, event) {
            (State::Searching, Event::Taken) => State::Serving,
            _ => state.after(event),
        };
        assert!(explore(serves_what_is_taken, true, true).is_err_and(|broken| broken.starts_with("two owners")));
        assert!(explore(State::after, false, true).is_err_and(|broken| broken.starts_with("two owners")));
        assert!(explore(State::after, true, false).is_err_and(|broken| broken.starts_with("two owners")));
    }
}
