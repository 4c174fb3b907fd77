//! The rules of the change-over, without sockets: what a member does next, after what came of what it did.
//!
//! [`crate::member`] does it for real; the tests below walk through every order in which three members can do it.

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
    Resting,
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
    Inherited,
    /// There is another node to register, or none any more.
    Changed,
    /// It did not work out: refused, gone, not an EPMD.
    Failed,
    /// The moment is over.
    Rested,
}

impl State {
    /// What to do next.
    pub(crate) fn after(self, event: Event) -> Self {
        match (self, event) {
            (Self::Serving, _) | (Self::Searching, Event::Bound) | (Self::Joined, Event::Inherited) => Self::Serving,
            (Self::Searching, Event::Taken) | (Self::Joined, Event::Changed) => Self::Joining,
            (Self::Joining, Event::Granted) => Self::Joined,
            (_, Event::Failed) => Self::Resting,
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
        /// Who has bound the port, and whether it listens yet: two system calls.
        port: Option<(usize, bool)>,
        stops: u8,
        starts: u8,
        losses: u8,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Member {
        state: State,
        link: Link,
    }

    /// A member's connection to an owner.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Link {
        None,
        /// The owner has the registration; its answer may not have been read.
        To(usize),
        /// It has ended, which the member has not seen yet.
        Ended,
    }

    const NEW: Member = Member { state: State::Searching, link: Link::None };

    impl Host {
        fn new(members: [Option<Member>; MEMBERS]) -> Self {
            Self { members, port: None, stops: 3, starts: 2, losses: 2 }
        }

        /// Every host that one step of one member leads to.
        fn steps(&self, rules: Rules) -> Vec<Self> {
            (0..MEMBERS).flat_map(|me| self.steps_of(me, rules)).collect()
        }

        fn steps_of(&self, me: usize, rules: Rules) -> Vec<Self> {
            let Some(member) = self.members[me] else { return Vec::new() };
            let go = |event: Event, link: Link, port: Option<(usize, bool)>| {
                let mut next = self.clone();
                next.members[me] = Some(Member { state: rules(member.state, event), link });
                next.port = port;
                next
            };
            match (member.state, member.link) {
                (State::Searching, _) => match self.port {
                    None => {
                        let mut bound = self.clone();
                        bound.port = Some((me, false));
                        vec![bound]
                    }
                    Some((owner, false)) if owner == me => vec![go(Event::Bound, Link::None, Some((me, true)))],
                    Some(_) => vec![go(Event::Taken, Link::None, self.port)],
                },
                (State::Joining, Link::None) => match self.port {
                    Some((owner, true)) => {
                        let mut asked = self.clone();
                        asked.members[me] = Some(Member { link: Link::To(owner), ..member });
                        vec![asked]
                    }
                    _ => vec![go(Event::Failed, Link::None, self.port)],
                },
                (State::Joining, Link::To(_)) => vec![go(Event::Granted, member.link, self.port)],
                (State::Joining, Link::Ended) => vec![go(Event::Failed, Link::None, self.port)],
                (State::Joined, Link::Ended) => {
                    // A link that did not last counts as a failure, so that nobody spins.
                    vec![go(Event::Ended, Link::None, self.port), go(Event::Failed, Link::None, self.port)]
                }
                (State::Resting, _) => vec![go(Event::Rested, Link::None, self.port)],
                (State::Joined, _) | (State::Serving, _) => Vec::new(),
            }
        }

        /// Every host that one fault leads to: a member ends, orderly or killed, or starts; a link breaks.
        fn faults(&self) -> Vec<Self> {
            let mut next = Vec::new();
            for me in 0..MEMBERS {
                match self.members[me] {
                    Some(member) => {
                        if self.stops > 0 {
                            let mut stopped = self.clone();
                            stopped.stops -= 1;
                            stopped.members[me] = None;
                            if self.port.is_some_and(|(owner, _)| owner == me) {
                                stopped.port = None;
                                for other in stopped.members.iter_mut().flatten() {
                                    if other.link == Link::To(me) {
                                        other.link = Link::Ended;
                                    }
                                }
                            }
                            next.push(stopped);
                        }
                        if self.losses > 0 && matches!(member.link, Link::To(_)) {
                            let mut lost = self.clone();
                            lost.losses -= 1;
                            lost.members[me] = Some(Member { link: Link::Ended, ..member });
                            next.push(lost);
                        }
                    }
                    None if self.starts > 0 => {
                        let mut started = self.clone();
                        started.starts -= 1;
                        started.members[me] = Some(NEW);
                        next.push(started);
                    }
                    None => {}
                }
            }
            next
        }

        fn owners(&self) -> usize {
            self.members.iter().flatten().filter(|member| member.state == State::Serving).count()
        }

        /// Every living member is registered where the port is served.
        fn is_whole(&self) -> bool {
            (0..MEMBERS).all(|me| match self.members[me] {
                None => true,
                Some(Member { state: State::Serving, .. }) => self.port == Some((me, true)),
                Some(Member { state: State::Joined, link: Link::To(owner) }) => self.port == Some((owner, true)),
                Some(_) => false,
            })
        }
    }

    /// Walks through everything that can happen; the number of hosts seen, or the first that breaks a promise.
    fn explore(rules: Rules) -> Result<usize, String> {
        let mut todo = vec![Host::new([Some(NEW), Some(NEW), Some(NEW)])];
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
            todo.extend(host.faults());
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
        let hosts = explore(State::after).unwrap_or_else(|broken| panic!("{broken}"));
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
        assert!(explore(never_binds_again).is_err_and(|broken| broken.starts_with("never whole again")));
        let serves_what_is_taken: Rules = |state, event| match (state, event) {
            (State::Searching, Event::Taken) => State::Serving,
            _ => state.after(event),
        };
        assert!(explore(serves_what_is_taken).is_err_and(|broken| broken.starts_with("two owners")));
    }
}
