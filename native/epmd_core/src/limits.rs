//! How much of the process a server may use.

use std::time::Duration;

use crate::os;

/// Of a server's share of the descriptors, those that only connections which wait may have: with nodes alone in the
/// share, nobody could ask for them.
const FOR_WAITING: usize = 8;

/// How much of the process one server may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time from a connection to the end of its reply; registered nodes stay.
    pub deadline: Duration,
    /// Connections that wait for their request or reply.
    pub waiting: usize,
    /// Of these, connections from one remote address.
    pub waiting_per_source: usize,
    /// The share of the process's descriptors, in percent, that registered nodes and connections which wait may have
    /// together. The rest is for whom the process is there.
    pub descriptor_share: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10), waiting: 256, waiting_per_source: 32, descriptor_share: 40 }
    }
}

impl Limits {
    /// The descriptors that registered nodes and connections which wait may have together, at this moment.
    pub fn descriptors(&self) -> usize {
        self.share_of(os::descriptor_limit())
    }

    /// How many of these descriptors registered nodes may have.
    pub(crate) fn for_nodes(descriptors: usize) -> usize {
        descriptors - FOR_WAITING.min(descriptors / 4)
    }

    /// How many connections may wait beside so many nodes.
    pub(crate) fn for_waiting(&self, descriptors: usize, nodes: usize) -> usize {
        self.waiting.min(descriptors.saturating_sub(nodes)).max(1)
    }

    fn share_of(&self, limit: usize) -> usize {
        // Divided first: a limit may be near the largest number.
        limit / 100 * usize::from(self.descriptor_share) + limit % 100 * usize::from(self.descriptor_share) / 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_one_of_whatever_limit() {
        let share = |percent, limit| Limits { descriptor_share: percent, ..Limits::default() }.share_of(limit);
        assert_eq!(share(40, 1024), 409);
        assert_eq!(share(95, 256), 243);
        assert_eq!(share(1, 10), 0);
        assert_eq!(share(100, usize::MAX), usize::MAX);
    }

    #[test]
    fn nodes_leave_room_for_those_who_ask_for_them() {
        assert_eq!(Limits::for_nodes(409), 401);
        assert_eq!(Limits::for_nodes(8), 6);
        let limits = Limits::default();
        assert_eq!(limits.for_waiting(409, 401), 8);
        assert_eq!(limits.for_waiting(409, 10), 256);
        assert_eq!(limits.for_waiting(409, 500), 1);
    }
}
