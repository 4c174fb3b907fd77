//! Serves the port: from a bound or inherited listener to the stop or hand-over.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

use super::handle::{Handle, Move};
use super::keeping::Keeping;
use super::local::LocalNode;
use crate::address::{Listeners, OpenError, Wanted};
use crate::backoff::Backoff;
use crate::hand_over::{Claim, Handoff, Offer, OfferConfig, Replication, Stored};
use crate::registry::replica::Restored;
use crate::registry::{Contents, Descriptor, Entry, NameTaken, Registration, Registry};
use crate::reserve::Reserve;
use crate::server::Server;

/// The longest pause between attempts to open an address that another process still has.
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// What a member is about to serve.
#[derive(Debug)]
pub(super) enum Startup {
    /// A port that was free, with the claim to the owner's name if that is held already.
    Bound(Listeners, Option<Claim>),
    Takeover(Box<Takeover>),
}

/// Everything that the last owner had.
#[derive(Debug)]
pub(super) struct Takeover {
    pub(super) listeners: Listeners,
    /// `None` once they are in the table.
    pub(super) contents: Option<Contents>,
    restored: Restored,
    handoff: Handoff,
}

impl Takeover {
    /// Restores the replica of the last owner. `own` is the address of this member's link: the registration that came
    /// from there no longer needs a connection.
    pub(super) fn new(listeners: Listeners, mut handoff: Handoff, handle: &Handle, own: Option<SocketAddr>) -> Self {
        let (contents, restored) = std::mem::take(&mut handoff.replica).restore(&handle.registry, own);
        Self { listeners, contents: Some(contents), restored, handoff }
    }
}

/// Serves the port until the member is stopped, or until a listener fails for good.
pub(super) async fn serve(
    startup: Startup,
    handle: &Handle,
    local: &mut LocalNode,
    moves: &mut mpsc::UnboundedReceiver<Move>,
    port: u16,
    stored: Stored,
) -> io::Result<()> {
    let (registry, replication) = (&handle.registry, Replication::default());
    let start = |listeners, reserve| {
        let rules = Arc::clone(&handle.rules);
        Server::start(listeners, registry.clone(), rules, handle.connections.clone(), replication.clone(), reserve)
    };
    let (mut server, mut own, claim);
    let mut settled = registry.settles_at();
    match startup {
        Startup::Bound(listeners, claimed) => {
            (server, claim) = (start(listeners, Reserve::new())?, claimed);
            own = LocalRegistration::register(local, registry);
        }
        Startup::Takeover(takeover) => {
            let Takeover { listeners, restored, handoff, .. } = *takeover;
            let Handoff { claim: claimed, reserve, mut last_owner, .. } = handoff;
            server = start(listeners, reserve)?;
            if let Some(last_owner) = &mut last_owner {
                last_owner.confirm();
            }
            server.adopt(restored.connected);
            own = match restored.own {
                Some(registration) => LocalRegistration::Registered(registration),
                None => LocalRegistration::register(local, registry),
            };
            claim = claimed;
        }
    }
    let wanted = handle.wanted();
    let config = OfferConfig {
        rendezvous: super::rendezvous(&wanted, port),
        addresses: wanted.addresses().collect(),
        lent: server.is_lent(),
        node: local.name(),
        registry: registry.clone(),
        replication,
        settings: handle.hand_over.subscribe(),
        standbys: Arc::clone(&handle.standbys),
    };
    let keeping = Keeping::begin(handle, config.hello(), &config.replication, kept_listeners(&server), stored);
    let mut offer = Offer::new(config, claim, server.listeners());
    let mut backoff = Backoff::up_to(MAX_BACKOFF);
    loop {
        tokio::select! {
            error = server.failed() => {
                keeping.end().await;
                return Err(error);
            }
            () = until(settled) => {
                settled = None;
                registry.settle();
            }
            () = local.changed() => {
                drop(own);
                own = LocalRegistration::register(local, registry);
            }
            () = own.freed(registry) => own = LocalRegistration::register(local, registry),
            Some(Move { wanted, reply }) = moves.recv() => {
                let moved = if wanted == *handle.wanted() {
                    Ok(())
                } else {
                    relocate(wanted, handle, &mut server, &mut offer, port).await
                };
                keeping.renew(kept_listeners(&server));
                let _ = reply.send(moved);
            }
            () = sleep(backoff.next()), if server.lacks_addresses() => {
                match server.open_what_is_free() {
                    Ok(opened) => offer.extend(opened),
                    Err(error) => tracing::warn!(%error, "an address that became free cannot be served"),
                }
                keeping.renew(kept_listeners(&server));
                handle.status.lock().addresses = server.addresses();
            }
            () = offer.hung() => {
                tracing::warn!("opening the port again, since a standby that hangs has copies of its listeners");
                server.renew()?;
                offer.renew(server.listeners());
                keeping.renew(kept_listeners(&server));
            }
            () = handle.stop.notified() => {
                drop(own);
                server.stop_accepting();
                if offer.hand_over().await {
                    keeping.end().await;
                    server.drain().await;
                } else if handle.process_ends.load(Relaxed) && keeping.is_complete().await && keeping.leave().await.is_ok() {
                    // The next run of this service finds everything in the store.
                    drop(keeping);
                    server.drain().await;
                } else {
                    server.shut_sockets();
                    keeping.end().await;
                }
                return Ok(());
            }
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// The listeners to store: none of a socket unit, which the service manager has anyway.
fn kept_listeners(server: &Server) -> Vec<Arc<dyn Descriptor>> {
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
    offer: &mut Offer,
    port: u16,
) -> Result<(), OpenError> {
    let rendezvous = super::rendezvous(&wanted, port);
    // With another rendezvous the old name is given up. A standby that was paused for long may then claim it, so the
    // listeners that it has copies of must all be shut.
    let keep = rendezvous == *offer.rendezvous();
    server.listen_on(&wanted, keep).await?;
    let addresses = server.addresses();
    tracing::info!(?addresses, "listening on other addresses");
    handle.status.lock().addresses = addresses;
    let named = wanted.addresses().collect();
    *handle.wanted.write() = Arc::new(wanted);
    offer.relocate(rendezvous, named, server.listeners()).await;
    Ok(())
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
