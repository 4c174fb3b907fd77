//! Has the service manager keep all that it takes to go on, for as long as this member serves.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::handle::Handle;
use crate::hand_over::{self, Hello, Replication, Room, Store};
use crate::registry::{Descriptor, Registry};
use crate::service_manager::Notifier;

/// A store that is filled, if there is one.
#[derive(Debug)]
pub(super) struct Keeping {
    listeners: watch::Sender<Vec<Arc<dyn Descriptor>>>,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    store: Mutex<Option<Store>>,
    registry: Registry,
    replication: Replication,
    hello: Hello,
}

impl Keeping {
    /// Has this table kept, and these listeners, beside what is `stored` already.
    pub(super) fn begin(
        handle: &Handle,
        hello: Hello,
        replication: &Replication,
        listeners: Vec<Arc<dyn Descriptor>>,
        stored: (u64, Vec<String>),
    ) -> Self {
        let (listeners, changes) = watch::channel(listeners);
        let (registry, replication) = (handle.registry.clone(), replication.clone());
        let shared = Arc::new(Shared { store: Mutex::default(), registry, replication, hello });
        let mut tasks = JoinSet::new();
        match handle.service_manager().notifier() {
            None => {}
            Some(Ok(notifier)) => {
                tasks.spawn(keep(Arc::clone(&shared), notifier, changes, stored));
            }
            Some(Err(error)) => tell(&error),
        }
        Self { listeners, shared, tasks }
    }

    /// Has these listeners kept in the place of those that are.
    pub(super) fn renew(&self, listeners: Vec<Arc<dyn Descriptor>>) {
        self.listeners.send_replace(listeners);
    }

    /// Whether the next life of this service finds everything; it may take a moment.
    pub(super) async fn is_complete(&self) -> bool {
        let store = self.shared.store.lock().clone();
        match store {
            Some(store) => store.complete().await,
            None => false,
        }
    }

    /// Leaves nothing behind.
    pub(super) async fn end(mut self) {
        self.tasks.shutdown().await;
        let store = self.shared.store.lock().take();
        if let Some(store) = store {
            store.empty().await;
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.shared.replication.keep(None);
    }
}

/// Fills the store, until the service manager hears no more.
async fn keep(
    shared: Arc<Shared>,
    notifier: Notifier,
    mut listeners: watch::Receiver<Vec<Arc<dyn Descriptor>>>,
    stored: (u64, Vec<String>),
) {
    let begin = async {
        if hand_over::room(&notifier).await? == Room::None && stored.1.is_empty() {
            return Ok(None);
        }
        let store = Store::new(notifier, &shared.registry, shared.hello.clone(), (stored.0, &stored.1))?;
        store.extend(listeners.borrow_and_update().clone());
        Ok::<_, io::Error>(Some(store))
    };
    let store = match begin.await {
        Ok(Some(store)) => store,
        Ok(None) => {
            tracing::warn!(
                "the service manager keeps nothing for this service, whose nodes are unknown for 2 seconds when it \
                 restarts: give it FileDescriptorStoreMax=, above the number of nodes"
            );
            return;
        }
        Err(error) => return tell(&error),
    };
    *shared.store.lock() = Some(store.clone());
    shared.replication.keep(Some(store.clone()));
    let told = std::sync::Once::new();
    let full = || {
        told.call_once(|| {
            tracing::warn!(
                nodes = shared.registry.len(),
                "the service manager keeps no more for this service: raise its FileDescriptorStoreMax="
            );
        });
    };
    loop {
        tokio::select! {
            error = store.tend(full) => {
                *shared.store.lock() = None;
                shared.replication.keep(None);
                return tell(&error);
            }
            Ok(()) = listeners.changed() => store.renew(listeners.borrow_and_update().clone()),
        }
    }
}

fn tell(error: &io::Error) {
    tracing::warn!(%error, "the service manager cannot be asked to keep anything");
}
