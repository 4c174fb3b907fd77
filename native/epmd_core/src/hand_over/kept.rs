//! What an owner kept in the service manager's store, as the next life of its service finds it.
//!
//! The table is a log of messages of the hand-over, to which its owner has appended until it ended, however it did.
//! What has no descriptor in the store has ended, and so has what ended meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::copying;
use super::hello::VERSION;
use super::message::{self, Message};
use super::standby::connection;
use crate::address::is_listener;
use crate::registry::replica::Replica;

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
    pub(crate) replica: Option<Replica>,
    /// The number of the newest table.
    pub(crate) table: u64,
    /// All names in the store.
    pub(crate) names: Vec<String>,
}

impl Kept {
    /// Sorts what was in the store, for an owner of this port.
    pub(crate) fn sort(stored: Vec<(String, OwnedFd)>, port: u16) -> Self {
        let mut kept = Self { names: stored.iter().map(|(name, _)| name.clone()).collect(), ..Self::default() };
        let (mut tables, mut connections) = (BTreeMap::new(), BTreeMap::new());
        let of_port = |descriptor: &OwnedFd| {
            let bound = socket2::SockRef::from(descriptor).local_addr().ok();
            bound.and_then(|bound| bound.as_socket()).is_some_and(|bound| bound.port() == port)
        };
        for (name, descriptor) in stored {
            if let Some(number) = number(&name, TABLE) {
                tables.insert(number, File::from(descriptor));
            } else if name == LISTENER && is_listener(&descriptor) && of_port(&descriptor) {
                let listener = TcpListener::from(descriptor);
                if listener.set_nonblocking(true).is_ok() {
                    kept.listeners.push(listener);
                }
            } else if let Some(id) = number(&name, CONNECTION).filter(|_| of_port(&descriptor)) {
                connections.insert(id, descriptor);
            }
        }
        kept.table = tables.last_key_value().map_or(0, |(number, _)| *number);
        // The newest may have been begun and not completed.
        let newest = tables.values().rev().find_map(messages);
        kept.replica = newest.and_then(|messages| replay(messages, &mut connections));
        kept
    }
}

/// The number in a name in the store.
pub(crate) fn number(name: &str, before: &str) -> Option<u64> {
    name.strip_prefix(before)?.parse().ok()
}

/// What a table that is whole says.
fn messages(table: &File) -> Option<Vec<Message>> {
    let length = table.metadata().ok()?.len().min(LONGEST);
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    table.read_exact_at(&mut bytes, 0).ok()?;
    let mut rest = bytes.as_slice();
    match next(&mut rest)? {
        Some(Message::Hello(hello)) if hello.version <= VERSION => {}
        _ => return None,
    }
    let mut messages = Vec::new();
    while let Some(message) = next(&mut rest)? {
        messages.push(message);
    }
    messages.contains(&Message::Whole).then_some(messages)
}

/// The copy that comes of what was said.
fn replay(messages: Vec<Message>, connections: &mut BTreeMap<u64, OwnedFd>) -> Option<Replica> {
    let mut copy = Replica::default();
    for message in messages {
        let stored = match &message {
            Message::Entered(entered) if entered.connected => connections.remove(&entered.id),
            _ => None,
        };
        let connected = stored.and_then(|descriptor| connection(descriptor).ok());
        if !copying::follow(&mut copy, message, connected).ok()? {
            return None;
        }
    }
    Some(copy)
}

/// The next message; `Some(None)` at the end, which may be in the middle of one.
fn next(rest: &mut &[u8]) -> Option<Option<Message>> {
    let Some((bytes, length)) = message::frame(rest).ok()? else { return Some(None) };
    let message = Message::decode(bytes).ok()?;
    *rest = &rest[length..];
    Some(Some(message))
}
