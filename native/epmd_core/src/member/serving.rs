//! Serves the port: from a bound or inherited listener to the stop or handover.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::examiner::Examiner;
use super::handle::{Handle, Move};
use super::local::LocalNode;
use crate::address::{Listeners, OpenError, Wanted};
use crate::backoff::{until, Backoff};
use crate::hand_over::{Hello, LastOwner, Links, Offer, OwnerLock, Primary, Takeover};
use crate::node::NodeName;
use crate::registry::{Descriptor, Entry, NameTaken, Registration, Registry, Restored};
use crate::reserve::Reserve;
use crate::server::{Replaced, Server};
use crate::service_manager::{Keeper, StoreState, Stored};

/// The longest pause between attempts to open an address that another process still has.
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Members that may wait to be called. More ask again.
const MEETINGS: usize = 256;

/// How many of the nodes that are left are named.
const MOST_NAMED: usize = 10;

/// What a member is about to serve.
#[derive(Debug)]
pub(super) struct Startup {
    pub(super) listeners: Listeners,
    /// `None` on a system that has no such lock, nor a handover.
    lock: Option<OwnerLock>,
    reserve: Reserve,
    last_owner: Option<LastOwner>,
    pub(super) origin: Origin,
    /// The registrations to begin with, once they are in the table.
    pub(super) restored: Restored,
}

/// How a member came to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It bound the port, or was passed it, with no table.
    Bound,
    /// It goes on with what an earlier run of its service has stored.
    Restored,
    /// It took over from an owner, with everything that the last one had, or maybe not.
    TookOver { is_behind: bool },
}

impl Startup {
    pub(super) fn new(listeners: Listeners, lock: Option<OwnerLock>, origin: Origin) -> Self {
        let (reserve, restored) = (Reserve::new(), Restored::default());
        Self { listeners, lock, reserve, last_owner: None, origin, restored }
    }

    pub(super) fn after(takeover: Takeover, wanted: &Wanted, port: u16) -> Self {
        let Takeover { sockets, lent, lock, reserve, is_behind, last_owner } = takeover;
        let listeners = if lent { Listeners::lent(sockets, port) } else { Listeners::inherited(sockets, wanted, port) };
        let (origin, restored) = (Origin::TookOver { is_behind }, Restored::default());
        Self { listeners, lock: Some(lock), reserve, last_owner, origin, restored }
    }
}

/// Serves the port until the member is stopped, or until a listener fails for good.
pub(super) async fn serve(
    startup: Startup,
    handle: &Handle,
    local: &mut LocalNode,
    moves: &mut mpsc::UnboundedReceiver<Move>,
    stored: Stored,
) -> io::Result<()> {
    let Startup { listeners, mut lock, reserve, last_owner, origin, restored } = startup;
    let registry = &handle.registry;
    let (meetings, names) = mpsc::channel(MEETINGS);
    let meetings = lock.is_some().then_some(meetings);
    let (rules, connections) = (Arc::clone(&handle.rules), handle.connections.clone());
    let links = Links::default();
    let examiner = Arc::new(Examiner::new(handle.clone(), links.clone()));
    let mut server = Server::start(listeners, registry.clone(), rules, connections, meetings, Some(examiner), reserve)?;
    if let Some(last_owner) = last_owner {
        last_owner.confirm();
    }
    server.adopt(restored.connected);
    let mut own = match restored.own {
        Some(registration) => LocalRegistration::Registered(registration),
        None => LocalRegistration::register(local, registry),
    };
    let (brought, mut arriving) = mpsc::unbounded_channel();
    let addresses: Vec<_> = handle.wanted().addresses().collect();
    let hello = Hello::new(addresses.clone(), local.name());
    let offer = Offer {
        addresses,
        node: local.name(),
        lent: server.is_lent(),
        registry: registry.clone(),
        links: links.clone(),
        settings: handle.hand_over.subscribe(),
        standbys: Arc::clone(&handle.standbys),
        obstacle: handle.obstacle.clone(),
        brought,
    };
    let mut primary = Primary::new(offer, names, server.listeners(), matches!(origin, Origin::TookOver { .. }));
    let keeper = Keeper::begin(
        handle.service_manager().notifier(),
        Arc::clone(&handle.store),
        registry.clone(),
        hello,
        stored_listeners(&server),
        stored,
    );
    // Before a node is told that it is registered, whoever may have to go on for this owner has it, too.
    let store = Arc::clone(&handle.store);
    registry.call_before_reply(move || {
        links.pass();
        if let StoreState::Some(store) = &*store.borrow() {
            store.pass();
        }
    });
    let mut settles_at = registry.settles_at();
    let mut backoff = Backoff::up_to(MAX_BACKOFF);
    let (mut is_exposed, mut renewal) = (false, Backoff::up_to(MAX_BACKOFF));
    loop {
        tokio::select! {
            error = server.failed() => {
                keeper.end().await;
                return Err(error);
            }
            () = until(settles_at) => {
                settles_at = None;
                registry.settle();
            }
            () = local.changed() => {
                drop(own);
                own = LocalRegistration::register(local, registry);
            }
            () = own.freed(registry) => own = LocalRegistration::register(local, registry),
            Some(brought) = arriving.recv() => server.adopt(vec![brought]),
            Some(Move { wanted, reply }) = moves.recv() => {
                let moved = if wanted == *handle.wanted() {
                    Ok(())
                } else {
                    relocate(wanted, handle, &mut server, &primary, &mut lock).await
                };
                keeper.renew(stored_listeners(&server));
                let _ = reply.send(moved);
            }
            () = sleep(backoff.next()), if server.lacks_addresses() => {
                match server.open_what_is_free() {
                    Ok(opened) => {
                        drop(follow(&mut lock, &server));
                        primary.extend(opened);
                    }
                    Err(error) => tracing::warn!(%error, "an address that became free cannot be served"),
                }
                keeper.renew(stored_listeners(&server));
                handle.status.lock().addresses = server.addresses();
            }
            () = primary.exposed() => {
                tracing::warn!("opening the port again, since a process that is not to serve it has its listeners");
                (is_exposed, renewal) = (true, Backoff::up_to(MAX_BACKOFF));
            }
            () = sleep(renewal.next()), if is_exposed => match server.renew(&handle.wanted()) {
                Ok(replaced) => {
                    is_exposed = false;
                    replace(replaced, handle, &server, &primary, &mut lock).await;
                    keeper.renew(stored_listeners(&server));
                }
                // The old ones are still served.
                Err(error) => tracing::debug!(%error, "the port cannot be opened again"),
            },
            () = handle.stop.notified() => {
                primary.await_standby().await;
                drop(own);
                server.stop_accepting();
                registry.close();
                // Without a successor the lock is held until the sockets are shut.
                let alone = match lock {
                    Some(lock) => primary.hand_over(lock).await.map_err(Some),
                    None => Err(None),
                };
                if alone.is_ok() {
                    keeper.end().await;
                    server.drain().await;
                } else if handle.process_ends.load(Relaxed) && keeper.is_complete().await && keeper.leave().await.is_ok() {
                    // The next run of this service finds everything in the store.
                    drop(keeper);
                    server.drain().await;
                } else {
                    if !primary.has_followers() {
                        warn_of_left(registry, handle.node.borrow().as_ref());
                    }
                    if primary.may_have_heirs() {
                        // As if this process were killed: whoever has the sockets serves them.
                        keeper.end().await;
                        server.drain().await;
                    } else {
                        server.shut_sockets();
                        keeper.end().await;
                    }
                }
                return Ok(());
            }
        }
    }
}

