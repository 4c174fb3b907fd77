//! Accepts connections on bound listeners, also when peers misbehave or descriptors run out.

mod access;
mod connection;
mod connections;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod http;
mod listing;
mod probe;
mod shared;
mod sources;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once};
use std::time::Duration;

use mio::net::TcpListener;
use parking_lot::RwLock;
use rustix::io::Errno;
use rustix::net::{shutdown, Shutdown};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::address::{self, Beside, Listeners, OpenError, Wanted};
use crate::limits::Limits;
use crate::os::{self, AsyncFd};
use crate::registry::{Descriptor, NodeConnection, Registration, Registry};
use crate::reserve::Reserve;
use crate::reserved_names::Kernel;
use connection::Inbox;
use shared::Shared;

pub use access::{Network, Policy};
pub(crate) use connections::Connections;
pub use connections::Open;
pub(crate) use http::{Asked, Response, Status};
pub(crate) use probe::Examine;
pub(crate) use shared::Rules;

/// Connections accepted in a row before other tasks run.
const ACCEPTS_AT_ONCE: usize = 64;
/// How long to wait for a descriptor when the process has none left and nothing of ours can be closed.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(20);
/// How long a server goes on after a handover to answer connections that it had accepted, and after a change of
/// addresses to answer connections that were just being made.
const DRAIN: Duration = Duration::from_millis(100);

/// Serves these listeners until the future is dropped, which closes them and all connections.
///
/// # Errors
///
/// When a listener cannot be registered with the runtime, or fails for good.
pub async fn serve(listeners: Listeners, registry: Registry, policy: Policy, limits: Limits) -> io::Result<()> {
    let settings = Arc::new(RwLock::new(Rules { policy, limits }));
    let mut server = Server::start(listeners, registry, settings, Connections::default(), None, None, Reserve::new())?;
    Err(server.failed().await)
}

type Listener = Arc<AsyncFd<TcpListener>>;

/// A listener and the task that accepts its connections.
#[derive(Clone, Debug)]
struct Accepting {
    listener: Listener,
    task: AbortHandle,
}

/// Listeners that others have replaced. They go on accepting until they are shut.
#[derive(Debug)]
#[must_use]
pub(crate) struct Replaced(Vec<Accepting>);

/// A server that accepts connections. Dropping it closes all of them.
#[derive(Debug)]
pub(crate) struct Server {
    shared: Arc<Shared>,
    listeners: Vec<Accepting>,
    /// Addresses that another process has, or that this host may get. They are opened when they become free.
    missing: Vec<IpAddr>,
    /// Whether the service manager holds the listeners as well, so that they are never shut.
    lent: bool,
    accepting: JoinSet<io::Error>,
}

impl Server {
    pub(crate) fn start(
        listeners: Listeners,
        registry: Registry,
        settings: Arc<RwLock<Rules>>,
        connections: Connections,
        meetings: Option<mpsc::Sender<[u8; 16]>>,
        examiner: Option<Arc<dyn Examine>>,
        reserve: Reserve,
    ) -> io::Result<Self> {
        let shared = Shared {
            registry,
            settings,
            connections,
            reserve,
            kernel: Kernel::new(),
            full: AtomicBool::new(false),
            meetings,
            examiner,
            port: listeners.port,
            listing_refused: Once::new(),
        };
        let mut server = Self {
            shared: Arc::new(shared),
            listeners: Vec::new(),
            missing: Vec::new(),
            lent: listeners.lent,
            accepting: JoinSet::new(),
        };
        server.begin(listeners)?;
        Ok(server)
    }

    fn begin(&mut self, listeners: Listeners) -> io::Result<()> {
        self.tell_absent(&listeners.absent);
        self.missing = listeners.missing;
        self.listen(listeners.sockets)
    }

    fn tell_absent(&self, absent: &[IpAddr]) {
        for address in absent.iter().filter(|address| !self.missing.contains(address)) {
            tracing::warn!(%address, "not listening on an address that this host does not have");
        }
    }

