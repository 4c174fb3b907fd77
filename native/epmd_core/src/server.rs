//! Accepts connections on bound listeners, and survives what peers and the system do to it.

mod access;
mod connection;
mod connections;
mod listing;
mod shared;

use std::io::{self, ErrorKind};
use std::sync::{Arc, Once};
use std::time::Duration;

use mio::net::TcpListener;
use parking_lot::RwLock;
use rustix::net::{shutdown, Shutdown};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use crate::address::{self, Listeners};
use crate::hand_over::Replication;
use crate::limits::Limits;
use crate::os;
use crate::registry::{Descriptor, NodeConnection, Registration, Registry};
use crate::reserve::Reserve;
use connection::Inbox;
use listing::Listings;
use shared::Shared;

pub use access::{Network, Policy};
pub(crate) use connections::Connections;
pub use connections::Open;
pub(crate) use shared::Rules;

/// Connections accepted before registered nodes and other peers get a turn.
const ACCEPTS_AT_ONCE: usize = 64;
/// How long to wait for a descriptor when the process has none left and nothing of ours can be closed.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(20);
/// A peer that has waited for less than this may just be about to ask: while a reserve is left, it is not closed.
const JUST_CAME: Duration = Duration::from_millis(20);
/// How long a server that has handed over goes on answering those that it had accepted.
const DRAIN: Duration = Duration::from_millis(100);

/// Serves these listeners until it is dropped, which closes them and all connections.
///
/// # Errors
///
/// Only what the runtime or the system refuses to this process before the first connection.
pub async fn serve(listeners: Listeners, registry: Registry, policy: Policy, limits: Limits) -> io::Result<()> {
    let settings = Arc::new(RwLock::new(Rules { policy, limits }));
    let mut server = Server::start(listeners, registry, settings, Connections::default(), Replication::default())?;
    Err(server.failed().await)
}

type Listener = Arc<AsyncFd<TcpListener>>;

/// A server that accepts connections. When it is dropped, it closes them.
#[derive(Debug)]
pub(crate) struct Server {
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    accepting: JoinSet<io::Error>,
}

impl Server {
    pub(crate) fn start(
        listeners: Listeners,
        registry: Registry,
        settings: Arc<RwLock<Rules>>,
        connections: Connections,
        replication: Replication,
    ) -> io::Result<Self> {
        let shared = Shared {
            registry,
            settings,
            connections,
            listings: Listings::default(),
            reserve: Reserve::new(),
            replication,
            port: listeners.port,
            listing_refused: Once::new(),
        };
        let mut server = Self { shared: Arc::new(shared), listeners: Vec::new(), accepting: JoinSet::new() };
        server.listen(listeners.sockets)?;
        Ok(server)
    }

    fn listen(&mut self, sockets: Vec<TcpListener>) -> io::Result<()> {
        for socket in sockets {
            let listener = Arc::new(os::watch(socket)?);
            self.accepting.spawn(accept(Arc::clone(&self.shared), Arc::clone(&listener)));
            self.listeners.push(listener);
        }
        Ok(())
    }

    /// Waits until it cannot accept any more, for a reason of its own.
    pub(crate) async fn failed(&mut self) -> io::Error {
        match self.accepting.join_next().await {
            Some(Ok(error)) => error,
            Some(Err(panicked)) => io::Error::other(panicked),
            None => io::Error::other("no address to listen on"),
        }
    }

    /// Keeps the registrations that were another server's, each for as long as its connection lasts.
    pub(crate) fn keep(&self, registrations: Vec<(Registration, NodeConnection)>) {
        for (registration, connection) in registrations {
            self.shared.connections.keep(|slot| connection::hold(connection, registration, slot));
        }
    }

    /// The listeners, for whoever stands by.
    pub(crate) fn listeners(&self) -> Vec<Arc<dyn Descriptor>> {
        self.listeners.iter().map(|listener| Arc::clone(listener) as Arc<_>).collect()
    }

