//! How many may stand by at one time.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::settings::HandOver;

/// Those that may stand by at one time.
#[derive(Clone, Debug)]
pub(super) struct Permits {
    pub(super) semaphore: Arc<Semaphore>,
    pub(super) count: u32,
}

impl Permits {
    pub(super) fn of(settings: &HandOver) -> Self {
        let count = settings.standbys.max(1);
        Self { semaphore: Arc::new(Semaphore::new(count as usize)), count }
    }
}
