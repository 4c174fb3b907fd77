//! Limits how many members stand by at one time.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::settings::HandOver;

/// The permits to stand by, and how many there are in all.
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
