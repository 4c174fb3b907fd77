//! The open connections: those that wait for their request or reply, whose number is limited, and those of registered
//! nodes.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::sources::{Source, Sources};
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
    waiting: HashMap<u64, Waiting>,
    /// Of those that wait.
    sources: Sources,
    registered: HashMap<u64, AbortHandle>,
}

#[derive(Debug)]
struct Waiting {
    source: Source,
    since: Instant,
    task: AbortHandle,
}

/// A connection's slot in the table, freed when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    connections: Connections,
    number: u64,
}

impl Connections {
    /// Spawns the task of a waiting connection. If its source has more than its share of slots then, the one of them that
    /// has waited longest is closed; else, if the table is too full, the one that gives way to all others. That may be
    /// this one: a local connection does not give way to a remote one.
    pub(super) fn spawn_waiting<F>(&self, source: Source, limits: &Limits, task: impl FnOnce(Slot) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut table = self.table.lock();
        table.opened += 1;
        let number = table.opened;
        let task = tokio::spawn(task(Slot { connections: self.clone(), number })).abort_handle();
        table.waiting.insert(number, Waiting { source, since: Instant::now(), task });
        table.sources.insert(source, number);
        let most = limits.for_waiting(limits.descriptors(), table.registered.len());
        if source.is_remote() && table.sources.count(source) > limits.waiting_per_source {
            let oldest = table.sources.oldest(source);
            self.close(&mut table, oldest);
        } else if table.waiting.len() > most {
            let gives_way = table.sources.gives_way();
            self.close(&mut table, gives_way);
        }
    }

    /// Spawns the task of a registered node's connection, which is never closed to make room. Waiting connections are
    /// closed while all connections together have more than this number of descriptors.
    pub(crate) fn spawn_registered<F>(&self, descriptors: usize, task: impl FnOnce(Slot) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut table = self.table.lock();
        table.opened += 1;
        let number = table.opened;
        let task = tokio::spawn(task(Slot { connections: self.clone(), number })).abort_handle();
        table.registered.insert(number, task);
        while table.registered.len() + table.waiting.len() > descriptors {
            let gives_way = table.sources.gives_way();
            if !self.close(&mut table, gives_way) {
                break;
            }
        }
    }

    /// Closes the waiting connection that gives way to all others, if it has waited for this time. Returns whether it
    /// closed one.
    pub(crate) fn close_waiting(&self, at_least: Duration) -> bool {
        let mut table = self.table.lock();
        let gives_way = table.sources.gives_way();
        let gives_way = gives_way.filter(|number| table.waiting[number].since.elapsed() >= at_least);
        self.close(&mut table, gives_way)
    }

    /// Closes this connection, so that others have room.
    fn close(&self, table: &mut Table, waiting: Option<u64>) -> bool {
        let Some(waiting) = waiting.and_then(|number| table.remove(number)) else { return false };
        tracing::debug!(source = ?waiting.source, "a waiting connection gave way to another");
        waiting.task.abort();
        self.metrics.evicted.count();
        true
    }

    /// How many are open.
    pub(crate) fn open(&self) -> Open {
        let table = self.table.lock();
        Open { waiting: table.waiting.len(), registered: table.registered.len() }
    }

    /// Closes all connections.
    pub(crate) fn close_all(&self) {
        let (waiting, registered) = {
            let mut table = self.table.lock();
            table.sources = Sources::default();
            (std::mem::take(&mut table.waiting), std::mem::take(&mut table.registered))
        };
        waiting.into_values().map(|waiting| waiting.task).chain(registered.into_values()).for_each(|task| task.abort());
    }
}

impl Table {
    fn remove(&mut self, waiting: u64) -> Option<Waiting> {
        let removed = self.waiting.remove(&waiting)?;
        self.sources.remove(removed.source, waiting);
        Some(removed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.connections.table.lock();
        if table.remove(self.number).is_none() {
            table.registered.remove(&self.number);
        }
    }
}
