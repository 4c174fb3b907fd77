//! Accepts connections on bound listeners, and survives what peers and the system do to it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpListener;
use parking_lot::{Mutex, RwLock};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use crate::access::Policy;
use crate::address::Listeners;
use crate::connection::{self, Inbox};
use crate::connections::Connections;
use crate::figures::Figures;
use crate::listing::Listings;
use crate::os;
use crate::registry::Registry;

/// Connections accepted before registered nodes and other peers get a turn.
const ACCEPTS_AT_ONCE: usize = 64;
/// How long to wait for a descriptor when the process has none left and nothing of ours can be closed.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(20);
/// A peer that has waited for less than this may just be about to ask: while a reserve is left, it is not closed.
const JUST_CAME: Duration = Duration::from_millis(20);
/// Descriptors kept for look-ups.
const RESERVE: usize = 8;

/// How much of the process one server may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time from a connection to the end of its reply; registered nodes stay.
    pub deadline: Duration,
    /// Connections that wait for their request or reply.
    pub waiting: usize,
    /// Of these, connections from one remote address.
    pub waiting_per_source: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10), waiting: 256, waiting_per_source: 32 }
    }
}

/// What can be changed while a server runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    pub(crate) limits: Limits,
}

/// What all connections of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) settings: Arc<RwLock<Rules>>,
    pub(crate) connections: Connections,
    pub(crate) listings: Listings,
    pub(crate) reserve: Reserve,
    pub(crate) port: u16,
}

impl Shared {
    pub(crate) fn figures(&self) -> &Figures {
        &self.connections.figures
    }

    pub(crate) fn limits(&self) -> Limits {
        self.settings.read().limits.clone()
    }
}

/// Serves these listeners until it is dropped, which closes them and all connections.
///
/// # Errors
///
/// Only what the runtime or the system refuses to this process before the first connection.
pub async fn serve(listeners: Listeners, registry: Registry, policy: Policy, limits: Limits) -> io::Result<()> {
    serve_with(listeners, registry, Arc::new(RwLock::new(Rules { policy, limits })), Connections::default()).await
}

pub(crate) async fn serve_with(
    listeners: Listeners,
    registry: Registry,
    settings: Arc<RwLock<Rules>>,
    connections: Connections,
) -> io::Result<()> {
    let shared = Arc::new(Shared {
        registry,
        settings,
        connections,
        listings: Listings::default(),
        reserve: Reserve::new(),
        port: listeners.port,
    });
    let _closer = Closer(shared.connections.clone());
    let mut accepting = JoinSet::new();
    for listener in listeners.sockets {
        accepting.spawn(accept(Arc::clone(&shared), os::watch(listener)?));
    }
    match accepting.join_next().await {
        Some(Ok(error)) => Err(error),
        Some(Err(panicked)) => Err(io::Error::other(panicked)),
        None => Err(io::Error::other("no address to listen on")),
    }
}

/// Closes the connections together with their server.
struct Closer(Connections);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close_all();
    }
}

/// Accepts until the listener itself fails.
async fn accept(shared: Arc<Shared>, listener: AsyncFd<TcpListener>) -> io::Error {
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
                    shared.figures().accepted.count();
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

/// A few descriptors kept for the time when the process has no others: with them, look-ups are answered.
#[derive(Debug)]
pub(crate) struct Reserve(Mutex<Vec<File>>);

impl Reserve {
    fn new() -> Self {
        let reserve = Self(Mutex::default());
        reserve.restore();
        reserve
    }

    /// Takes back what is missing, as far as there is any.
    fn restore(&self) {
        let mut kept = self.0.lock();
        while kept.len() < RESERVE {
            let Ok(file) = File::open("/dev/null") else { return };
            kept.push(file);
        }
    }

    /// Whether descriptors are left beside those in use.
    pub(crate) fn is_whole(&self) -> bool {
        self.restore();
        self.0.lock().len() == RESERVE
    }

    /// Frees a descriptor for the next accept; false if all of them are gone.
    fn give_up(&self) -> bool {
        self.0.lock().pop().is_some()
    }
}
