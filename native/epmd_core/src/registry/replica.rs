//! The table of a member that does not serve: a replica of its owner's, for lookups and events. When the member becomes
//! the owner, the replica becomes the table.

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::contents::Contents;
use super::entry::{Entry, Holder, NodeConnection};
use super::log::{InvalidEntry, LogEntry, Position};
use super::table::{Registration, Registry};
use crate::journal::Change;

/// Where a replica comes from.
#[derive(Debug)]
pub(super) struct Source {
    /// Where the owner listens.
    addresses: Vec<IpAddr>,
    /// Whether the owner's grace period is over.
    pub(super) is_settled: bool,
}

impl Source {
    pub(super) fn covers(&self, address: IpAddr) -> bool {
        let is_any = |bound: &IpAddr| bound.is_unspecified() && bound.is_ipv4() == address.is_ipv4();
        self.addresses.iter().any(|bound| *bound == address || is_any(bound))
    }
}

/// A snapshot that is not complete yet.
#[derive(Debug)]
pub(crate) struct Incoming(Contents);

/// What a member still holds of the sockets of owners when it becomes the owner.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Connections of registrations in the replica.
    pub(crate) connected: Vec<(u64, NodeConnection)>,
    /// Registrations that the replica lacks, with their connections.
    pub(crate) missing: Vec<(Arc<Entry>, NodeConnection)>,
    /// The registration of this member's own node, which no longer needs its connection.
    pub(crate) own: Option<u64>,
}

/// The registrations with which a new owner begins. Each is to be kept as long as its connection lasts.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// The registration of this VM's node.
    pub(crate) own: Option<Registration>,
    pub(crate) connected: Vec<(Registration, NodeConnection)>,
}

impl Incoming {
    /// Begins the replica of the table of this epoch.
    pub(crate) fn new(epoch: u64, refusals: u64) -> Self {
        Self(Contents::begin(epoch, refusals))
    }
}

/// The side of a member that does not serve.
impl Registry {
    /// How far this replica has come, if it is one.
    pub(crate) fn replica_position(&self) -> Option<Position> {
        let state = self.state();
        state.source.as_ref().map(|_| state.contents.position())
    }

    /// How far this replica has come, if it is one of a table that has settled.
    pub(crate) fn settled_replica(&self) -> Option<Position> {
        let state = self.state();
        state.source.as_ref().filter(|source| source.is_settled).map(|_| state.contents.position())
    }

    /// Whether this is a replica.
    pub(crate) fn is_replica(&self) -> bool {
        self.state().source.is_some()
    }

    /// Finds a node by its name, if the owner serves this address.
    pub(crate) fn find_replicated(&self, address: IpAddr, name: &[u8]) -> Option<Arc<Entry>> {
        let state = self.state();
        state.source.as_ref().filter(|source| source.covers(address))?;
        state.contents.nodes().find(name).or_else(|| state.provisional.find(name)).cloned()
    }

    /// The registration with this number.
    pub(crate) fn get(&self, id: u64) -> Option<Arc<Entry>> {
        self.state().contents.nodes().get(id).cloned()
    }

    /// Adds an entry to a snapshot. What it says of registrations that this replica has is looked up here.
    pub(crate) fn build(&self, incoming: &mut Incoming, entry: LogEntry) -> Result<(), InvalidEntry> {
        incoming.0.build(entry, &self.state().contents)
    }

    /// Replaces the replica by a complete snapshot, of an owner at these addresses. Observers are told of what is new;
    /// of what has gone they are told when the owner has settled.
    pub(crate) fn replace(&self, incoming: Incoming, addresses: &[IpAddr]) {
        let mut state = self.state();
        let state = &mut *state;
        let Incoming(contents) = incoming;
        for known in state.contents.nodes().iter() {
            state.provisional.add(known);
        }
        contents.nodes().iter().for_each(|entry| state.provisional.registered(entry, self.journal()));
        state.contents = contents;
        state.source = Some(Source { addresses: addresses.to_vec(), is_settled: false });
    }

