//! Keeps the service manager's store up to date while this member serves, so that the next run of the service can go
//! on.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::filling::Full;
use super::left;
use super::notifier::Notifier;
use super::restored::Stored;
use super::store::Store;
use super::witness::has_room;
use crate::hand_over::Hello;
use crate::registry::{Descriptor, Registry};

/// The task that fills the store, if there is one.
#[derive(Debug)]
pub(crate) struct Keeper {
    listeners: watch::Sender<Vec<Arc<dyn Descriptor>>>,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    store: StoreSender,
    registry: Registry,
    hello: Hello,
}

/// Where it is published what the store has room for.
pub(crate) type StoreSender = Arc<watch::Sender<StoreState>>;

/// The store of this service.
#[derive(Clone, Debug, Default)]
pub(crate) enum StoreState {
    /// It is not known whether there is one.
    #[default]
    Unknown,
    None,
    Some(Store),
}

impl Keeper {
    /// Begins to store this table and these listeners; what is `stored` already is reused.
    pub(crate) fn begin(
        notifier: Option<io::Result<Notifier>>,
        store: StoreSender,
        registry: Registry,
        hello: Hello,
        listeners: Vec<Arc<dyn Descriptor>>,
        stored: Stored,
    ) -> Self {
        let (listeners, changes) = watch::channel(listeners);
        let shared = Arc::new(Shared { store, registry, hello });
        let mut tasks = JoinSet::new();
        match notifier {
            None => shared.settle(StoreState::None),
            Some(Ok(notifier)) => {
                tasks.spawn(keep(Arc::clone(&shared), notifier, changes, stored));
            }
            Some(Err(error)) => shared.give_up(&error),
        }
        Self { listeners, shared, tasks }
    }

    /// Replaces the stored listeners.
    pub(crate) fn renew(&self, listeners: Vec<Arc<dyn Descriptor>>) {
        self.listeners.send_replace(listeners);
    }

    /// Waits until everything is stored. False if there is no store, or it failed.
    pub(crate) async fn is_complete(&self) -> bool {
        match self.shared.store().await {
            Some(store) => store.complete().await,
            None => false,
        }
    }

    /// Leaves the same to the next run of the VM in this process, if it is the process that goes on.
    pub(crate) async fn leave(&self) -> io::Result<()> {
        let Some(store) = self.shared.store().await else { return Ok(()) };
        left::leave(store.copies()?)
    }

    /// Stops, and empties the store.
    pub(crate) async fn end(mut self) {
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
        let known = store.wait_for(|store| !matches!(store, StoreState::Unknown)).await.ok()?.clone();
        match known {
            StoreState::Some(store) => Some(store),
            StoreState::Unknown | StoreState::None => None,
        }
    }

    fn settle(&self, store: StoreState) {
        self.store.send_replace(store);
    }

    fn give_up(&self, error: &io::Error) {
        tracing::warn!(%error, "the service manager cannot be asked to keep anything");
        self.settle(StoreState::None);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.settle(StoreState::Unknown);
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
        if !has_room(&notifier).await? && stored.items.is_empty() {
            return Ok(None);
        }
        let listeners = listeners.borrow_and_update().clone();
        Store::new(notifier, &shared.registry, shared.hello.clone(), stored, listeners).map(Some)
    };
    let store = match begin.await {
        Ok(Some(store)) => store,
        Ok(None) => {
            tracing::warn!(
                "this service has no descriptor store, so stock nodes are unknown for 2 seconds when it restarts: set \
                 FileDescriptorStoreMax= above the number of nodes"
            );
            return shared.settle(StoreState::None);
        }
        Err(error) => return shared.give_up(&error),
    };
    shared.settle(StoreState::Some(store.clone()));
    let told = std::sync::Once::new();
    let full = |why| {
        told.call_once(|| {
            let nodes = shared.registry.len();
            match why {
                Full::Refused => {
                    tracing::warn!(nodes, "the descriptor store of this service is full: raise FileDescriptorStoreMax=")
                }
                Full::Most => {
                    tracing::warn!(nodes, "no more nodes are stored: these are the most that a store can have")
                }
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