/// Names the nodes that nobody serves any more. Nodes of VMs that follow are not meant: one of these serves next.
fn warn_of_left(registry: &Registry, own: Option<&NodeName>) {
    let mut left = registry.entries();
    // This VM's own node may be registered over TCP.
    left.retain(|entry| own.is_none_or(|own| entry.name() != own.as_str().as_bytes()));
    if left.is_empty() {
        return;
    }
    let named: Vec<_> = left.iter().take(MOST_NAMED).map(|entry| String::from_utf8_lossy(entry.name())).collect();
    let more = left.len() - named.len();
    let mut names = named.join(", ");
    if more > 0 {
        names.push_str(&format!(" and {more} more"));
    }
    tracing::warn!(
        names,
        "leaving the port without a standby: these nodes cannot be found until an EPMD serves it again, and C nodes do \
         not register again by themselves"
    );
}

/// The listeners to store: none of a socket unit, which the service manager has anyway.
fn stored_listeners(server: &Server) -> Vec<Arc<dyn Descriptor>> {
    if server.is_lent() {
        Vec::new()
    } else {
        server.listeners()
    }
}

/// Listens on other addresses. Registrations and their connections stay. Standbys connect again.
async fn relocate(
    wanted: Wanted,
    handle: &Handle,
    server: &mut Server,
    primary: &Primary,
    lock: &mut Option<OwnerLock>,
) -> Result<(), OpenError> {
    let replaced = server.listen_on(&wanted)?;
    *handle.wanted.write() = Arc::new(wanted);
    replace(replaced, handle, server, primary, lock).await;
    tracing::info!(addresses = ?server.addresses(), "listening on other addresses");
    Ok(())
}

/// Serves the new listeners in the place of the old ones.
async fn replace(
    replaced: Replaced,
    handle: &Handle,
    server: &Server,
    primary: &Primary,
    lock: &mut Option<OwnerLock>,
) {
    let last_lock = follow(lock, server);
    handle.status.lock().addresses = server.addresses();
    primary.renew(server.listeners(), handle.wanted().addresses().collect());
    server.shut(replaced).await;
    drop(last_lock);
}

/// Locks the listeners that are served now, before anybody is given them. Returns the lock on those that were replaced, to
/// be held until they are shut.
fn follow(lock: &mut Option<OwnerLock>, server: &Server) -> Option<OwnerLock> {
    let listeners = server.listeners();
    lock.as_mut()?
        .follow(&listeners.iter().map(|listener| listener.as_fd()).collect::<Vec<_>>())
        .inspect_err(|error| {
            tracing::warn!(%error, "standbys may serve beside this owner: a new listener cannot be locked");
        })
        .ok()
}

/// The registration of the local node in this member's table.
#[derive(Debug)]
enum LocalRegistration {
    None,
    /// It is registered as long as this value lives.
    Registered(#[allow(dead_code, reason = "kept for its end")] Registration),
    /// Another node has its name.
    Taken(Arc<Entry>),
}

impl LocalRegistration {
    fn register(local: &mut LocalNode, registry: &Registry) -> Self {
        match local.register(registry) {
            None => Self::None,
            Some(Ok(registration)) => Self::Registered(registration),
            Some(Err(NameTaken(holder))) => Self::Taken(holder),
        }
    }

    /// Waits until the name is free again.
    async fn freed(&self, registry: &Registry) {
        match self {
            Self::Taken(holder) => registry.ended(holder).await,
            Self::None | Self::Registered(_) => std::future::pending().await,
        }
    }
}
