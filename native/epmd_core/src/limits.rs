//! The limits of a server.

use std::time::Duration;

use crate::os;

/// Descriptors of a server's share that nodes may not have. If nodes took all, no client could connect to look them up.
const FOR_WAITING: usize = 8;

/// How many connections and descriptors one server may use, and how long a request may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time from accepting a connection to the end of its reply. It does not apply to registered nodes.
    pub deadline: Duration,
    /// How many connections may wait for their request or reply at one time.
    pub waiting: usize,
    /// How many of these may come from one remote source, an IPv4 address or a network of IPv6 (/64). Those of this host
    /// are not limited.
    pub waiting_per_source: usize,
    /// The share of the process's descriptors, in percent, that registered nodes and waiting connections may have
    /// together. The rest is left to the application.
    pub descriptor_share: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10), waiting: 256, waiting_per_source: 32, descriptor_share: 40 }
    }
}

impl Limits {
    /// How many descriptors registered nodes and waiting connections may have together, by the process's current limit.
    pub fn descriptors(&self) -> usize {
        self.share_of(os::descriptor_limit())
    }

    /// How many of these descriptors registered nodes may have.
    pub(crate) fn for_nodes(descriptors: usize) -> usize {
        descriptors - FOR_WAITING.min(descriptors / 4)
    }

    /// How many of these the nodes of other users may have. The rest is kept for the nodes of this process's user, and
    /// for names that are reserved.
    pub(crate) fn for_strangers(descriptors: usize) -> usize {
        let nodes = Self::for_nodes(descriptors);
        nodes - nodes / 4
    }

    /// How many connections may wait beside this number of nodes.
    pub(crate) fn for_waiting(&self, descriptors: usize, nodes: usize) -> usize {
        self.waiting.min(descriptors.saturating_sub(nodes)).max(1)
    }

    fn share_of(&self, limit: usize) -> usize {
        // Divided first: a limit may be near `usize::MAX`.
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
        assert_eq!(Limits::for_strangers(409), 301);
        let limits = Limits::default();
        assert_eq!(limits.for_waiting(409, 401), 8);
        assert_eq!(limits.for_waiting(409, 10), 256);
        assert_eq!(limits.for_waiting(409, 500), 1);
    }
}
