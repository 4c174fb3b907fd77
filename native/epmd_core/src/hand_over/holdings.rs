//! What a follower holds of the sockets of owners, with which it can serve when its owner ends.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{recv, RecvFlags};
use socket2::{SockAddr, SockRef};

use super::lock::PendingLock;
use crate::os;
use crate::registry::{Entry, Held, NodeConnection, Registry};
use crate::reserve::Reserve;

/// Listeners, the connections of nodes, and what is needed to serve with them.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    listeners: Option<Inherited>,
    /// The connections of registrations in the replica, by their numbers.
    connections: BTreeMap<u64, Connection>,
    /// Those of registrations that the owner's table lacked.
    missing: Vec<Connection>,
    /// The table of which it has had everything, by its epoch.
    complete_for: Option<u64>,
}

/// A registration and its connection. It needs no more until this process serves.
#[derive(Debug)]
struct Connection {
    entry: Arc<Entry>,
    socket: OwnedFd,
}

/// An owner's listeners, with what serving them takes.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(super) sockets: Vec<TcpListener>,
    /// Whether the service manager holds them as well.
    pub(super) lent: bool,
    /// The process that served them.
    pub(super) owner: Option<i32>,
    pub(super) lock: PendingLock,
    pub(super) reserve: Reserve,
}

/// This member's own registration, as it knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnNode {
    pub(crate) name: Vec<u8>,
    pub(crate) creation: u32,
    /// Both ends of the link that keeps it registered: this member's, and its owner's. `None` if the link has ended.
    pub(crate) link: Option<(SocketAddr, SocketAddr)>,
}

impl Holdings {
    pub(super) fn can_serve(&self) -> bool {
        self.listeners.is_some()
    }

    pub(super) fn listeners(&self) -> Option<&Inherited> {
        self.listeners.as_ref()
    }

    pub(super) fn listeners_mut(&mut self) -> Option<&mut Inherited> {
        self.listeners.as_mut()
    }

    pub(super) fn take_listeners(&mut self) -> Option<Inherited> {
        self.listeners.take()
    }

    pub(super) fn put_listeners(&mut self, inherited: Inherited) {
        self.listeners = Some(inherited);
    }

    /// Closes the listeners. The connections stay.
    pub(crate) fn drop_listeners(&mut self) {
        self.listeners = None;
    }

    /// The table of which it has everything, by its epoch.
    pub(super) fn complete_for(&self) -> Option<u64> {
        self.complete_for
    }

    /// The owner of the table of this epoch has sent everything.
    pub(super) fn complete(&mut self, epoch: u64) {
        self.complete_for = Some(epoch);
    }

    /// It was sent a registration without its connection.
    pub(super) fn lacks_one(&mut self) {
        self.complete_for = None;
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Holds the connection of a registration.
    pub(crate) fn insert(&mut self, entry: Arc<Entry>, socket: OwnedFd) {
        self.missing.retain(|missing| missing.entry.name() != entry.name());
        self.connections.insert(entry.id(), Connection { entry, socket });
    }

    /// A registration has ended.
    pub(super) fn remove(&mut self, id: u64) {
        self.connections.remove(&id);
    }

    /// The replica is another table now: sorts the connections by it. What it lacks may have been registered only with
    /// earlier owners, and is missing there as long as its connection lasts.
    pub(super) fn sort(&mut self, registry: &Registry) {
        let held = std::mem::take(&mut self.connections).into_values().chain(std::mem::take(&mut self.missing));
        for connection in held {
            match registry.find(connection.entry.name()) {
                Some(entry) if entry.creation() == connection.entry.creation() => {
                    self.connections.insert(entry.id(), Connection { entry, ..connection });
                }
                // Another node has the name.
                Some(_) => {}
                None if is_open(&connection.socket) => self.missing.push(connection),
                None => {}
            }
        }
    }

    /// Copies of what the owner's table lacks.
    pub(super) fn missing(&self) -> Vec<(Arc<Entry>, OwnedFd)> {
        let copy = |Connection { entry, socket }: &Connection| Some((Arc::clone(entry), socket.try_clone().ok()?));
        self.missing.iter().filter_map(copy).collect()
    }

    /// Gives everything up.
    pub(crate) fn give_up(&mut self) {
        *self = Self::default();
    }

    /// What the table is to be made of. Each connection is watched from now on; one that has ended meanwhile is noticed
    /// then.
    pub(crate) fn take_connections(&mut self, own: Option<&OwnNode>) -> Held {
        let mut held = Held::default();
        for (id, Connection { entry, socket }) in std::mem::take(&mut self.connections) {
            if held.own.is_none() && own.is_some_and(|own| own.is_of(&entry, &socket)) {
                held.own = Some(id);
            } else if let Ok(connection) = watched(socket) {
                held.connected.push((id, connection));
            }
        }
        for Connection { entry, socket } in std::mem::take(&mut self.missing) {
            if let Ok(connection) = watched(socket) {
                held.missing.push((entry, connection));
            }
        }
        held
    }
}

impl OwnNode {
    /// Whether this is its registration. Where the connection comes from is not enough: connections to other addresses
    /// of this host may come from the same one.
    fn is_of(&self, entry: &Entry, connection: &OwnedFd) -> bool {
        let socket = SockRef::from(connection);
        let address = |address: io::Result<SockAddr>| address.ok().and_then(|address| address.as_socket());
        let is_link = || match self.link {
            Some((ours, owners)) => {
                address(socket.local_addr()) == Some(owners) && address(socket.peer_addr()) == Some(ours)
            }
            None => !is_open(connection),
        };
        (entry.name(), entry.creation()) == (&self.name[..], self.creation) && is_link()
    }
}

fn watched(socket: OwnedFd) -> io::Result<NodeConnection> {
    os::watch(TcpStream::from(socket)).map(Arc::new)
}

/// Whether the node at the other end has neither closed the connection nor been closed.
fn is_open(socket: &OwnedFd) -> bool {
    let mut byte = [0];
    recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT).is_err_and(|error| error == Errno::AGAIN)
}
