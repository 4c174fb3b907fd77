//! The nodes that observers know of from an earlier table, so that they are only told of real changes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::entry::{ByName, Entry};
use crate::journal::Journal;

/// Nodes that observers know of, and that the new table has not confirmed yet.
#[derive(Debug, Default)]
pub(super) struct Provisional {
    names: HashSet<ByName>,
}

impl Provisional {
    pub(super) fn add(&mut self, entry: &Arc<Entry>) {
        self.names.insert(ByName(Arc::clone(entry)));
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<&Arc<Entry>> {
        self.names.get(name).map(|ByName(entry)| entry)
    }

    /// A node is in the new table: records it, unless observers know it as it is.
    pub(super) fn registered(&mut self, entry: &Entry, journal: &Journal) {
        match self.names.take(entry.name()) {
            Some(ByName(known)) if known.is_same(entry) => return,
            Some(ByName(known)) => journal.record(|| known.unregistered()),
            None => {}
        }
        journal.record(|| entry.registered());
    }

    /// The new table is complete: records the end of the nodes that it did not confirm.
    pub(super) fn settled(&mut self, journal: &Journal) {
        let gone = std::mem::take(self);
        gone.by_age().for_each(|entry| journal.record(|| entry.unregistered()));
    }

    /// The oldest registration first.
    pub(super) fn by_age(&self) -> impl DoubleEndedIterator<Item = Arc<Entry>> {
        let by_age: BTreeMap<_, _> = self.names.iter().map(|ByName(entry)| (entry.id(), Arc::clone(entry))).collect();
        by_age.into_values()
    }
}
