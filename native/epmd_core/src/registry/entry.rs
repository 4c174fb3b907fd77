//! A registered node, as the table keeps it.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock, Weak};

use rustix::fd::AsFd;
use tokio::sync::Notify;

use super::life::Life;
use crate::journal::Change;
use crate::os::{self, AsyncFd};
use crate::protocol::Port2Reply;

/// What keeps a registration alive.
#[derive(Clone, Debug)]
pub enum Holder {
    /// The VM that this server lives in.
    Local,
    /// A connection. The task that serves it owns it.
    Connection(Weak<dyn Descriptor>),
}

impl Holder {
    fn connection(&self) -> Option<Arc<dyn Descriptor>> {
        match self {
            Self::Local => None,
            Self::Connection(connection) => connection.upgrade(),
        }
    }
}

/// Anything that has a descriptor.
pub trait Descriptor: AsFd + Send + Sync {}

impl<T: AsFd + Send + Sync> Descriptor for T {}

/// The connection of a registered node. Its task owns it, and the table refers to it.
pub(crate) type NodeConnection = Arc<AsyncFd<TcpStream>>;

impl fmt::Debug for dyn Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_fd().fmt(f)
    }
}

/// A registered node.
pub struct Entry {
    id: u64,
    creation: u32,
    user: Option<u32>,
    life: Life,
    /// Nothing in a replica. Set when the replica becomes the table.
    held: OnceLock<Held>,
    reply: Port2Reply,
    ended: Notify,
}

struct Held {
    holder: Holder,
    /// The descriptor of its connection; -1 without one.
    descriptor: i32,
}

/// The same registration, as its table and its replicas know it.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.id, self.creation, self.user, self.life, &self.reply)
            == (other.id, other.creation, other.user, other.life, &other.reply)
    }
}

impl Eq for Entry {}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = String::from_utf8_lossy(self.name());
        f.debug_struct("Entry").field("id", &self.id).field("name", &name).field("port", &self.port()).finish()
    }
}

impl Entry {
    pub(super) fn new(id: u64, creation: u32, user: Option<u32>, life: Life, reply: Port2Reply) -> Self {
        Self { id, creation, user, life, held: OnceLock::new(), reply, ended: Notify::new() }
    }

    /// Sets what keeps the registration alive, once.
    pub(super) fn hold(&self, holder: Holder) {
        let descriptor = holder.connection().map_or(-1, |connection| os::number_of(connection.as_fd()));
        let _ = self.held.set(Held { holder, descriptor });
    }

    pub(super) fn registered(&self) -> Change {
        Change::Registered {
            name: String::from_utf8_lossy(self.name()).into_owned(),
            port: self.port(),
            creation: self.creation,
            user: self.user,
        }
    }

    pub(super) fn unregistered(&self) -> Change {
        Change::Unregistered { name: String::from_utf8_lossy(self.name()).into_owned(), port: self.port() }
    }

    /// Whether an observer takes this for the same registration: same name, port, creation and user.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.name() == other.name()
            && (self.port(), self.creation, self.user) == (other.port(), other.creation, other.user)
    }

    /// The number of this registration in its table.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The node's creation.
    pub fn creation(&self) -> u32 {
        self.creation
    }

    /// The user who registered it, as the kernel told the owner; nothing if it could not tell.
    pub fn user(&self) -> Option<u32> {
        self.user
    }

    /// When it was registered, and what was before.
    pub(crate) fn life(&self) -> Life {
        self.life
    }

    /// Its connection, if it has one that is open.
    pub(crate) fn connection(&self) -> Option<Arc<dyn Descriptor>> {
        self.held.get()?.holder.connection()
    }

    /// The reply to a lookup of this node.
    pub fn reply(&self) -> &Port2Reply {
        &self.reply
    }

    /// The node's name.
    pub fn name(&self) -> &[u8] {
        self.reply.name()
    }

    /// The node's port.
    pub fn port(&self) -> u16 {
        self.reply.port()
    }

    /// The descriptor of its connection; -1 without one.
    pub fn descriptor(&self) -> i32 {
        self.held.get().map_or(-1, |held| held.descriptor)
    }

    /// Notified when it leaves the table.
    pub(super) fn ended(&self) -> &Notify {
        &self.ended
    }

    /// Whether it is this VM's own node.
    pub(crate) fn is_local(&self) -> bool {
        self.held.get().is_some_and(|held| matches!(held.holder, Holder::Local))
    }
}

/// An entry that is hashed and compared by its name.
#[derive(Debug)]
pub(super) struct ByName(pub(super) Arc<Entry>);

impl Borrow<[u8]> for ByName {
    fn borrow(&self) -> &[u8] {
        self.0.name()
    }
}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl Eq for ByName {}
