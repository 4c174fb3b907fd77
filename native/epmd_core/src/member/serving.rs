//! Serving the port: from what a member has got hold of to its end.

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
use crate::hand_over::{Claim, Handoff, Offer, Replication, Stored, Terms};
use crate::registry::replica::Restored;
use crate::registry::{Contents, Descriptor, Entry, NameTaken, Registration, Registry};
use crate::reserve::Reserve;
use crate::server::Server;

/// How long the table of a new owner may take to fill with the nodes that were registered with the last one. Stock nodes
/// come back after 2 seconds (OTP's `erl_epmd`), so that a look-up of one waits and does not fail.
const SETTLING: Duration = Duration::from_millis(2_500);

/// The longest pause between attempts to get an address that somebody else still has.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a member is about to serve.
#[derive(Debug)]
pub(super) enum Startup {
    /// A port that was free, and the name of its owner if that is claimed already.
    Bound(Listeners, Option<Claim>),
    Takeover(Box<Takeover>),
}

/// All that the last owner had.
#[derive(Debug)]
pub(super) struct Takeover {
    pub(super) listeners: Listeners,
    /// Until the table has them.
    pub(super) contents: Option<Contents>,
    restored: Restored,
    handoff: Handoff,
}

impl Takeover {
    /// These listeners, and the replica of the last owner. The registration that came from `own`, the host's link, needs
    /// no connection any more.
    pub(super) fn new(listeners: Listeners, mut handoff: Handoff, handle: &Handle, own: Option<SocketAddr>) -> Self {
        let (contents, restored) = std::mem::take(&mut handoff.replica).restore(&handle.registry, own);
        Self { listeners, contents: Some(contents), restored, handoff }
    }
}

/// Serves the port until the member is stopped, or until the server fails for a reason of its own.
///
/// A table that `refills` lacks the nodes that were registered with the last owner, until they come.
pub(super) async fn serve(
    startup: Startup,
    handle: &Handle,
    local: &mut LocalNode,
    moves: &mut mpsc::UnboundedReceiver<Move>,
    port: u16,
    refills: bool,
    stored: Stored,
) -> io::Result<()> {
    let (registry, replication) = (&handle.registry, Replication::default());
    let start = |listeners, reserve| {
        let rules = Arc::clone(&handle.rules);
        Server::start(listeners, registry.clone(), rules, handle.connections.clone(), replication.clone(), reserve)
    };
    let (mut server, mut own, claim, mut settled);
    match startup {
        Startup::Bound(listeners, claimed) => {
            settled = refills.then(|| Instant::now() + SETTLING);
            if let Some(settled) = settled {
                registry.fills_until(settled);
            }
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
            server.keep(restored.connected);
            own = match restored.own {
                Some(registration) => LocalRegistration::Registered(registration),
                None => LocalRegistration::register(local, registry),
            };
            claim = claimed;
            settled = None;
        }
    }
    let wanted = handle.wanted();
    let terms = Terms {
        rendezvous: super::rendezvous(&wanted, port),
        addresses: wanted.addresses().collect(),
        lent: server.is_lent(),
        node: local.name(),
        registry: registry.clone(),
        replication,
        settings: handle.hand_over.subscribe(),
        standbys: Arc::clone(&handle.standbys),
    };
    let keeping = Keeping::begin(handle, terms.hello(), &terms.replication, kept_listeners(&server), stored);
    let mut offer = Offer::new(terms, claim, server.listeners());
    let mut backoff = Backoff::up_to(LONGEST_PAUSE);
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
                offer.extend(server.open_what_is_free()?);
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
                server.halt();
                if offer.hand_over().await {
                    keeping.end().await;
                    server.drain().await;
                } else if handle.process_ends.load(Relaxed) && keeping.is_complete().await && keeping.leave().await.is_ok() {
                    // The next life of this service finds everything.
                    drop(keeping);
                    server.drain().await;
                } else {
                    server.renounce();
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

/// The listeners that the service manager does not have anyway.
fn kept_listeners(server: &Server) -> Vec<Arc<dyn Descriptor>> {
    if server.is_lent() {
        Vec::new()
    } else {
        server.listeners()
    }
}

/// Listens on other addresses. Registrations and their connections stay; whoever stands by does so again.
async fn relocate(
    wanted: Wanted,
    handle: &Handle,
    server: &mut Server,
    offer: &mut Offer,
    port: u16,
) -> Result<(), OpenError> {
    let rendezvous = super::rendezvous(&wanted, port);
    // A standby that was stopped for long may find the name free that its owner has given up. What it has copies of
    // must be shut by then.
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

/// The local node in the table of its own VM.
#[derive(Debug)]
enum LocalRegistration {
    None,
    /// It is registered for as long as this is kept.
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