    fn listen(&mut self, sockets: Vec<TcpListener>) -> io::Result<()> {
        for socket in sockets {
            let listener = self.accept_on(socket)?;
            self.listeners.push(listener);
        }
        Ok(())
    }

    fn accept_on(&mut self, socket: TcpListener) -> io::Result<Accepting> {
        let listener = Arc::new(os::watch(socket)?);
        let task = self.accepting.spawn(accept(Arc::clone(&self.shared), Arc::clone(&listener)));
        Ok(Accepting { listener, task })
    }

    /// Waits until a listener fails for good.
    pub(crate) async fn failed(&mut self) -> io::Error {
        loop {
            return match self.accepting.join_next().await {
                Some(Ok(error)) => error,
                // It was replaced.
                Some(Err(ended)) if ended.is_cancelled() => continue,
                Some(Err(panicked)) => io::Error::other(panicked),
                None => io::Error::other("no address to listen on"),
            };
        }
    }

    /// Takes over registrations of another server, each for as long as its connection lasts.
    pub(crate) fn adopt(&self, registrations: Vec<(Registration, NodeConnection)>) {
        // Without a limit: no connection waits yet, and all of these stay.
        for (registration, connection) in registrations {
            // The last owner may have ended just before it replied.
            if os::is_unanswered(&*connection) {
                connection::confirm(&registration, &connection);
            }
            self.shared
                .connections
                .spawn_registered(usize::MAX, |slot| connection::hold(connection, registration, slot));
        }
    }

    /// The listeners, to be passed to standbys.
    pub(crate) fn listeners(&self) -> Vec<Arc<dyn Descriptor>> {
        self.listeners.iter().map(|one| Arc::clone(&one.listener) as Arc<_>).collect()
    }

