//! What all connections of a server share.

use std::sync::{Arc, Once};

use parking_lot::RwLock;

use super::access::Policy;
use super::connections::Connections;
use super::listing::Listings;
use crate::hand_over::Replication;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::reserve::Reserve;

/// What can be changed while a server runs.
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
    pub(crate) listings: Listings,
    pub(crate) reserve: Reserve,
    /// To whoever stands by for this server.
    pub(crate) replication: Replication,
    pub(crate) port: u16,
    /// That the listing was refused to a remote peer is told once.
    pub(crate) listing_refused: Once,
}

impl Shared {
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.connections.metrics
    }

    pub(crate) fn limits(&self) -> Limits {
        self.settings.read().limits.clone()
    }
}