    /// Accepts nothing from here on; whoever connects waits in the kernel's queue.
    pub(crate) fn halt(&mut self) {
        self.accepting.abort_all();
    }

    /// Opens its addresses again, so that the copies which others have of its listeners are worth nothing.
    ///
    /// # Errors
    ///
    /// What the system says when another process has got an address at that very moment.
    pub(crate) fn renew(&mut self) -> io::Result<()> {
        self.accepting.abort_all();
        self.accepting = JoinSet::new();
        let mut sockets = Vec::new();
        for old in std::mem::take(&mut self.listeners) {
            let address = old.get_ref().local_addr()?;
            self.accept_waiting(&old);
            shutdown(&old, Shutdown::Read)?;
            sockets.push(address::listen(address)?);
        }
        self.listen(sockets)
    }

    /// Shuts listeners and registered connections, whoever has copies of them.
    pub(crate) fn renounce(&mut self) {
        self.accepting.abort_all();
        for listener in &self.listeners {
            let _ = shutdown(listener, Shutdown::Read);
        }
        for connection in self.shared.registry.entries().iter().filter_map(|entry| entry.connection()) {
            let _ = shutdown(&*connection, Shutdown::Both);
        }
    }

    /// Waits until those that were accepted have their replies, for a moment at most.
    pub(crate) async fn drain(&self) {
        let done = async {
            while self.shared.connections.open().waiting > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = tokio::time::timeout(DRAIN, done).await;
    }

    fn accept_waiting(&self, listener: &Listener) {
        let mut inbox = Inbox::new();
        while let Ok((stream, peer)) = listener.get_ref().accept() {
            self.shared.metrics().accepted.count();
            connection::serve(&self.shared, stream.into(), peer, &mut inbox);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.connections.close_all();
    }
}

/// Accepts until the listener itself fails.
async fn accept(shared: Arc<Shared>, listener: Listener) -> io::Error {
    let mut inbox = Inbox::new();
    'waiting: loop {
        let mut ready = match listener.readable().await {
            Ok(ready) => ready,
            Err(error) => return error,
        };
        // Not again before each accept: that would take back what was given up for it.
        shared.reserve.restore();
        for _ in 0..ACCEPTS_AT_ONCE {
            match listener.get_ref().accept() {
                Ok((stream, peer)) => {
                    shared.metrics().accepted.count();
                    connection::serve(&shared, stream.into(), peer, &mut inbox);
                }
                Err(error) => match Fault::of(&error) {
                    Fault::NoneWaits => {
                        ready.clear_ready();
                        continue 'waiting;
                    }
                    Fault::Peer => {}
                    Fault::OutOfDescriptors => {
                        if shared.connections.close_oldest_waiting(JUST_CAME) {
                            break;
                        }
                        if shared.reserve.give_up() {
                            continue;
                        }
                        if shared.connections.close_oldest_waiting(Duration::ZERO) {
                            break;
                        }
                        tokio::time::sleep(DESCRIPTOR_PAUSE).await;
                    }
                    Fault::Ours => return error,
                },
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Whose fault a failed accept is. accept(2) hands over the errors of connections that broke before they were accepted.
enum Fault {
    NoneWaits,
    Peer,
    OutOfDescriptors,
    Ours,
}

impl Fault {
    fn of(error: &io::Error) -> Self {
        const ENOMEM: i32 = 12;
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        const EBADF: i32 = 9;
        const EINVAL: i32 = 22;
        const ENOTSOCK: i32 = 88;
        match error.raw_os_error() {
            _ if error.kind() == ErrorKind::WouldBlock => Self::NoneWaits,
            Some(ENOMEM | ENFILE | EMFILE) => Self::OutOfDescriptors,
            Some(EBADF | EINVAL | ENOTSOCK) => Self::Ours,
            _ => Self::Peer,
        }
    }
}