    /// The addresses that are listened on.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.listeners.iter().flat_map(|one| address::addresses_of(&one.listener)).collect()
    }

    /// Whether the service manager holds the listeners as well.
    pub(crate) fn is_lent(&self) -> bool {
        self.lent
    }

    /// Whether an address that this server wants is tried again.
    pub(crate) fn lacks_addresses(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Opens the missing addresses that have become free. Returns the new listeners.
    pub(crate) fn open_what_is_free(&mut self) -> io::Result<Vec<Arc<dyn Descriptor>>> {
        let (found, before) = (address::listen_where_free(&mut self.missing, self.shared.port), self.listeners.len());
        self.listen(found)?;
        let new = self.listeners[before..].iter();
        new.clone()
            .filter_map(|one| address_of(&one.listener))
            .for_each(|address| tracing::info!(%address, "serving an address more"));
        Ok(new.map(|one| Arc::clone(&one.listener) as Arc<_>).collect())
    }

    /// Listens on other addresses, beside the old listeners. Listeners whose address is in both lists stay.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on. Then nothing is changed.
    pub(crate) fn listen_on(&mut self, wanted: &Wanted) -> Result<Replaced, OpenError> {
        if self.lent {
            let error = io::Error::new(ErrorKind::Unsupported, "the listeners are those of a socket unit");
            return Err(OpenError { address: SocketAddr::new(wanted.first(), self.shared.port), error });
        }
        self.open_beside(wanted, |_| true)
    }

    /// Opens its addresses again, so that copies of the old listeners in other processes are useless once these are shut.
    /// The service manager's listeners stay.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on. Then nothing is changed.
    pub(crate) fn renew(&mut self, wanted: &Wanted) -> Result<Replaced, OpenError> {
        if self.lent {
            return Ok(Replaced(Vec::new()));
        }
        self.open_beside(wanted, |_| false)
    }

    fn open_beside(&mut self, wanted: &Wanted, reusable: impl Fn(usize) -> bool) -> Result<Replaced, OpenError> {
        let port = self.shared.port;
        let old: Vec<_> = self.listeners.iter().map(|one| one.listener.get_ref()).collect();
        let opened = address::open_beside(wanted, &old, reusable, port)?;
        let mut listeners = Vec::new();
        for socket in opened.sockets {
            let listener = match socket {
                Beside::Old(place) => Ok(self.listeners[place].clone()),
                Beside::New(socket) => self.accept_on(socket),
            };
            match listener {
                Ok(listener) => listeners.push(listener),
                Err(error) => {
                    self.without(&listeners).iter().for_each(|new| new.task.abort());
                    return Err(OpenError { address: SocketAddr::new(wanted.first(), port), error });
                }
            }
        }
        self.tell_absent(&opened.absent);
        self.missing = opened.missing;
        let old = std::mem::replace(&mut self.listeners, listeners);
        Ok(Replaced(self.without(&old)))
    }

    /// Those that this server does not have.
    fn without(&self, listeners: &[Accepting]) -> Vec<Accepting> {
        let is_ours = |one: &&Accepting| self.listeners.iter().any(|ours| Arc::ptr_eq(&ours.listener, &one.listener));
        listeners.iter().filter(|one| !is_ours(one)).cloned().collect()
    }

    /// Shuts listeners that were replaced, for every process that has copies.
    pub(crate) async fn shut(&self, Replaced(old): Replaced) {
        if old.is_empty() {
            return;
        }
        // Who connects from here on is accepted, though its request may come when the listener has ended.
        old.iter().for_each(|one| os::accept_at_once(&*one.listener));
        // Who is connected and not accepted yet sends its request in a moment.
        tokio::time::sleep(DRAIN).await;
        for Accepting { listener, task } in old {
            task.abort();
            self.accept_waiting(&listener);
            let _ = os::end_listener(&listener);
        }
        address::end_sharing(self.shared.port);
    }

    /// Stops accepting. New connections wait in the kernel's queue.
    pub(crate) fn stop_accepting(&mut self) {
        self.accepting.abort_all();
    }

    /// Shuts the listeners and the registered connections, also for processes that have copies. The service manager's
    /// listeners stay open.
    pub(crate) fn shut_sockets(&mut self) {
        self.accepting.abort_all();
        for Accepting { listener, .. } in self.listeners.iter().filter(|_| !self.lent) {
            let _ = os::end_listener(listener);
        }
        for connection in self.shared.registry.entries().iter().filter_map(|entry| entry.connection()) {
            let _ = shutdown(connection.as_fd(), Shutdown::Both);
        }
    }

    /// Waits until accepted connections have their replies, for [`DRAIN`] at most.
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

fn address_of(listener: &Listener) -> Option<IpAddr> {
    listener.get_ref().local_addr().ok().map(|bound| bound.ip())
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
        // Not before each accept: that would take the descriptor back that was freed for it.
        shared.reserve.restore();
        let mut is_short = false;
        for _ in 0..ACCEPTS_AT_ONCE {
            match listener.get_ref().accept() {
                Ok((stream, peer)) => {
                    shared.metrics().accepted.count();
                    connection::serve(&shared, stream.into(), peer, &mut inbox);
                    if is_short {
                        // What has given way is closed in its turn.
                        break;
                    }
                }
                Err(error) => match AcceptError::of(&error) {
                    AcceptError::WouldBlock => {
                        ready.clear_ready();
                        continue 'waiting;
                    }
                    AcceptError::Peer => {}
                    AcceptError::OutOfDescriptors => {
                        // Who comes next is known when it is accepted. Then it is decided who gives way to whom.
                        is_short = shared.reserve.give_up();
                        if is_short {
                            continue;
                        }
                        // Other threads have what there was.
                        if shared.connections.close_waiting(Duration::ZERO) {
                            break;
                        }
                        tokio::time::sleep(DESCRIPTOR_PAUSE).await;
                    }
                    AcceptError::Listener => return error,
                },
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Why an accept failed. accept(2) also reports errors of connections that broke before they were accepted.
enum AcceptError {
    WouldBlock,
    Peer,
    OutOfDescriptors,
    Listener,
}

impl AcceptError {
    fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            _ if error.kind() == ErrorKind::WouldBlock => Self::WouldBlock,
            Some(error) if os::OUT_OF_DESCRIPTORS.contains(&error) => Self::OutOfDescriptors,
            Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK) => Self::Listener,
            _ => Self::Peer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[cfg(target_os = "linux")]
    fn started() -> Server {
        let listeners = Listeners::open(&[LOOPBACK], 0).expect("a free port");
        let rules = Arc::default();
        Server::start(listeners, Registry::default(), rules, Connections::default(), None, None, Reserve::new())
            .expect("a runtime")
    }

    // Elsewhere the kernel does not tell, and there is no handover.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_adopted_node_that_was_told_nothing_is_told_that_it_is_registered() {
        use std::io::{Read, Write};

        use crate::node::{Node, NodeName};
        use crate::protocol;
        use crate::registry::Holder;

        let server = started();
        let registry = &server.shared.registry;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        for (name, told) in [("silent", &b""[..]), ("told", b"?")] {
            let mut node =
                std::net::TcpStream::connect(listener.local_addr().expect("its address")).expect("it listens");
            node.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
            let mut accepted = listener.accept().expect("it has connected").0;
            accepted.write_all(told).expect("it is read");
            let connection = os::watch(accepted).map(Arc::new).expect("a runtime");
            let erlang = Node::erlang(NodeName::new(name.as_bytes()).expect("a valid name"), 1);
            let holder = Holder::Connection(Arc::downgrade(&connection) as _);
            let registration = registry.register(&erlang, None, holder).expect("a free name");
            let reply = protocol::alive2_reply(erlang.highest_version, Some(registration.creation()));
            server.adopt(vec![(registration, connection)]);
            // The end of the connection follows: what comes before it is all.
            assert!(registry.stop(name.as_bytes()));
            tokio::task::yield_now().await;
            let mut heard = Vec::new();
            node.read_to_end(&mut heard).expect("the connection ends");
            assert_eq!(heard, if told.is_empty() { reply } else { told.to_vec() }, "{name}");
        }
    }

    // Elsewhere a listener that was replaced goes on.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_request_that_comes_after_the_end_of_its_listener_is_answered() {
        use std::future::{poll_fn, Future};
        use std::pin::pin;
        use std::task::Poll;

        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        use tokio::net::TcpStream;

        const NAMES: &[u8] = &[0, 1, b'n'];
        let mut server = started();
        let port = server.shared.port;
        let connected = || async { TcpStream::connect((LOOPBACK, port)).await.expect("it listens") };
        let mut earlier = connected().await;
        // The kernel prefers the old listener, whose address is the nearer one.
        let replaced = server.listen_on(&Wanted::new(&[], false)).expect("a port of this process");
        let old = Arc::clone(&replaced.0[0].listener);
        let mut shut = pin!(server.shut(replaced));
        let waits = poll_fn(|context| Poll::Ready(shut.as_mut().poll(context).is_pending())).await;
        assert!(waits && os::is_listening(&*old));
        let mut later = connected().await;
        earlier.write_all(NAMES).await.expect("it is served");
        shut.await;
        assert!(!os::is_listening(&*old));
        later.write_all(NAMES).await.expect("it is served");
        for (when, mut client) in [("earlier", earlier), ("later", later)] {
            let mut reply = Vec::new();
            client.read_to_end(&mut reply).await.unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!(reply, u32::from(port).to_be_bytes(), "{when}");
        }
    }

    #[test]
    fn what_lacks_descriptors_or_memory_waits_and_what_is_no_listener_ends() {
        let kind = |error: Errno| AcceptError::of(&error.into());
        for lack in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS] {
            assert!(matches!(kind(lack), AcceptError::OutOfDescriptors), "{lack}");
        }
        for end in [Errno::BADF, Errno::INVAL, Errno::NOTSOCK] {
            assert!(matches!(kind(end), AcceptError::Listener), "{end}");
        }
        assert!(matches!(kind(Errno::CONNABORTED), AcceptError::Peer));
        assert!(matches!(kind(Errno::AGAIN), AcceptError::WouldBlock));
    }
}
