//! A copy of the table: what its keeper is told, step by step, and how it takes the place of the table itself.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Departed, Entry, Holder, Kept, Left, Registration, Registry, State};
use crate::node::Node;
use crate::os;
use crate::protocol::Port2Reply;

/// Steps that a copy may be behind. At 30,000 registrations in a second that is about a second.
const BEHIND: usize = 65_536;

/// What the copy of a table is told.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// How far the table has counted.
    Counters(Counters),
    /// A name that had left when the copy began.
    Departed(Departure),
    /// A registration.
    Entered(Arc<Entry>),
    /// The end of the registration with this number.
    Left(u64),
    /// From here on the copy is whole.
    Whole,
}

/// The numbers from which a table goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) registrations: u64,
    pub(crate) leaves: u64,
    pub(crate) floor: u32,
}

/// A name that left, with all that its return depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    pub(crate) number: u64,
    pub(crate) name: Box<[u8]>,
    pub(crate) creation: u32,
    pub(crate) port: u16,
    pub(crate) descriptor: i32,
}

/// What a copy still lacks: first the whole table, then each step, in order.
#[derive(Debug)]
pub(crate) struct Follower {
    lacking: Mutex<Lacking>,
    stepped: Notify,
}

#[derive(Debug)]
struct Lacking {
    steps: VecDeque<Step>,
    most: usize,
    lost: bool,
}

/// The copy fell too far behind, so steps were lost.
#[derive(Debug)]
pub(crate) struct Behind;

impl Follower {
    fn new(table: VecDeque<Step>) -> Self {
        let most = table.len() + BEHIND;
        Self { lacking: Mutex::new(Lacking { steps: table, most, lost: false }), stepped: Notify::new() }
    }

    pub(super) fn entered(&self, entry: &Arc<Entry>) {
        self.push(Step::Entered(Arc::clone(entry)));
    }

    pub(super) fn left(&self, id: u64) {
        self.push(Step::Left(id));
    }

    fn push(&self, step: Step) {
        let mut lacking = self.lacking.lock();
        if lacking.steps.len() < lacking.most {
            lacking.steps.push_back(step);
        } else {
            lacking.lost = true;
            lacking.steps.clear();
        }
        drop(lacking);
        self.stepped.notify_one();
    }

    /// The next step.
    pub(crate) fn take(&self) -> Result<Option<Step>, Behind> {
        let mut lacking = self.lacking.lock();
        if lacking.lost {
            return Err(Behind);
        }
        Ok(lacking.steps.pop_front())
    }

    /// Waits until there is another step.
    pub(crate) async fn stepped(&self) {
        self.stepped.notified().await;
    }
}

impl Registry {
    /// Has all of the table, and from here on each of its steps, kept for a copy: for one at a time, the latest.
    pub(crate) fn follow(&self) -> Arc<Follower> {
        let mut state = self.0.state.lock();
        let departed = &state.departed;
        let counters = Counters { registrations: state.registrations, leaves: departed.leaves, floor: departed.floor };
        let departures = departed.order.values().filter_map(|name| {
            let Left { number, creation, port, descriptor } = *departed.names.get(name)?;
            Some(Departure { number, name: name.clone(), creation, port, descriptor })
        });
        let steps = std::iter::once(Step::Counters(counters))
            .chain(departures.map(Step::Departed))
            .chain(state.by_age.values().cloned().map(Step::Entered))
            .chain([Step::Whole]);
        let follower = Arc::new(Follower::new(steps.collect()));
        state.follower = Arc::downgrade(&follower);
        follower
    }

    /// Takes a copy's contents for its own, which were none.
    pub(crate) fn adopt(&self, contents: Contents) {
        let mut state = self.0.state.lock();
        *state = contents.0;
        state.by_age.values().for_each(|entry| self.0.journal.record(|| entry.registered()));
        drop(state);
        self.0.registered.notify_waiters();
    }
}

/// A copy of a table, of which nobody can look anything up.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    by_age: BTreeMap<u64, Copied>,
    names: HashSet<Box<[u8]>>,
    departed: Departed,
    registrations: u64,
}

