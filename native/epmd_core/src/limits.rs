//! How much of the process a server may use.

use std::time::Duration;

/// How much of the process one server may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time from a connection to the end of its reply; registered nodes stay.
    pub deadline: Duration,
    /// Connections that wait for their request or reply.
    pub waiting: usize,
    /// Of these, connections from one remote address.
    pub waiting_per_source: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10), waiting: 256, waiting_per_source: 32 }
    }
}
