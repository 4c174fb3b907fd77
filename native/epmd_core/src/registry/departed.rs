//! The names that left the table.

use std::collections::{BTreeMap, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

/// How many names are remembered after they left, with their creations. OTP's daemon remembers as many.
pub(super) const MAX_DEPARTED: usize = 1000;
/// Creations 1 to 3 belong to nodes older than OTP 23, and 0 to a node that has none.
const SMALLEST_CREATION: u32 = 4;

/// A name that left the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DepartedName {
    /// The name.
    pub name: Box<[u8]>,
    /// Its last port.
    pub port: u16,
    /// The descriptor of its last connection.
    pub descriptor: i32,
}

/// Names that left. A name that comes back gets the creation after its last one.
#[derive(Debug, Default)]
pub(super) struct Departed {
    pub(super) names: HashMap<Box<[u8]>, LastRegistration>,
    /// By number, so in the order of leaving.
    pub(super) order: BTreeMap<u64, Box<[u8]>>,
    pub(super) leaves: u64,
    /// Greater than every forgotten creation, so that a forgotten name gets a new one as well.
    pub(super) floor: u32,
}

/// The last registration of a name that left, and the number of its leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastRegistration {
    pub(super) number: u64,
    pub(super) creation: u32,
    pub(super) port: u16,
    pub(super) descriptor: i32,
}

impl Departed {
    pub(super) fn next_creation(&mut self, name: &[u8]) -> u32 {
        let next = match self.forget(name) {
            Some(left) => left.creation.wrapping_add(1),
            None => {
                self.make_room();
                now().max(self.floor)
            }
        };
        next.max(SMALLEST_CREATION)
    }

    pub(super) fn remember(&mut self, name: &[u8], creation: u32, port: u16, descriptor: i32) {
        self.leaves += 1;
        self.put(name, LastRegistration { number: self.leaves, creation, port, descriptor });
    }

    pub(super) fn put(&mut self, name: &[u8], left: LastRegistration) {
        self.order.insert(left.number, name.into());
        self.names.insert(name.into(), left);
    }

    fn forget(&mut self, name: &[u8]) -> Option<LastRegistration> {
        let left = self.names.remove(name)?;
        self.order.remove(&left.number);
        Some(left)
    }

    /// Forgets the names that left first, once there are too many. Like OTP's daemon, it does so when a new name comes.
    fn make_room(&mut self) {
        while self.names.len() > MAX_DEPARTED {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some(left) = self.names.remove(&oldest) {
                self.floor = self.floor.max(left.creation.saturating_add(1));
            }
        }
    }

    pub(super) fn names(&self) -> Vec<DepartedName> {
        let left = |name: &[u8]| {
            let left = self.names.get(name)?;
            Some(DepartedName { name: name.into(), port: left.port, descriptor: left.descriptor })
        };
        self.order.values().filter_map(|name| left(name)).collect()
    }
}

/// The first creation of a name: the time in seconds, so that it is greater than those of an earlier server.
fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}
