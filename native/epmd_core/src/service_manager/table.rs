//! A table in the store: a log of messages of the handover, in a file in memory, to which its owner appends until it
//! ends, however it does.

use std::fs::File;
use std::io;

use rustix::fd::OwnedFd;

use crate::hand_over::message::{self, Message};
use crate::hand_over::{Hello, VERSION};
use crate::os;
use crate::registry::log::LogEntry;
use crate::registry::{Incoming, Registry};

/// How long the log may become beyond twice the length of the table with which it began; bytes.
const GROWTH: u64 = 1 << 18;
/// The most that is read of a log; bytes.
const LONGEST: u64 = 1 << 30;

/// The log, and how far it is written.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    /// The length of the table with which it began, and of everything.
    first: u64,
    length: u64,
}

/// A table as its owner has written it.
#[derive(Debug)]
pub(super) struct Table {
    owner: Hello,
    entries: Vec<LogEntry>,
}

impl Log {
    /// An empty one.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { file: os::memory_file("epmd-table")?, first: 0, length: 0 })
    }

    /// A log as its owner has left it, and the last table in it that is whole. The last message may have been cut off.
    pub(super) fn read(descriptor: OwnedFd) -> Option<(Self, Table)> {
        let file = os::file_of(descriptor).ok()?;
        let length = file.metadata().ok()?.len().min(LONGEST);
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        os::read_exact_at(&file, &mut bytes, 0).ok()?;
        let (mut rest, mut tables) = (bytes.as_slice(), Vec::<Table>::new());
        while let Some(message) = next(&mut rest)? {
            match message {
                Message::Hello(owner) if owner.version <= VERSION => tables.push(Table { owner, entries: Vec::new() }),
                Message::Log(entry) => tables.last_mut()?.entries.push(entry),
                _ => return None,
            }
        }
        // Each owner begins anew in it; one that was just about to has told less than the one before.
        let table = tables.into_iter().rfind(|table| table.entries.contains(&LogEntry::InSync))?;
        Some((Self { file, first: 0, length: length - rest.len() as u64 }, table))
    }

    /// Another descriptor of it.
    pub(super) fn copy(&self) -> io::Result<OwnedFd> {
        os::descriptor_of(self.file.try_clone()?)
    }

    /// Appends a whole table.
    pub(super) fn begin(&mut self, table: &[u8]) -> io::Result<()> {
        self.first = table.len() as u64;
        self.append(table)
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        os::write_all_at(&self.file, bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Whether another should take its place.
    pub(super) fn is_long(&self) -> bool {
        self.length > 2 * self.first + GROWTH
    }
}

impl Table {
    /// Makes the registry a replica of it.
    pub(super) fn replay(self, registry: &Registry) -> Option<()> {
        let mut entries = self.entries.into_iter();
        let Some(LogEntry::Begin { epoch, refusals }) = entries.next() else { return None };
        let mut incoming = Incoming::new(epoch, refusals);
        for entry in entries.by_ref().take_while(|entry| *entry != LogEntry::InSync) {
            registry.build(&mut incoming, entry).ok()?;
        }
        registry.replace(incoming, &self.owner.addresses);
        entries.try_for_each(|entry| registry.follow(entry).ok())?;
        registry.follow(LogEntry::Settled).ok()
    }
}

/// The next message; `Some(None)` at the end, which may be in the middle of one.
fn next(rest: &mut &[u8]) -> Option<Option<Message>> {
    let Some((bytes, length)) = message::frame(rest).ok()? else { return Some(None) };
    let message = Message::decode(bytes).ok()?;
    *rest = &rest[length..];
    Some(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of a log with this table in it.
    fn read(owner: Hello) -> Option<Table> {
        let mut log = Log::new().expect("a file in memory");
        let entries = [LogEntry::Begin { epoch: 7, refusals: 0 }, LogEntry::InSync];
        let messages = [Message::Hello(owner)].into_iter().chain(entries.map(Message::Log));
        log.begin(&messages.flat_map(|message| message.encode()).collect::<Vec<_>>()).expect("room");
        log.append(&Message::Alive.encode()[..1]).expect("room");
        let (read, table) = Log::read(log.copy().expect("a descriptor"))?;
        assert_eq!(read.length + 1, log.length, "the last message was cut off");
        Some(table)
    }

    #[test]
    fn a_table_of_a_later_version_is_not_read() {
        let owner = Hello::new(vec![[127, 0, 0, 1].into()], None);
        let table = read(owner.clone()).expect("a whole table");
        assert_eq!((&table.owner, table.entries.len()), (&owner, 2));
        assert!(read(Hello { version: VERSION + 1, ..owner }).is_none());
    }
}
