//! The names that left the table, remembered so that a name that comes back gets another creation, and that people can
//! be told who has come and gone.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{SystemTime, UNIX_EPOCH};

use super::entry::Entry;
use super::life::Past;
use super::log::InvalidEntry;

/// How many names are remembered. OTP's daemon remembers as many.
pub(super) const MAX_TOMBSTONES: usize = 1000;
/// Creations 1 to 3 belong to nodes older than OTP 23, and 0 to a node that has none.
const SMALLEST_CREATION: u32 = 4;

/// The last registration of a name that left the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Its number; later ones have higher numbers.
    pub number: u64,
    /// The name.
    pub name: Box<[u8]>,
    /// Its last creation.
    pub creation: u32,
    /// Its last port.
    pub port: u16,
    /// The descriptor of its last connection; -1 if it had none.
    pub descriptor: i32,
    /// When it was registered and when it left.
    pub past: Past,
}

/// The tombstones of a table.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    by_number: BTreeMap<u64, Tombstone>,
    numbers: HashMap<Box<[u8]>, u64>,
    /// How many names have left in all.
    deletions: u64,
    /// Greater than every forgotten creation, so that a forgotten name gets a new one as well.
    min_creation: u32,
}

impl Tombstones {
    /// No tombstones yet, of a table from which this many names have left.
    pub(super) fn new(deletions: u64, min_creation: u32) -> Self {
        Self { deletions, min_creation, ..Self::default() }
    }

    pub(super) fn deletions(&self) -> u64 {
        self.deletions
    }

    pub(super) fn min_creation(&self) -> u32 {
        self.min_creation
    }

    /// A name comes back, or is new: its next creation, and its last registration.
    pub(super) fn exhume(&mut self, name: &[u8]) -> (u32, Option<Past>) {
        let last = self.numbers.remove(name).and_then(|number| self.by_number.remove(&number));
        let next = match &last {
            Some(last) => last.creation.wrapping_add(1),
            None => {
                self.forget_oldest();
                now().max(self.min_creation)
            }
        };
        (next.max(SMALLEST_CREATION), last.map(|last| last.past))
    }

    pub(super) fn bury(&mut self, entry: &Entry, past: Past) {
        self.deletions += 1;
        self.put(Tombstone {
            number: self.deletions,
            name: entry.name().into(),
            creation: entry.creation(),
            port: entry.port(),
            descriptor: entry.descriptor(),
            past,
        });
    }

    /// Adds one that another table has sent.
    pub(super) fn add(&mut self, tombstone: Tombstone) -> Result<(), InvalidEntry> {
        if tombstone.number > self.deletions || self.numbers.contains_key(&tombstone.name) {
            return Err(InvalidEntry("a name that left and cannot have left"));
        }
        self.put(tombstone);
        Ok(())
    }

    fn put(&mut self, tombstone: Tombstone) {
        self.numbers.insert(tombstone.name.clone(), tombstone.number);
        self.by_number.insert(tombstone.number, tombstone);
    }

    /// Forgets the names that left first, once there are too many. Like OTP's daemon, it does so when a new name comes.
    fn forget_oldest(&mut self) {
        while self.numbers.len() > MAX_TOMBSTONES {
            let Some((_, oldest)) = self.by_number.pop_first() else { break };
            self.numbers.remove(&oldest.name);
            self.min_creation = self.min_creation.max(oldest.creation.saturating_add(1));
        }
    }

    /// The first to leave first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Tombstone> {
        self.by_number.values()
    }

    /// Those with higher numbers than this.
    pub(super) fn after(&self, number: u64) -> impl Iterator<Item = &Tombstone> {
        self.by_number.range((Excluded(number), Unbounded)).map(|(_, tombstone)| tombstone)
    }
}

/// The first creation of a name: the time in seconds, so that it is greater than those of an earlier server.
fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}
