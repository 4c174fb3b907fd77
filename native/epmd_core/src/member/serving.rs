//! Serving the port: from what a member has got hold of to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::Handle;
use super::local::LocalNode;
use crate::address::Listeners;
use crate::hand_over::{Handoff, Offer, Rendezvous, Replication, Terms};
use crate::registry::replica::Restored;
use crate::registry::{Contents, Entry, NameTaken, Registration, Registry};
use crate::reserve::Reserve;
use crate::server::Server;

/// How long the table of a new owner may take to fill with the nodes that were registered with the last one.
const SETTLING: Duration = Duration::from_millis(500);

/// What a member is about to serve.
#[derive(Debug)]
pub(super) enum Startup {
    /// A port that was free.
    Bound(Listeners),
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
    /// Listeners and replica of the last owner. The registration that came from `own`, the host's link, needs no connection any more.
    pub(super) fn new(mut handoff: Handoff, handle: &Handle, port: u16, own: Option<SocketAddr>) -> Self {
        let listeners = std::mem::take(&mut handoff.listeners);
        let listeners = Listeners::inherited(listeners, &handle.wanted, port);
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
    rendezvous: Rendezvous,
    refills: bool,
) -> io::Result<()> {
    let (registry, replication) = (&handle.registry, Replication::default());
    let start = |listeners, reserve| {
        let rules = Arc::clone(&handle.rules);
        Server::start(listeners, registry.clone(), rules, handle.connections.clone(), replication.clone(), reserve)
    };
    let (mut server, mut own, claim);
    match startup {
        Startup::Bound(listeners) => {
            if refills {
                registry.fills_until(Instant::now() + SETTLING);
            }
            (server, claim) = (start(listeners, Reserve::new())?, None);
            own = LocalRegistration::register(local, registry);
        }
        Startup::Takeover(takeover) => {
            let Takeover { mut listeners, restored, handoff, .. } = *takeover;
            let Handoff { claim: claimed, reserve, mut last_owner, .. } = handoff;
            listeners.complete();
            server = start(listeners, reserve)?;
            last_owner.confirm();
            server.keep(restored.connected);
            own = match restored.own {
                Some(registration) => LocalRegistration::Registered(registration),
                None => LocalRegistration::register(local, registry),
            };
            claim = Some(claimed);
        }
    }
    let terms = Terms {
        rendezvous,
        addresses: handle.wanted.to_vec(),
        node: local.name(),
        registry: registry.clone(),
        replication,
        settings: handle.hand_over.subscribe(),
        standbys: Arc::clone(&handle.standbys),
    };
    let mut offer = Offer::new(terms, claim, server.listeners());
    loop {
        tokio::select! {
            error = server.failed() => return Err(error),
            () = local.changed() => {
                drop(own);
                own = LocalRegistration::register(local, registry);
            }
            () = own.freed(registry) => own = LocalRegistration::register(local, registry),
            () = offer.hung() => {
                tracing::warn!("opening the port again, since a standby that hangs has copies of its listeners");
                server.renew()?;
                offer.renew(server.listeners());
            }
            () = handle.stop.notified() => {
                drop(own);
                server.halt();
                if offer.hand_over().await {
                    server.drain().await;
                } else {
                    server.renounce();
                }
                return Ok(());
            }
        }
    }
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
