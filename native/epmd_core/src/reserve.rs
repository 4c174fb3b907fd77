//! Descriptors kept in reserve.

use std::fs::File;

use parking_lot::Mutex;

/// How many descriptors a server keeps in reserve.
const RESERVE: usize = 8;

/// A few descriptors kept open, to be freed when the process has no others: then lookups are still answered.
#[derive(Debug)]
pub(crate) struct Reserve {
    kept: Mutex<Vec<File>>,
    size: usize,
}

impl Reserve {
    /// The reserve of a server.
    pub(crate) fn new() -> Self {
        Self::with_size(RESERVE)
    }

    /// A reserve of this size, or smaller if the process has fewer descriptors left.
    pub(crate) fn with_size(size: usize) -> Self {
        let reserve = Self { kept: Mutex::default(), size };
        reserve.restore();
        reserve
    }

    /// Fills the reserve again, as far as the process has descriptors left.
    pub(crate) fn restore(&self) {
        let mut kept = self.kept.lock();
        while kept.len() < self.size {
            let Ok(file) = File::open("/dev/null") else { return };
            kept.push(file);
        }
    }

    /// Whether the reserve is full, after filling it again.
    pub(crate) fn is_whole(&self) -> bool {
        self.missing() == 0
    }

    /// How many it lacks, after filling it again.
    pub(crate) fn missing(&self) -> usize {
        self.restore();
        self.size - self.kept.lock().len()
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_spent(&self) -> bool {
        self.kept.lock().is_empty()
    }

    /// Frees a descriptor for the next accept; false if all of them are gone.
    pub(crate) fn give_up(&self) -> bool {
        self.kept.lock().pop().is_some()
    }
}
