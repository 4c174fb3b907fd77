//! What an owner has left in the service manager's store, as the next run of its service finds it.
//!
//! What has no descriptor in the store has ended, and so has what ended meanwhile.

use std::collections::BTreeMap;
use std::net::TcpListener;

use rustix::fd::OwnedFd;

use super::item::Item;
use super::table::{Log, Table};
use crate::address::{is_listener, is_tcp, port_of};
use crate::hand_over::Holdings;
use crate::registry::Registry;

/// What was found in the store.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Listeners on the port, if the service manager has no other.
    pub(crate) listeners: Vec<TcpListener>,
    /// None if there was no table, or none that can be read.
    table: Option<Table>,
    connections: BTreeMap<u64, OwnedFd>,
    pub(crate) stored: Stored,
}

/// What is in the store, for who goes on filling it.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// The number of the newest table.
    pub(crate) table: u64,
    /// Its log, if the owner goes on with it.
    pub(super) log: Option<Log>,
    /// All of ours.
    pub(crate) items: Vec<Item>,
}

impl Kept {
    /// Sorts what was in the store, for an owner of this port.
    pub(crate) fn sort(stored: Vec<(String, OwnedFd)>, port: u16) -> Self {
        let mut kept = Self::default();
        let mut tables = BTreeMap::new();
        let of_port = |descriptor: &OwnedFd| port_of(descriptor) == Some(port);
        for (name, descriptor) in stored {
            let Some(item) = Item::named(&name) else { continue };
            kept.stored.items.push(item);
            match item {
                Item::Table(number) => {
                    tables.insert(number, descriptor);
                }
                Item::Listener if is_listener(&descriptor) && of_port(&descriptor) => {
                    let listener = TcpListener::from(descriptor);
                    if listener.set_nonblocking(true).is_ok() {
                        kept.listeners.push(listener);
                    }
                }
                Item::Connection(id) if is_tcp(&descriptor) && of_port(&descriptor) => {
                    kept.connections.insert(id, descriptor);
                }
                Item::Listener | Item::Connection(_) | Item::Witness => {}
            }
        }
        // The newest may have been begun and not completed.
        let read = |(number, descriptor)| Some((number, Log::read(descriptor)?));
        if let Some((number, (log, table))) = tables.into_iter().rev().find_map(read) {
            kept.table = Some(table);
            kept.stored.table = number;
            kept.stored.log = Some(log);
        }
        kept
    }

    /// Makes the registry a replica of the stored table, and takes the connections. Returns whether there was a table.
    pub(crate) fn restore(&mut self, registry: &Registry, holdings: &mut Holdings) -> bool {
        let Some(table) = self.table.take() else { return false };
        if table.replay(registry).is_none() {
            registry.give_up();
            return false;
        }
        for (id, connection) in std::mem::take(&mut self.connections) {
            if let Some(entry) = registry.get(id) {
                holdings.insert(entry, connection);
            }
        }
        true
    }
}
