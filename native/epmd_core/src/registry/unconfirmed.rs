//! What observers were told before a table or its copy was had anew, so that they are told what has really changed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::entry::{ByName, Entry};
use crate::journal::Journal;

/// Nodes that were told of, and of which the table has not said yet whether they are still there.
#[derive(Debug, Default)]
pub(crate) struct Unconfirmed {
    names: HashSet<ByName>,
}

impl Unconfirmed {
    pub(super) fn of(entries: impl IntoIterator<Item = Arc<Entry>>) -> Self {
        Self { names: entries.into_iter().map(ByName).collect() }
    }

    /// A node is in the table: records what is new of it.
    pub(super) fn registered(&mut self, entry: &Entry, journal: &Journal) {
        match self.names.take(entry.name()) {
            Some(ByName(known)) if known.is_same(entry) => return,
            Some(ByName(known)) => journal.record(|| known.unregistered()),
            None => {}
        }
        journal.record(|| entry.registered());
    }

    /// Every node that is still there is in the table: records the end of the others.
    pub(super) fn settled(&mut self, journal: &Journal) {
        let gone = std::mem::take(self);
        gone.by_age().for_each(|entry| journal.record(|| entry.unregistered()));
    }

    /// The nodes that the table has not told of yet, the oldest registration first.
    pub(super) fn by_age(&self) -> impl DoubleEndedIterator<Item = Arc<Entry>> {
        let by_age: BTreeMap<_, _> = self.names.iter().map(|ByName(entry)| (entry.id(), Arc::clone(entry))).collect();
        by_age.into_values()
    }
}
