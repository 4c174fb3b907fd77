//! How many may stand by at one time.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::settings::HandOver;

/// Those that may stand by at one time.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    pub(super) semaphore: Arc<Semaphore>,
    pub(super) number: u32,
}

impl Turns {
    pub(super) fn of(settings: &HandOver) -> Self {
        let number = settings.standbys.max(1);
        Self { semaphore: Arc::new(Semaphore::new(number as usize)), number }
    }
}
