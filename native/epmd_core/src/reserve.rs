//! Descriptors kept in reserve.

use std::fs::File;

use parking_lot::Mutex;

/// Descriptors kept for look-ups.
const RESERVE: usize = 8;

/// A few descriptors kept for the time when the process has no others: with them, look-ups are answered.
#[derive(Debug)]
pub(crate) struct Reserve(Mutex<Vec<File>>);

impl Reserve {
    pub(crate) fn new() -> Self {
        let reserve = Self(Mutex::default());
        reserve.restore();
        reserve
    }

    /// Takes back what is missing, as far as there is any.
    pub(crate) fn restore(&self) {
        let mut kept = self.0.lock();
        while kept.len() < RESERVE {
            let Ok(file) = File::open("/dev/null") else { return };
            kept.push(file);
        }
    }

    /// Whether descriptors are left beside those in use.
    pub(crate) fn is_whole(&self) -> bool {
        self.restore();
        self.0.lock().len() == RESERVE
    }

    /// Frees a descriptor for the next accept; false if all of them are gone.
    pub(crate) fn give_up(&self) -> bool {
        self.0.lock().pop().is_some()
    }
}
