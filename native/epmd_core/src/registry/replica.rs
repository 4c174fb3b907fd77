//! A standby's copy of the table, and how it takes the place of the table itself.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use super::departed::{Departed, LastRegistration};
use super::entry::{Entry, Holder, NodeConnection};
use super::follower::{Counters, Departure, Position};
use super::refusals::{Refusal, Refusals};
use super::state::Contents;
use super::table::{Registration, Registry};
use crate::node::Node;
use crate::protocol::Port2Reply;

/// A standby's copy of a table. It is not used for look-ups.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    by_age: BTreeMap<u64, Copied>,
    names: HashSet<Box<[u8]>>,
    departed: Departed,
    registrations: u64,
    refusals: Refusals,
    epoch: u64,
    /// Registrations of an earlier copy that the table has not confirmed yet.
    unconfirmed: BTreeMap<u64, Copied>,
    unconfirmed_refusals: Refusals,
}

/// A registration in the copy. Without a connection it ends with the owner.
#[derive(Debug)]
struct Copied {
    creation: u32,
    reply: Port2Reply,
    connection: Option<NodeConnection>,
}

/// A step that no table can have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Impossible(pub(crate) &'static str);

/// The registrations of a copy that has taken the table's place. Each is to be kept as long as its connection lasts.
#[derive(Debug)]
pub(crate) struct Restored {
    /// The registration of this VM's node.
    pub(crate) own: Option<Registration>,
    pub(crate) connected: Vec<(Registration, NodeConnection)>,
}

impl Replica {
    /// The position of the copy.
    pub(crate) fn position(&self) -> Position {
        Position { epoch: self.epoch, registrations: self.registrations, refusals: self.refusals.last }
    }

    /// Begins a copy of the table of this epoch.
    pub(crate) fn began(&mut self, epoch: u64, refusals: u64) {
        *self = Self {
            epoch,
            refusals: Refusals::after_number(refusals),
            unconfirmed: std::mem::take(&mut self.by_age),
            unconfirmed_refusals: std::mem::take(&mut self.refusals),
            ..Self::default()
        };
    }

    /// The earlier copy has the same registrations and refusals as the table, up to this number.
    pub(crate) fn resumed(&mut self, registrations: u64) {
        self.unconfirmed.split_off(&registrations.saturating_add(1));
        self.refusals.resume(std::mem::take(&mut self.unconfirmed_refusals));
    }

    /// A registration of the earlier copy still exists.
    pub(crate) fn kept(&mut self, id: u64, connected: bool) -> Result<(), Impossible> {
        let mut kept = self.unconfirmed.remove(&id).ok_or(Impossible("a registration that this copy does not have"))?;
        kept.connection = kept.connection.filter(|_| connected);
        self.insert(id, kept)
    }

    /// The copy is complete.
    pub(crate) fn completed(&mut self) {
        self.unconfirmed.clear();
    }

    fn insert(&mut self, id: u64, copied: Copied) -> Result<(), Impossible> {
        let name = copied.reply.name().into();
        if self.by_age.last_key_value().is_some_and(|(last, _)| *last >= id) || !self.names.insert(name) {
            return Err(Impossible("a registration that is there already"));
        }
        self.by_age.insert(id, copied);
        Ok(())
    }

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
        self.departed.put(&name, LastRegistration { number, creation, port, descriptor });
        Ok(())
    }

    pub(crate) fn entered(
        &mut self,
        id: u64,
        creation: u32,
        node: &Node,
        connection: Option<NodeConnection>,
    ) -> Result<(), Impossible> {
        self.insert(id, Copied { creation, reply: Port2Reply::new(node), connection })?;
        // Which names are forgotten depends on the order of registrations, so the copy does as the table did.
        if id > self.registrations {
            self.departed.next_creation(node.name.as_str().as_bytes());
            self.registrations = id;
        }
        Ok(())
    }

    pub(crate) fn left(&mut self, id: u64) -> Result<(), Impossible> {
        let left = self.by_age.remove(&id).ok_or(Impossible("the end of a registration that is not there"))?;
        self.names.remove(left.reply.name());
        self.departed.remember(left.reply.name(), left.creation, left.reply.port(), descriptor(&left));
        Ok(())
    }

    /// A registration was refused.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.refusals.add(refusal);
    }

    /// The number of registrations.
    pub(crate) fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Turns the copy into contents for the `registry` to [`adopt`](Registry::adopt). `own` is the address of this
    /// member's link: the registration that came from there becomes one without a connection.
    pub(crate) fn restore(self, registry: &Registry, own: Option<SocketAddr>) -> (Contents, Restored) {
        let last = self.position();
        let Self { by_age, departed, refusals, .. } = self;
        let mut contents = Contents::after(last, departed, refusals);
        let mut restored = Restored { own: None, connected: Vec::with_capacity(by_age.len()) };
        for (id, Copied { creation, reply, connection }) in by_age {
            let peer = connection.as_ref().and_then(|connection| connection.get_ref().peer_addr().ok());
            let is_own = own.is_some() && peer == own;
            let kept = connection.filter(|_| !is_own);
            let holder = match &kept {
                Some(connection) => Holder::Connection(Arc::downgrade(connection) as Weak<_>),
                None if is_own => Holder::Host,
                None => {
                    contents.depart(reply.name(), creation, reply.port());
                    continue;
                }
            };
            let entry = Arc::new(Entry::new(id, creation, holder, reply));
            contents.enter(&entry);
            let registration = Registration::new(registry, entry);
            match kept {
                Some(connection) => restored.connected.push((registration, connection)),
                None => restored.own = Some(registration),
            }
        }
        (contents, restored)
    }
}

fn descriptor(copied: &Copied) -> i32 {
    use std::os::fd::AsRawFd;
    copied.connection.as_ref().map_or(-1, |connection| connection.as_raw_fd())
}
