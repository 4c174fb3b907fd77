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
use crate::address::{is_listener, port_of};
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
    pub(crate) stored: Stored,
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
        let (mut tables, mut connections) = (BTreeMap::new(), BTreeMap::new());
        let of_port = |descriptor: &OwnedFd| port_of(descriptor) == Some(port);
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
        // The newest may have been begun and not completed.
        if let Some((table, file, said)) = tables.into_iter().rev().find_map(whole) {
            kept.replica = replay(said.messages, &mut connections);
            kept.stored.table = table;
            kept.stored.log = Some((file, said.length));
        }
        kept
    }
}

/// The number in a name in the store.
pub(crate) fn number(name: &str, before: &str) -> Option<u64> {
    name.strip_prefix(before)?.parse().ok()
}

/// What a log says.
struct Said {
    /// Of the last table in it that is whole.
    messages: Vec<Message>,
    /// The length of all messages. The last may have been cut off.
    length: u64,
}

/// What a log says, if it has a whole table.
fn whole((number, log): (u64, File)) -> Option<(u64, File, Said)> {
    let length = log.metadata().ok()?.len().min(LONGEST);
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    log.read_exact_at(&mut bytes, 0).ok()?;
    let (mut rest, mut messages) = (bytes.as_slice(), Vec::new());
    while let Some(message) = next(&mut rest)? {
        if matches!(&message, Message::Hello(hello) if hello.version > VERSION) {
            return None;
        }
        messages.push(message);
    }
    // Each owner begins anew in it; one that was just about to has told less than the one before.
    let end = messages.iter().rposition(|message| *message == Message::Whole)?;
    let after = messages[end..].iter().position(|message| matches!(message, Message::Hello(_)));
    messages.truncate(after.map_or(messages.len(), |after| end + after));
    let begin = messages.iter().rposition(|message| matches!(message, Message::Hello(_)))?;
    messages.drain(..=begin);
    Some((number, log, Said { messages, length: length - rest.len() as u64 }))
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
