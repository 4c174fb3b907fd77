//! Descriptors kept in reserve.

use std::fs::File;

use parking_lot::Mutex;

/// Descriptors kept for look-ups.
const RESERVE: usize = 8;

/// A few descriptors kept for the time when the process has no others: with them, look-ups are answered.
#[derive(Debug)]
pub(crate) struct Reserve {
    kept: Mutex<Vec<File>>,
    size: usize,
}

impl Reserve {
    /// What a server keeps.
    pub(crate) fn new() -> Self {
        Self::of(RESERVE)
    }

    /// A reserve of this size, or of what is left.
    pub(crate) fn of(size: usize) -> Self {
        let reserve = Self { kept: Mutex::default(), size };
        reserve.restore();
        reserve
    }

    /// Takes back what is missing, as far as there is any.
    pub(crate) fn restore(&self) {
        let mut kept = self.kept.lock();
        while kept.len() < self.size {
            let Ok(file) = File::open("/dev/null") else { return };
            kept.push(file);
        }
    }

    /// Whether descriptors are left beside those in use.
    pub(crate) fn is_whole(&self) -> bool {
        self.restore();
        self.kept.lock().len() == self.size
    }

    /// Frees a descriptor for the next accept; false if all of them are gone.
    pub(crate) fn give_up(&self) -> bool {
        self.kept.lock().pop().is_some()
    }
}
