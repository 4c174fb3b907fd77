//! The nodes that observers know of from an earlier table or copy, so that they are only told of real changes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::entry::{ByName, Entry};
use crate::journal::Journal;

/// Nodes that observers know of, and that the new table has not confirmed yet.
#[derive(Debug, Default)]
pub(crate) struct Unconfirmed {
    names: HashSet<ByName>,
}

impl Unconfirmed {
    pub(super) fn of(entries: impl IntoIterator<Item = Arc<Entry>>) -> Self {
        Self { names: entries.into_iter().map(ByName).collect() }
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

    /// The unconfirmed nodes, the oldest registration first.
    pub(super) fn by_age(&self) -> impl DoubleEndedIterator<Item = Arc<Entry>> {
        let by_age: BTreeMap<_, _> = self.names.iter().map(|ByName(entry)| (entry.id(), Arc::clone(entry))).collect();
        by_age.into_values()
    }
}
