//! A set of registered nodes, by name and by age.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::entry::{ByName, Entry};
use super::log::InvalidEntry;

/// Registered nodes, each found by its name and by the number of its registration.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    by_name: HashSet<ByName>,
    by_id: BTreeMap<u64, Arc<Entry>>,
    /// How many each user has.
    of_users: HashMap<Option<u32>, usize>,
}

impl Nodes {
    /// Adds a registration that is newer than all others.
    pub(super) fn insert(&mut self, entry: &Arc<Entry>) -> Result<(), InvalidEntry> {
        let is_newest = self.by_id.last_key_value().is_none_or(|(last, _)| *last < entry.id());
        if !is_newest || !self.by_name.insert(ByName(Arc::clone(entry))) {
            return Err(InvalidEntry("a registration that is there already"));
        }
        self.by_id.insert(entry.id(), Arc::clone(entry));
        *self.of_users.entry(entry.user()).or_default() += 1;
        Ok(())
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Arc<Entry>> {
        let entry = self.by_id.remove(&id)?;
        self.by_name.remove(entry.name());
        if let Some(count) = self.of_users.get_mut(&entry.user()) {
            *count -= 1;
            if *count == 0 {
                self.of_users.remove(&entry.user());
            }
        }
        Some(entry)
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<&Arc<Entry>> {
        self.by_name.get(name).map(|ByName(entry)| entry)
    }

    pub(super) fn get(&self, id: u64) -> Option<&Arc<Entry>> {
        self.by_id.get(&id)
    }

    /// The oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Entry>> {
        self.by_id.values()
    }

    /// How many other users have, and those who are not known.
    pub(super) fn of_others(&self, user: u32) -> usize {
        self.len() - self.of_users.get(&Some(user)).copied().unwrap_or(0)
    }

    /// Those with smaller numbers than this, the newest first.
    pub(super) fn before(&self, id: u64) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_id.range(..id).rev().map(|(_, entry)| entry)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}
