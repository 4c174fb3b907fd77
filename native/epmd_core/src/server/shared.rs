//! What all connections of a server share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::access::Policy;
use super::connections::Connections;
use super::probe::Examine;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::node::NodeName;
use crate::registry::Registry;
use crate::reserve::Reserve;
use crate::reserved_names::{self, Kernel};
use crate::users::own_user;

/// A peer that has waited for less than this may be about to send its request. It is not closed while a reserve is
/// left.
const JUST_CAME: Duration = Duration::from_millis(20);

/// The settings that can be changed while a server runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    pub(crate) limits: Limits,
}

/// What all connections of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) settings: Arc<RwLock<Rules>>,
    pub(crate) connections: Connections,
    pub(crate) reserve: Reserve,
    pub(crate) kernel: Kernel,
    /// Whether it was logged that there is no room for more nodes.
    pub(crate) full: AtomicBool,
    /// Where names go at which other members wait to be called, if there is a handover.
    pub(crate) meetings: Option<mpsc::Sender<[u8; 16]>>,
    /// Who knows what probes ask for, if this server is a member's.
    pub(crate) examiner: Option<Arc<dyn Examine>>,
    pub(crate) port: u16,
    /// Logs once that the listing was refused to a remote peer.
    pub(crate) listing_refused: Once,
}

impl Shared {
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.connections.metrics
    }

    /// Passes on the name of a member that waits to be called. Returns whether it will be called, now or when it asks
    /// again: others cannot keep it from that by asking, too.
    pub(crate) fn meet(&self, name: [u8; 16]) -> bool {
        self.meetings.as_ref().is_some_and(|meetings| !matches!(meetings.try_send(name), Err(TrySendError::Closed(_))))
    }

    pub(crate) fn limits(&self) -> Limits {
        self.settings.read().limits.clone()
    }

    /// While the process has no other descriptors left, those that wait give way until the reserve is full again. To be
    /// called when another waits.
    pub(crate) fn refill_reserve(&self) {
        let missing = self.reserve.missing();
        let closed = (0..missing).take_while(|_| self.connections.close_waiting(JUST_CAME)).count();
        if closed == 0 && missing > 0 && self.reserve.is_spent() && self.connections.open().waiting > 1 {
            self.connections.close_waiting(Duration::ZERO);
        }
    }

    /// Why there is no room for another node in this server's share of descriptors, if there is none. Nodes of other users
    /// leave a part of it to those of this process's user, and to names that are reserved. Logs once when it is used up,
    /// and again only after some nodes have gone.
    pub(crate) fn lacks_room_for(&self, name: &NodeName, user: Option<u32>) -> Option<&'static str> {
        let rules = self.settings.read();
        let (descriptors, own) = (rules.limits.descriptors(), own_user());
        let is_stranger = reserved_names::ARE_TOLD && user != Some(own) && !rules.policy.reserved_names.reserve(name);
        drop(rules);
        let (nodes, most) = (self.connections.open().registered, Limits::for_nodes(descriptors));
        if nodes >= most {
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    nodes,
                    descriptors,
                    "no more nodes can register: those that have use up this server's share of the VM's descriptors"
                );
            }
            return Some("this VM's share of descriptors is used up");
        }
        if nodes < most - most / 8 {
            self.full.store(false, Ordering::Relaxed);
        }
        let is_over = is_stranger && self.registry.of_others(own) >= Limits::for_strangers(descriptors);
        is_over.then_some("the nodes of other users have their part of this VM's share of descriptors")
    }
}
