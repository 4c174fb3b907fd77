//! What a follower holds of the sockets of owners, with which it can serve when its owner ends.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rustix::fd::OwnedFd;
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
    pub(crate) port: u16,
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

    /// A registration has come without its connection. It may be one that this member has brought. Else, and unless a
    /// standby is told of it, a connection lacks here.
    pub(super) fn registered_alone(&mut self, entry: &Arc<Entry>, is_standby: bool) {
        let is_same = |missing: &Connection| {
            (missing.entry.creation(), missing.entry.reply()) == (entry.creation(), entry.reply())
        };
        if let Some(place) = self.missing.iter().position(is_same) {
            let Connection { socket, .. } = self.missing.swap_remove(place);
            self.insert(Arc::clone(entry), socket);
        } else if !is_standby {
            self.complete_for = None;
        }
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
                None if os::is_open(&connection.socket) => self.missing.push(connection),
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
            None => !os::is_open(connection),
        };
        (entry.name(), entry.port()) == (&self.name[..], self.port) && is_link()
    }
}

fn watched(socket: OwnedFd) -> io::Result<NodeConnection> {
    os::watch(TcpStream::from(socket)).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use super::*;
    use crate::node::{Node, NodeName};
    use crate::registry::log::{Counters, LogEntry};
    use crate::registry::{replicated, Incoming, Life};

    fn entry(id: u64, name: &str, creation: u32) -> Arc<Entry> {
        entry_at(1, id, name, creation)
    }

    fn entry_at(port: u16, id: u64, name: &str, creation: u32) -> Arc<Entry> {
        let node = Node::erlang(NodeName::new(name.as_bytes()).expect("a valid name"), port);
        replicated(id, creation, None, Life::default(), &node)
    }

    /// Both ends of a connection: the node's, and the one that is held.
    fn connection() -> (TcpStream, OwnedFd) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let node = TcpStream::connect(listener.local_addr().expect("its address")).expect("room in the backlog");
        node.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        (node, listener.accept().expect("it has connected").0.into())
    }

    fn is_closed(mut node: &TcpStream) -> bool {
        node.read(&mut [0]).is_ok_and(|length| length == 0)
    }

    /// A replica of a table with these nodes, by name and creation, numbered from this number on.
    fn replica(first: u64, nodes: &[(&str, u32)]) -> Registry {
        let (registry, mut incoming) = (Registry::default(), Incoming::new(1, 0));
        let counters = LogEntry::Counters(Counters { registrations: 99, ..Counters::default() });
        let entries =
            (first..).zip(nodes).map(|(id, (name, creation))| LogEntry::Registered(entry(id, name, *creation)));
        [counters].into_iter().chain(entries).for_each(|entry| {
            registry.build(&mut incoming, entry).expect("a table says so");
        });
        registry.replace(incoming, &[]);
        registry
    }

    fn name(entry: &Entry) -> String {
        String::from_utf8_lossy(entry.name()).into_owned()
    }

    fn missing(holdings: &Holdings) -> Vec<String> {
        let mut names: Vec<_> = holdings.missing().iter().map(|(entry, _)| name(entry)).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn connections_are_sorted_by_the_next_table() {
        let names = ["same", "other", "open", "closed"];
        let mut holdings = Holdings::default();
        let mut nodes: Vec<_> = (1..)
            .zip(names)
            .map(|(id, name)| {
                let (node, socket) = connection();
                holdings.insert(entry(id, name, 7), socket);
                node
            })
            .collect();
        drop(nodes.pop());
        // It numbers them anew. The node that has "other" is not the one of this connection.
        holdings.sort(&replica(3, &[("other", 8), ("same", 7)]));
        assert_eq!(missing(&holdings), ["open"]);
        assert!(is_closed(&nodes[1]));
        // Another table has the missing one, and lacks the first.
        holdings.sort(&replica(1, &[("open", 7)]));
        assert_eq!(missing(&holdings), ["same"]);
        assert_eq!(holdings.len(), 1);
        let held = holdings.take_connections(None);
        assert_eq!(held.connected.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1]);
        assert_eq!(
            held.missing.iter().map(|(entry, _)| (name(entry), entry.creation())).collect::<Vec<_>>(),
            [("same".into(), 7)]
        );
        let peer = |connection: &NodeConnection| connection.get_ref().peer_addr().ok();
        assert_eq!(peer(&held.connected[0].1), nodes[2].local_addr().ok());
        assert_eq!(peer(&held.missing[0].1), nodes[0].local_addr().ok());
    }

    #[test]
    fn a_missing_one_is_missing_until_it_comes_or_has_closed() {
        let mut holdings = Holdings::default();
        let nodes = ["a", "b"].map(|name| {
            let (node, socket) = connection();
            holdings.insert(entry(1, name, 7), socket);
            holdings.sort(&replica(1, &[]));
            node
        });
        assert_eq!(missing(&holdings), ["a", "b"]);
        // The owner has it now, and sends a connection with it.
        let (_, socket) = connection();
        holdings.insert(entry(1, "a", 7), socket);
        assert_eq!(missing(&holdings), ["b"]);
        let [_, b] = nodes;
        drop(b);
        holdings.sort(&replica(1, &[("a", 7)]));
        assert_eq!(missing(&holdings), Vec::<String>::new());
    }

    #[test]
    fn what_has_ended_is_closed() {
        let mut holdings = Holdings::default();
        let [(first, one), (second, other)] = std::array::from_fn(|_| connection());
        holdings.insert(entry(1, "a", 7), one);
        holdings.insert(entry(2, "b", 7), other);
        holdings.remove(1);
        assert!(is_closed(&first));
        assert_eq!(holdings.len(), 1);
        holdings.give_up();
        assert!(is_closed(&second));
    }

    #[test]
    fn what_was_brought_is_held_as_a_registration_of_the_owners_table() {
        let mut holdings = Holdings::default();
        let (node, socket) = connection();
        holdings.insert(entry(9, "a", 7), socket);
        holdings.sort(&replica(1, &[]));
        assert_eq!(missing(&holdings), ["a"]);
        // One of another port is not the one that was brought.
        holdings.registered_alone(&entry_at(2, 2, "a", 7), false);
        assert_eq!(missing(&holdings), ["a"]);
        holdings.registered_alone(&entry(3, "a", 7), false);
        assert_eq!(missing(&holdings), Vec::<String>::new());
        assert!(!is_closed(&node));
        holdings.remove(3);
        assert!(is_closed(&node));
    }

    #[test]
    fn it_is_complete_for_one_table_as_long_as_no_connection_lacks() {
        let mut holdings = Holdings::default();
        assert_eq!(holdings.complete_for(), None);
        holdings.complete(5);
        holdings.sort(&replica(1, &[]));
        assert_eq!(holdings.complete_for(), Some(5));
        holdings.registered_alone(&entry(1, "a", 7), true);
        assert_eq!(holdings.complete_for(), Some(5), "a standby is sent all connections that there are");
        holdings.registered_alone(&entry(2, "b", 7), false);
        assert_eq!(holdings.complete_for(), None);
    }

    #[tokio::test]
    async fn its_own_registration_is_known_by_both_ends_of_its_link_name_and_port() {
        let (node, socket) = connection();
        let [local, peer] = [node.local_addr(), node.peer_addr()].map(|address| address.expect("it is connected"));
        let own = OwnNode { name: b"own".to_vec(), port: entry(1, "own", 7).port(), link: Some((local, peer)) };
        let moved = |address: SocketAddr| SocketAddr::new([127, 0, 0, 2].into(), address.port());
        let others = [
            OwnNode { link: Some((moved(local), peer)), ..own.clone() },
            OwnNode { link: Some((local, moved(peer))), ..own.clone() },
            OwnNode { link: Some((peer, local)), ..own.clone() },
            OwnNode { name: b"owner".to_vec(), ..own.clone() },
            OwnNode { port: 8, ..own.clone() },
            // The connection of a link that has ended has ended as well.
            OwnNode { link: None, ..own.clone() },
        ];
        for (known, is_own) in others.iter().map(|other| (other, false)).chain([(&own, true)]) {
            let mut holdings = Holdings::default();
            holdings.insert(entry(1, "own", 7), socket.try_clone().expect("a descriptor"));
            let (_other, stranger) = connection();
            holdings.insert(entry(2, "stranger", 7), stranger);
            let held = holdings.take_connections(Some(known));
            assert_eq!(held.own, is_own.then_some(1), "{known:?}");
            let rest: Vec<_> = held.connected.iter().map(|(id, _)| *id).collect();
            assert_eq!(rest, if is_own { vec![2] } else { vec![1, 2] }, "{known:?}");
        }
        drop(node);
        let mut holdings = Holdings::default();
        holdings.insert(entry(1, "own", 7), socket);
        assert_eq!(holdings.take_connections(Some(&OwnNode { link: None, ..own })).own, Some(1));
    }
}
