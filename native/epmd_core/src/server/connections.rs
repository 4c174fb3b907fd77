//! The open connections: those that wait for their request or reply, whose number is limited, and those of registered
//! nodes.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::limits::Limits;
use crate::metrics::Metrics;

/// A handle to the table of connections. Its lock is never held across an await.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections {
    table: Arc<Mutex<Table>>,
    pub(crate) metrics: Arc<Metrics>,
}

/// How many connections are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Connections that wait for their request or reply.
    pub waiting: usize,
    /// Connections of registered nodes.
    pub registered: usize,
}

#[derive(Debug, Default)]
struct Table {
    opened: u64,
    /// By age; the first has waited longest.
    waiting: BTreeMap<u64, Waiting>,
    registered: HashMap<u64, AbortHandle>,
}

#[derive(Debug)]
struct Waiting {
    source: IpAddr,
    since: Instant,
    task: AbortHandle,
}

/// A connection's slot in the table, freed when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    connections: Connections,
    id: u64,
}

impl Connections {
    /// Spawns the task of a waiting connection. If the source has used up its share of slots, its connection that has
    /// waited longest is closed; else, if the table is full, the one that has waited longest of all.
    pub(crate) fn spawn_waiting<F>(&self, source: IpAddr, limits: &Limits, task: impl FnOnce(Slot) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let source = source.to_canonical();
        let mut table = self.table.lock();
        let most = limits.for_waiting(limits.descriptors(), table.registered.len());
        if table.make_room(source, most, limits.waiting_per_source) {
            self.metrics.gave_way.count();
        }
        table.opened += 1;
        let id = table.opened;
        let task = tokio::spawn(task(Slot { connections: self.clone(), id })).abort_handle();
        table.waiting.insert(id, Waiting { source, since: Instant::now(), task });
    }

    /// Spawns the task of a registered node's connection, which is never closed to make room. Waiting connections are
    /// closed while all connections together have more than this number of descriptors.
    pub(crate) fn spawn_registered<F>(&self, descriptors: usize, task: impl FnOnce(Slot) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut table = self.table.lock();
        table.opened += 1;
        let id = table.opened;
        let task = tokio::spawn(task(Slot { connections: self.clone(), id })).abort_handle();
        table.registered.insert(id, task);
        while table.registered.len() + table.waiting.len() > descriptors {
            let Some((_, oldest)) = table.waiting.pop_first() else { break };
            oldest.task.abort();
            self.metrics.gave_way.count();
        }
    }

    /// Closes the connection that has waited longest, if it has waited for this time. Returns whether it closed one.
    pub(crate) fn close_oldest_waiting(&self, at_least: Duration) -> bool {
        let mut table = self.table.lock();
        let oldest = table.waiting.first_entry().filter(|oldest| oldest.get().since.elapsed() >= at_least);
        oldest.map(|oldest| oldest.remove().task.abort()).is_some()
    }

    /// How many are open.
    pub(crate) fn open(&self) -> Open {
        let table = self.table.lock();
        Open { waiting: table.waiting.len(), registered: table.registered.len() }
    }

    /// Closes all connections.
    pub(crate) fn close_all(&self) {
        let Table { waiting, registered, .. } = std::mem::take(&mut *self.table.lock());
        waiting.into_values().map(|waiting| waiting.task).chain(registered.into_values()).for_each(|task| task.abort());
    }
}

impl Table {
    /// Closes a connection if there is no room for another. Returns whether it did.
    fn make_room(&mut self, source: IpAddr, most: usize, most_per_source: usize) -> bool {
        let of_source = |(_, waiting): &(&u64, &Waiting)| waiting.source == source;
        let has_its_share = !source.is_loopback()
            && self.waiting.len() >= most_per_source
            && self.waiting.iter().filter(of_source).count() >= most_per_source;
        let gives_way = if has_its_share {
            self.waiting.iter().find(of_source).map(|(id, _)| *id)
        } else if self.waiting.len() >= most {
            self.waiting.keys().next().copied()
        } else {
            None
        };
        let gives_way = gives_way.and_then(|id| self.waiting.remove(&id));
        if let Some(waiting) = &gives_way {
            tracing::debug!(peer = %waiting.source, "a waiting connection gave way to a newer one");
            waiting.task.abort();
        }
        gives_way.is_some()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.connections.table.lock();
        table.waiting.remove(&self.id);
        table.registered.remove(&self.id);
    }
}
