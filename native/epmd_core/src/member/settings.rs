//! What a member is started with, and why it cannot start.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::address::OpenError;
use crate::hand_over::HandOver;
use crate::journal::Journal;
use crate::limits::Limits;
use crate::server::Policy;

/// What a member is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen; nothing means everywhere.
    pub addresses: Vec<IpAddr>,
    /// The port. With 0 the system chooses one, and nobody else can find it.
    pub port: u16,
    /// Who may ask what.
    pub policy: Policy,
    /// How much of the process the server may use.
    pub limits: Limits,
    /// Which other members may stand by for this one, and whether this one does for another.
    pub hand_over: HandOver,
    /// Where changes are recorded.
    pub journal: Journal,
}

/// Why a member cannot start.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be listened on.
    Open(OpenError),
    /// The port is held by something that is not an EPMD, or by one that does not answer.
    Held {
        /// Where it was asked.
        address: SocketAddr,
        /// What it answered.
        error: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Held { address, error } => {
                write!(f, "{address} is in use by something that does not answer as an EPMD: {error}")
            }
        }
    }
}