/// A registration in the copy. Without a connection it ends with the table that was copied.
#[derive(Debug)]
struct Copied {
    creation: u32,
    reply: Port2Reply,
    connection: Option<TcpStream>,
}

/// What was told cannot come from a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Impossible(pub(crate) &'static str);

/// What a copy brings to the table whose place it takes.
#[derive(Debug)]
pub(crate) struct Contents(State);

/// The registrations of a copy that has taken the table's place, each to be kept for as long as its connection lasts.
#[derive(Debug)]
pub(crate) struct Heirs {
    /// That of the host's own node.
    pub(crate) own: Option<Registration>,
    pub(crate) connected: Vec<(Registration, Kept)>,
}

impl Replica {
    pub(crate) fn counted(&mut self, counters: Counters) -> Result<(), Impossible> {
        if self.registrations > counters.registrations || self.departed.leaves > counters.leaves {
            return Err(Impossible("counters that go back"));
        }
        self.registrations = counters.registrations;
        self.departed.leaves = counters.leaves;
        self.departed.floor = counters.floor;
        Ok(())
    }

    pub(crate) fn departed(&mut self, departure: Departure) -> Result<(), Impossible> {
        let Departure { number, name, creation, port, descriptor } = departure;
        if number > self.departed.leaves || self.departed.names.contains_key(&name) {
            return Err(Impossible("a name that left and cannot have left"));
        }
        self.departed.put(&name, Left { number, creation, port, descriptor });
        Ok(())
    }

    pub(crate) fn entered(
        &mut self,
        id: u64,
        creation: u32,
        node: &Node,
        connection: Option<TcpStream>,
    ) -> Result<(), Impossible> {
        let name: Box<[u8]> = node.name.as_str().as_bytes().into();
        if self.by_age.last_key_value().is_some_and(|(last, _)| *last >= id) || !self.names.insert(name.clone()) {
            return Err(Impossible("a registration that is there already"));
        }
        // What a name leaves behind depends on the order of registrations, here as in the table.
        if id > self.registrations {
            self.departed.next_creation(&name);
            self.registrations = id;
        }
        self.by_age.insert(id, Copied { creation, reply: Port2Reply::new(node), connection });
        Ok(())
    }

    pub(crate) fn left(&mut self, id: u64) -> Result<(), Impossible> {
        let left = self.by_age.remove(&id).ok_or(Impossible("the end of a registration that is not there"))?;
        self.names.remove(left.reply.name());
        self.departed.remember(left.reply.name(), left.creation, left.reply.port(), descriptor(&left));
        Ok(())
    }

    /// The number of registrations.
    pub(crate) fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Turns the copy into what the `registry` will [`adopt`](Registry::adopt). The registration that came over the
    /// connection from `own`, the host's, becomes one that needs no connection.
    pub(crate) fn revive(self, registry: &Registry, own: Option<SocketAddr>) -> (Contents, Heirs) {
        let Self { by_age, departed, registrations, .. } = self;
        let mut state = State { departed, registrations, ..State::default() };
        let mut heirs = Heirs { own: None, connected: Vec::with_capacity(by_age.len()) };
        for (id, Copied { creation, reply, connection }) in by_age {
            let is_own = own.is_some() && connection.as_ref().and_then(|socket| socket.peer_addr().ok()) == own;
            let kept: Option<Kept> = match connection {
                Some(socket) if !is_own => os::watch(socket).ok().map(Arc::new),
                _ => None,
            };
            let holder = match &kept {
                Some(connection) => Holder::Connection(Arc::downgrade(connection) as Weak<_>),
                None if is_own => Holder::Host,
                None => {
                    state.departed.remember(reply.name(), creation, reply.port(), -1);
                    continue;
                }
            };
            let entry = Arc::new(Entry::new(id, creation, holder, reply));
            state.enter(&entry);
            let registration = Registration { registry: registry.clone(), entry };
            match kept {
                Some(connection) => heirs.connected.push((registration, connection)),
                None => heirs.own = Some(registration),
            }
        }
        (Contents(state), heirs)
    }
}

fn descriptor(copied: &Copied) -> i32 {
    use std::os::fd::AsRawFd;
    copied.connection.as_ref().map_or(-1, AsRawFd::as_raw_fd)
}
