//! What all connections of a server share.

use std::sync::Arc;

use parking_lot::RwLock;

use super::access::Policy;
use super::connections::Connections;
use super::listing::Listings;
use crate::figures::Figures;
use crate::hand_over::Passing;
use crate::limits::Limits;
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
    pub(crate) passing: Passing,
    pub(crate) port: u16,
}

impl Shared {
    pub(crate) fn figures(&self) -> &Figures {
        &self.connections.figures
    }

    pub(crate) fn limits(&self) -> Limits {
        self.settings.read().limits.clone()
    }
}
