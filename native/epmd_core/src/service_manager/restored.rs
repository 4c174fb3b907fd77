//! What an owner has left in the service manager's store, as the next run of its service finds it.
//!
//! The table is a log, to which its owner has appended until it ended, however it did. What has no descriptor in the
//! store has ended, and so has what ended meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use crate::address::{is_listener, is_tcp, port_of};
use crate::hand_over::message::{self, Message};
use crate::hand_over::{Hello, Holdings, VERSION};
use crate::registry::log::LogEntry;
use crate::registry::{Incoming, Registry};

/// The name of a listener in the store.
pub(crate) const LISTENER: &str = "epmd-listener";
/// What the name of a table begins with; a number follows, the newest being the highest.
pub(crate) const TABLE: &str = "epmd-table-";
/// What the name of a connection begins with; the number of its registration follows.
pub(crate) const CONNECTION: &str = "epmd-";
/// The most that is read of a table.
const LONGEST: u64 = 1 << 30;

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

/// A table as its owner has written it.
#[derive(Debug)]
struct Table {
    owner: Hello,
    log: Vec<LogEntry>,
}

/// What is in the store, for who goes on filling it.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// The number of the newest table.
    pub(crate) table: u64,
    /// Its log, and the length of what was written whole, if that is what the owner goes on with.
    pub(crate) log: Option<(File, u64)>,
    /// All names.
    pub(crate) names: Vec<String>,
}

impl Kept {
    /// Sorts what was in the store, for an owner of this port.
    pub(crate) fn sort(stored: Vec<(String, OwnedFd)>, port: u16) -> Self {
        let mut kept = Self::default();
        kept.stored.names = stored.iter().map(|(name, _)| name.clone()).collect();
        let mut tables = BTreeMap::new();
        let of_port = |descriptor: &OwnedFd| port_of(descriptor) == Some(port);
        for (name, descriptor) in stored {
            if let Some(number) = number(&name, TABLE) {
                tables.insert(number, File::from(descriptor));
            } else if name == LISTENER && is_listener(&descriptor) && of_port(&descriptor) {
                let listener = TcpListener::from(descriptor);
                if listener.set_nonblocking(true).is_ok() {
                    kept.listeners.push(listener);
                }
            } else if let Some(id) = number(&name, CONNECTION).filter(|_| is_tcp(&descriptor) && of_port(&descriptor)) {
                kept.connections.insert(id, descriptor);
            }
        }
        // The newest may have been begun and not completed.
        if let Some((number, file, table, length)) = tables.into_iter().rev().find_map(whole) {
            kept.table = Some(table);
            kept.stored.table = number;
            kept.stored.log = Some((file, length));
        }
        kept
    }

    /// Makes the registry a replica of the stored table, and takes the connections. Returns whether there was a table.
    pub(crate) fn restore(&mut self, registry: &Registry, holdings: &mut Holdings) -> bool {
        let Some(table) = self.table.take() else { return false };
        if replay(table, registry).is_none() {
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

/// The number in a name in the store.
pub(crate) fn number(name: &str, before: &str) -> Option<u64> {
    name.strip_prefix(before)?.parse().ok()
}

/// The last table in a log that is whole, and the length of all messages: the last may have been cut off.
fn whole((number, log): (u64, File)) -> Option<(u64, File, Table, u64)> {
    let length = log.metadata().ok()?.len().min(LONGEST);
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    log.read_exact_at(&mut bytes, 0).ok()?;
    let (mut rest, mut tables) = (bytes.as_slice(), Vec::<Table>::new());
    while let Some(message) = next(&mut rest)? {
        match message {
            Message::Hello(owner) if owner.version <= VERSION => tables.push(Table { owner, log: Vec::new() }),
            Message::Log(entry) => tables.last_mut()?.log.push(entry),
            _ => return None,
        }
    }
    // Each owner begins anew in it; one that was just about to has told less than the one before.
    let table = tables.into_iter().rfind(|table| table.log.contains(&LogEntry::InSync))?;
    Some((number, log, table, length - rest.len() as u64))
}

fn replay(Table { owner, log }: Table, registry: &Registry) -> Option<()> {
    let mut log = log.into_iter();
    let Some(LogEntry::Begin { epoch, refusals }) = log.next() else { return None };
    let mut incoming = Incoming::new(epoch, refusals);
    for entry in log.by_ref().take_while(|entry| *entry != LogEntry::InSync) {
        registry.build(&mut incoming, entry).ok()?;
    }
    registry.replace(incoming, &owner.addresses);
    log.try_for_each(|entry| registry.follow(entry).ok())?;
    registry.follow(LogEntry::Settled).ok()
}

/// The next message; `Some(None)` at the end, which may be in the middle of one.
fn next(rest: &mut &[u8]) -> Option<Option<Message>> {
    let Some((bytes, length)) = message::frame(rest).ok()? else { return Some(None) };
    let message = Message::decode(bytes).ok()?;
    *rest = &rest[length..];
    Some(Some(message))
}
