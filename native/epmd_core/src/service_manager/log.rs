//! A table as a log of messages of the hand-over, in a file in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The log, and how far it is written.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) file: Option<File>,
    /// The length of the table when it began, and of everything.
    pub(super) first: u64,
    pub(super) length: u64,
}

impl Log {
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.write_all_at(bytes, self.length)?;
            self.length += bytes.len() as u64;
        }
        Ok(())
    }
}