    /// Follows a change of the owner's table.
    pub(crate) fn follow(&self, entry: LogEntry) -> Result<(), InvalidEntry> {
        let mut state = self.state();
        let state = &mut *state;
        match entry {
            LogEntry::Registered(entry) => {
                state.contents.follow_registered(&entry)?;
                state.provisional.registered(&entry, self.journal());
            }
            LogEntry::Ended(id, left) => {
                let (ended, _) =
                    state.contents.end(id, left).ok_or(InvalidEntry("the end of a registration that is not there"))?;
                self.journal().record(|| ended.unregistered());
            }
            LogEntry::Refused(refusal) => {
                self.journal().record(|| refusal.clone().change());
                state.contents.follow_refused(refusal);
            }
            LogEntry::Settled => {
                if let Some(source) = &mut state.source {
                    source.is_settled = true;
                }
                state.provisional.settled(self.journal());
            }
            _ => return Err(InvalidEntry("what belongs to a snapshot")),
        }
        Ok(())
    }

    /// Gives the replica up, since it is not kept up to date any more.
    pub(crate) fn give_up(&self) {
        let mut state = self.state();
        if state.source.take().is_some() {
            (state.contents, state.provisional) = Default::default();
            self.journal().record(|| Change::Lost);
        }
    }

    /// Makes the replica the table, with what this member holds. Nodes whose connections it does not hold have until
    /// `settles_at` to register again, or if that is `None` they have gone.
    pub(crate) fn promote(&self, held: Held, settles_at: Option<Instant>) -> Restored {
        let mut restored = Restored::default();
        let mut state = self.state();
        let state_ = &mut *state;
        state_.source = None;
        state_.contents.promote();
        if let Some(own) = held.own.and_then(|id| state_.contents.nodes().get(id)) {
            own.hold(Holder::Local);
            restored.own = Some(Registration::new(self, Arc::clone(own)));
        }
        for (id, connection) in held.connected {
            let Some(entry) = state_.contents.nodes().get(id).filter(|entry| !entry.is_local()) else { continue };
            entry.hold(Holder::Connection(Arc::downgrade(&connection) as Weak<_>));
            restored.connected.push((Registration::new(self, Arc::clone(entry)), connection));
        }
        let is_held = |entry: &Entry| entry.is_local() || entry.connection().is_some();
        let gone: Vec<_> = state_.contents.nodes().iter().filter(|entry| !is_held(entry)).cloned().collect();
        for entry in gone {
            state_.contents.lose(entry.id());
            match settles_at {
                // To observers, nodes that may still register again are registered.
                Some(_) => state_.provisional.add(&entry),
                None => self.journal().record(|| entry.unregistered()),
            }
        }
        for (entry, connection) in held.missing {
            if state_.contents.nodes().find(entry.name()).is_some() {
                continue;
            }
            let holder = Holder::Connection(Arc::downgrade(&connection) as Weak<_>);
            let entry = state_.contents.bring(&entry, holder);
            state_.provisional.registered(&entry, self.journal());
            restored.connected.push((Registration::new(self, entry), connection));
        }
        state_.settles_at = settles_at;
        if settles_at.is_none() {
            state_.provisional.settled(self.journal());
        }
        drop(state);
        self.wake_waiting();
        restored
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::super::contents::replicated;
    use super::super::life::{Life, Past, Series};
    use super::super::log::Counters;
    use super::super::refusals::Refusal;
    use super::super::table::Known;
    use super::super::tombstones::Tombstone;
    use super::*;
    use crate::journal::Journal;
    use crate::node::{Node, NodeName};
    use crate::os;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const CREATION: u32 = 7;
    const PAST: Past = Past { registered: 1, left: 2, series: Series { times: 1, since: 1 } };
    const GRACE: Duration = Duration::from_secs(60);

    type Told = Arc<Mutex<Vec<String>>>;

    fn node(name: &str) -> Node {
        Node::erlang(NodeName::new(name.as_bytes()).expect("a valid name"), 1)
    }

    fn entry(id: u64, name: &str) -> Arc<Entry> {
        replicated(id, CREATION, None, Life::default(), &node(name))
    }

    fn registered(id: u64, name: &str) -> LogEntry {
        LogEntry::Registered(entry(id, name))
    }

    fn refused(number: u64) -> LogEntry {
        LogEntry::Refused(Refusal { number, name: format!("refused{number}"), reason: "why not".into() })
    }

    fn tombstone(number: u64, name: &str) -> LogEntry {
        LogEntry::Tombstone(Tombstone {
            number,
            name: name.as_bytes().into(),
            creation: 3,
            port: 1,
            descriptor: -1,
            past: PAST,
        })
    }

    fn counters(registrations: u64, deletions: u64) -> LogEntry {
        LogEntry::Counters(Counters { registrations, deletions, min_creation: 0 })
    }

    /// A registry, and what its observer is told.
    fn observed() -> (Registry, Told) {
        let told = Told::default();
        let observer = Arc::clone(&told);
        let journal = Journal::observed_by(Arc::new(move |_, change| {
            observer.lock().push(match change {
                Change::Registered { name, .. } => format!("+{name}"),
                Change::Unregistered { name, .. } => format!("-{name}"),
                Change::Refused { name, .. } => format!("!{name}"),
                change => format!("{change:?}"),
            });
        }));
        (Registry::with_journal(journal), told)
    }

    fn taken(told: &Told) -> Vec<String> {
        std::mem::take(&mut *told.lock())
    }

    /// Makes this the replica of the table of this epoch.
    fn copy(registry: &Registry, epoch: u64, entries: impl IntoIterator<Item = LogEntry>) {
        let mut incoming = Incoming::new(epoch, 0);
        for entry in [counters(9, 9)].into_iter().chain(entries) {
            registry.build(&mut incoming, entry).expect("a table says so");
        }
        registry.replace(incoming, &[LOCAL]);
    }

    /// A settled replica of these nodes, of which the observer has been told.
    fn replica(names: &[&str]) -> (Registry, Told) {
        let (registry, told) = observed();
        copy(&registry, 1, (1..).zip(names).map(|(id, name)| registered(id, name)));
        registry.follow(LogEntry::Settled).expect("a table says so");
        taken(&told);
        (registry, told)
    }

    fn text(entry: &Entry) -> String {
        String::from_utf8_lossy(entry.name()).into_owned()
    }

    fn names(registry: &Registry) -> Vec<String> {
        registry.snapshot().1.iter().map(|entry| text(entry)).collect()
    }

    /// Both ends of a node's connection.
    fn connection() -> (TcpStream, NodeConnection) {
        let listener = TcpListener::bind((LOCAL, 0)).expect("a free port");
        let node = TcpStream::connect(listener.local_addr().expect("its address")).expect("room in the backlog");
        node.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        let (connection, _) = listener.accept().expect("it has connected");
        connection.set_nonblocking(true).expect("a socket");
        (node, Arc::new(os::watch(connection).expect("a runtime")))
    }

    fn is_closed(mut node: &TcpStream) -> bool {
        node.read(&mut [0]).is_ok_and(|length| length == 0)
    }

    #[test]
    fn only_what_differs_from_the_last_table_is_told() {
        let (registry, told) = observed();
        copy(&registry, 1, [registered(1, "a"), registered(2, "b")]);
        registry.follow(registered(10, "c")).expect("a new one");
        registry.follow(LogEntry::Ended(1, 0)).expect("it is there");
        assert_eq!(taken(&told), ["+a", "+b", "+c", "-a"]);
        // Another owner numbers them anew. "a" was gone before, "d" is new, and "b" has registered again.
        let again = LogEntry::Registered(replicated(3, CREATION + 1, None, Life::default(), &node("b")));
        copy(&registry, 2, [registered(1, "c"), registered(2, "d"), again]);
        assert_eq!(taken(&told), ["+d", "-b", "+b"]);
        assert_eq!(names(&registry), ["b", "d", "c"]);
    }

    #[test]
    fn what_the_next_table_lacks_has_gone_once_that_has_settled() {
        let (registry, told) = replica(&["a", "b", "c"]);
        copy(&registry, 2, [registered(1, "b")]);
        assert!(registry.settled_replica().is_none());
        // Until then it is found: its node may register there a moment later, as "c" does.
        assert_eq!(names(&registry), ["b", "c", "a"]);
        assert!(registry.find_replicated(LOCAL, b"a").is_some());
        registry.follow(registered(10, "c")).expect("a new one");
        assert_eq!(taken(&told), Vec::<String>::new());
        registry.follow(LogEntry::Settled).expect("a table says so");
        assert_eq!(taken(&told), ["-a"]);
        assert!(registry.find_replicated(LOCAL, b"a").is_none() && registry.settled_replica().is_some());
        assert_eq!(names(&registry), ["c", "b"]);
    }

    #[test]
    fn a_table_that_continues_the_last_one_sends_only_what_is_new() {
        let (registry, told) = replica(&["a", "b"]);
        registry.follow(refused(1)).expect("a table says so");
        registry.follow(refused(2)).expect("a table says so");
        assert_eq!(taken(&told), ["!refused1", "!refused2"]);
        let known = registry.get(2).expect("it is there");
        let mut incoming = Incoming::new(2, 2);
        for entry in [LogEntry::Resumed(2), counters(3, 0), LogEntry::Retained(2), registered(3, "c")] {
            registry.build(&mut incoming, entry).expect("a table says so");
        }
        registry.replace(incoming, &[LOCAL]);
        assert!(registry.get(2).is_some_and(|entry| Arc::ptr_eq(&entry, &known)) && registry.get(1).is_none());
        registry.follow(refused(3)).expect("a table says so");
        assert_eq!(taken(&told), ["+c", "!refused3"]);
        let position = registry.replica_position().expect("a replica");
        assert_eq!(position, Position { epoch: 2, registrations: 3, refusals: 3 });
    }

    #[test]
    fn a_replica_remembers_who_left_as_the_table_does() {
        let (table, (replica, _)) = (Registry::default(), observed());
        let register = |name| table.register(&node(name), None, Holder::Local).expect("a free name");
        for _ in 0..2 {
            drop(register("before"));
        }
        let stays = register("stays");
        let subscription = table.subscribe(None);
        let mut incoming = None;
        let mut follow = || {
            while let Some(entry) = subscription.take().expect("it does not lag") {
                match (entry, &mut incoming) {
                    (LogEntry::Begin { epoch, refusals }, _) => incoming = Some(Incoming::new(epoch, refusals)),
                    (LogEntry::InSync, _) => replica.replace(incoming.take().expect("it has begun"), &[LOCAL]),
                    (entry, Some(incoming)) => replica.build(incoming, entry).expect("a table says so"),
                    (entry, None) => replica.follow(entry).expect("a table says so"),
                }
            }
        };
        follow();
        assert_eq!(replica.tombstones(), table.tombstones());
        assert_eq!(replica.tombstones()[0].past.series.times, 2);
        drop(register("before"));
        drop(stays);
        follow();
        let pasts = |registry: &Registry| registry.tombstones().iter().map(|left| left.past).collect::<Vec<_>>();
        assert_eq!(pasts(&replica), pasts(&table));
        assert_eq!(pasts(&replica).iter().map(|past| past.series.times).collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn a_copy_that_is_lost_is_told_once_and_answers_nothing() {
        let (registry, told) = replica(&["a"]);
        // "b" was in the table before.
        copy(&registry, 2, [registered(1, "b")]);
        assert_eq!(taken(&told), ["+b"]);
        assert!(registry.find_replicated(LOCAL, b"b").is_some());
        assert!(registry.find_replicated([127, 0, 0, 2].into(), b"b").is_none(), "the owner is not asked there");
        registry.give_up();
        registry.give_up();
        assert_eq!(taken(&told), ["Lost"]);
        assert!(
            !registry.is_replica() && registry.replica_position().is_none() && registry.settled_replica().is_none()
        );
        assert!(["a", "b"].iter().all(|name| registry.find_replicated(LOCAL, name.as_bytes()).is_none()));
        assert_eq!(names(&registry), Vec::<String>::new());
        // What comes next is new to observers.
        copy(&registry, 3, [registered(1, "b")]);
        assert_eq!(taken(&told), ["+b"]);
    }

    #[test]
    fn an_owner_of_any_address_of_a_family_is_asked_at_each() {
        let (registry, _) = observed();
        let mut incoming = Incoming::new(1, 0);
        registry.build(&mut incoming, counters(1, 0)).expect("a table says so");
        registry.build(&mut incoming, registered(1, "a")).expect("a table says so");
        registry.replace(incoming, &[IpAddr::from([0, 0, 0, 0])]);
        assert!(registry.find_replicated([127, 0, 0, 2].into(), b"a").is_some());
        assert!(registry.find_replicated(std::net::Ipv6Addr::LOCALHOST.into(), b"a").is_none());
    }

    #[test]
    fn what_no_table_says_is_not_applied() {
        let (registry, told) = replica(&["a", "b", "c"]);
        registry.follow(LogEntry::Ended(2, 0)).expect("it is there");
        let (known, position) = (names(&registry), registry.replica_position());
        taken(&told);
        let wrong = [registered(10, "a"), registered(3, "d"), LogEntry::Ended(2, 0), LogEntry::Ended(11, 0)];
        let of_a_snapshot = [
            LogEntry::Begin { epoch: 2, refusals: 0 },
            LogEntry::Resumed(1),
            counters(20, 20),
            tombstone(9, "d"),
            LogEntry::Retained(1),
            LogEntry::InSync,
        ];
        for entry in wrong.into_iter().chain(of_a_snapshot) {
            assert!(registry.follow(entry.clone()).is_err(), "{entry:?}");
        }
        assert_eq!((names(&registry), registry.replica_position()), (known, position));
        assert_eq!(taken(&told), Vec::<String>::new());
    }

    #[test]
    fn what_no_snapshot_says_is_not_built() {
        let (registry, _) = replica(&["a"]);
        let wrong = [
            vec![registered(10, "b")],
            vec![registered(2, "b"), registered(2, "c")],
            vec![registered(3, "b"), registered(2, "c")],
            vec![registered(2, "b"), registered(3, "b")],
            vec![LogEntry::Retained(2)],
            vec![LogEntry::Retained(1), registered(2, "a")],
            vec![tombstone(10, "b")],
            vec![tombstone(1, "b"), tombstone(2, "b")],
            vec![LogEntry::Begin { epoch: 2, refusals: 0 }],
            vec![LogEntry::Ended(1, 0)],
            vec![LogEntry::InSync],
            vec![LogEntry::Settled],
            vec![refused(1)],
        ];
        for mut entries in wrong {
            let mut incoming = Incoming::new(2, 0);
            registry.build(&mut incoming, counters(9, 9)).expect("a table says so");
            let last = entries.pop().expect("what is wrong");
            entries.iter().for_each(|entry| registry.build(&mut incoming, entry.clone()).expect("a table says so"));
            assert!(registry.build(&mut incoming, last.clone()).is_err(), "{last:?} after {entries:?}");
        }
        assert_eq!(names(&registry), ["a"], "a snapshot that is not complete changes nothing");
    }

    #[tokio::test]
    async fn a_replica_becomes_a_table_of_the_connections_that_are_held() {
        let (registry, told) = replica(&["a", "b", "own"]);
        let last = registry.replica_position();
        let (other_end, held) = connection();
        let held = Held { connected: vec![(1, held)], own: Some(3), ..Held::default() };
        let Restored { own, connected } = registry.promote(held, None);
        // Observers know "a", and the member's own node.
        assert_eq!(taken(&told), ["-b"]);
        assert_eq!(names(&registry), ["own", "a"]);
        assert!(!registry.is_replica() && matches!(registry.look_up(b"b"), Known::Missing));
        assert!(registry.get(1).is_some_and(|entry| entry.connection().is_some() && entry.creation() == CREATION));
        assert!(registry.get(3).is_some_and(|entry| entry.is_local() && entry.creation() == CREATION));
        // Other replicas of the last table go on with this one.
        assert_eq!(registry.subscribe(last).shared(), 9);
        let next = registry.register(&node("b"), None, Holder::Local).expect("a free name");
        assert_eq!(next.creation(), CREATION + 1);
        taken(&told);
        drop(connected);
        assert!(is_closed(&other_end));
        drop(own);
        assert_eq!(taken(&told), ["-a", "-own"]);
    }

    #[tokio::test]
    async fn nodes_whose_connections_are_lost_have_a_grace_period() {
        let (registry, told) = replica(&["a", "b", "c", "d"]);
        let (_node, held) = connection();
        let held = Held { connected: vec![(1, held)], ..Held::default() };
        let _restored = registry.promote(held, Some(Instant::now() + GRACE));
        // To observers they are registered, and to clients they are not.
        assert_eq!(names(&registry), ["a", "d", "c", "b"]);
        assert!(matches!(registry.look_up(b"b"), Known::Unsettled));
        let holder = Holder::Local;
        let _b = registry.restore(&node("b"), None, holder.clone(), CREATION).expect("a free name");
        assert_eq!(taken(&told), Vec::<String>::new());
        let _c = registry.register(&node("c"), None, holder).expect("a free name");
        assert_eq!(taken(&told), ["-c", "+c"]);
        registry.settle();
        assert_eq!(taken(&told), ["-d"]);
        assert_eq!(names(&registry), ["c", "b", "a"]);
    }

    #[tokio::test]
    async fn what_the_replica_lacks_is_registered_if_its_name_is_free() {
        for settles_at in [None, Some(Instant::now() + GRACE)] {
            let (registry, told) = replica(&["a", "b"]);
            let [(_a, held), (free, brought), (late, refused), (again, lost)] = std::array::from_fn(|_| connection());
            let other = |name, creation| replicated(1, creation, None, Life::default(), &node(name));
            let held = Held {
                connected: vec![(1, held)],
                // Nobody holds "b" of the replica, so its name is free.
                missing: vec![(other("free", 5), brought), (other("a", 5), refused), (other("b", 5), lost)],
                own: None,
            };
            let restored = registry.promote(held, settles_at);
            let mut known = taken(&told);
            if settles_at.is_none() {
                assert_eq!(known.remove(0), "-b");
            }
            let new = if settles_at.is_none() { vec!["+free", "+b"] } else { vec!["+free", "-b", "+b"] };
            assert_eq!(known, new);
            assert_eq!(names(&registry), ["b", "free", "a"]);
            let creations: Vec<_> = registry.entries().iter().map(|entry| entry.creation()).collect();
            assert_eq!(creations, [5, 5, CREATION]);
            assert!(registry.entries().iter().all(|entry| entry.connection().is_some()));
            assert_eq!(restored.connected.len(), 3);
            assert!(is_closed(&late), "its name is another's");
            drop(restored);
            assert!(is_closed(&free) && is_closed(&again) && registry.is_empty());
        }
    }

    #[tokio::test]
    async fn a_connection_of_no_registration_is_closed() {
        let (registry, told) = replica(&["own"]);
        let [(node, held), (own, second)] = std::array::from_fn(|_| connection());
        let held = Held { connected: vec![(2, held), (1, second)], own: Some(1), ..Held::default() };
        let restored = registry.promote(held, None);
        assert!(restored.connected.is_empty() && is_closed(&node) && is_closed(&own));
        assert!(restored.own.is_some() && taken(&told).is_empty());
    }
}
