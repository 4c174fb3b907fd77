//! Keeps the service manager's store up to date while this member serves, so that the next run of the service can go
//! on.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::handle::Handle;
use crate::hand_over::{self, Full, Hello, Replication, Room, Store, Stored};
use crate::registry::{Descriptor, Registry};
use crate::service_manager::{self, Notifier};

/// The task that fills the store, if there is one.
#[derive(Debug)]
pub(super) struct Keeping {
    listeners: watch::Sender<Vec<Arc<dyn Descriptor>>>,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<watch::Sender<Option<Option<Store>>>>,
    registry: Registry,
    replication: Replication,
    hello: Hello,
}

impl Keeping {
    /// Begins to store this table and these listeners; what is `stored` already is reused.
    pub(super) fn begin(
        handle: &Handle,
        hello: Hello,
        replication: &Replication,
        listeners: Vec<Arc<dyn Descriptor>>,
        stored: Stored,
    ) -> Self {
        let (listeners, changes) = watch::channel(listeners);
        let (registry, replication) = (handle.registry.clone(), replication.clone());
        let shared = Arc::new(Shared { store: Arc::clone(&handle.store), registry, replication, hello });
        let mut tasks = JoinSet::new();
        match handle.service_manager().notifier() {
            None => shared.settle(None),
            Some(Ok(notifier)) => {
                tasks.spawn(keep(Arc::clone(&shared), notifier, changes, stored));
            }
            Some(Err(error)) => shared.give_up(&error),
        }
        Self { listeners, shared, tasks }
    }

    /// Replaces the stored listeners.
    pub(super) fn renew(&self, listeners: Vec<Arc<dyn Descriptor>>) {
        self.listeners.send_replace(listeners);
    }

    /// Waits until everything is stored. False if there is no store, or it failed.
    pub(super) async fn is_complete(&self) -> bool {
        match self.shared.store().await {
            Some(store) => store.complete().await,
            None => false,
        }
    }

    /// Leaves the same to the next run of the VM in this process, if it is the process that goes on.
    pub(super) async fn leave(&self) -> io::Result<()> {
        let Some(store) = self.shared.store().await else { return Ok(()) };
        let listeners = self.listeners.borrow().clone();
        service_manager::leave(store.copies(&listeners)?)
    }

    /// Stops, and empties the store.
    pub(super) async fn end(mut self) {
        let store = self.shared.store().await;
        self.tasks.shutdown().await;
        if let Some(store) = store {
            store.empty().await;
        }
    }
}

impl Shared {
    /// The store, if there is one. Waits until that is known.
    async fn store(&self) -> Option<Store> {
        let mut store = self.store.subscribe();
        let known = store.wait_for(Option::is_some).await;
        known.ok().and_then(|store| store.clone().flatten())
    }

    fn settle(&self, store: Option<Store>) {
        self.replication.set_store(store.clone());
        self.store.send_replace(Some(store));
    }

    fn give_up(&self, error: &io::Error) {
        tracing::warn!(%error, "the service manager cannot be asked to keep anything");
        self.settle(None);
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.shared.replication.set_store(None);
        self.shared.store.send_replace(None);
    }
}

/// Fills the store until the service manager cannot be reached.
async fn keep(
    shared: Arc<Shared>,
    notifier: Notifier,
    mut listeners: watch::Receiver<Vec<Arc<dyn Descriptor>>>,
    stored: Stored,
) {
    let begin = async {
        if hand_over::room(&notifier).await? == Room::None && stored.names.is_empty() {
            return Ok(None);
        }
        let listeners = listeners.borrow_and_update().clone();
        Store::new(notifier, &shared.registry, shared.hello.clone(), stored, listeners).map(Some)
    };
    let store = match begin.await {
        Ok(Some(store)) => store,
        Ok(None) => {
            tracing::warn!(
                "the service manager keeps nothing for this service, whose nodes are unknown for 2 seconds when it \
                 restarts: give it FileDescriptorStoreMax=, above the number of nodes"
            );
            return shared.settle(None);
        }
        Err(error) => return shared.give_up(&error),
    };
    shared.settle(Some(store.clone()));
    let told = std::sync::Once::new();
    let full = |why| {
        told.call_once(|| {
            let nodes = shared.registry.len();
            match why {
                Full::Refused => tracing::warn!(
                    nodes,
                    "the service manager keeps no more for this service: raise its FileDescriptorStoreMax="
                ),
                Full::Most => tracing::warn!(nodes, "the service manager is given no more to keep: these are too many"),
            }
        });
    };
    loop {
        tokio::select! {
            error = store.tend(full) => return shared.give_up(&error),
            Ok(()) = listeners.changed() => store.renew(listeners.borrow_and_update().clone()),
        }
    }
}
