//! What keeps a member from standing by, or others from standing by for it, for whoever asks.

use std::sync::Arc;

use parking_lot::Mutex;

/// The obstacle that was met last, as a clause; nothing while there is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Obstacle(Arc<Mutex<Option<String>>>);

impl Obstacle {
    pub(super) fn set(&self, why: &str) {
        *self.0.lock() = Some(why.into());
    }

    pub(super) fn clear(&self) {
        *self.0.lock() = None;
    }

    pub(crate) fn get(&self) -> Option<String> {
        self.0.lock().clone()
    }
}
