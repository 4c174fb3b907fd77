//! What a member is started with, and why it cannot start.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::address::OpenError;
use crate::hand_over::HandOver;
use crate::health::Health;
use crate::journal::Journal;
use crate::limits::Limits;
use crate::server::Policy;
use crate::service_manager::ServiceManager;

/// What a member is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen. An empty list means all addresses, or those of the socket unit.
    pub addresses: Vec<IpAddr>,
    /// The port. With 0 the system chooses one, so other members cannot find it.
    pub port: u16,
    /// Whether this VM's node registers at `::1` (`-proto_dist inet6_tcp`). If so, `::1` is added to the addresses.
    pub inet6: bool,
    /// Who may ask what.
    pub policy: Policy,
    /// The limits of the server.
    pub limits: Limits,
    /// Which other members may stand by for this one, and whether this one does for another.
    pub hand_over: HandOver,
    /// What the service manager has passed.
    pub service_manager: ServiceManager,
    /// Where changes are recorded.
    pub journal: Journal,
    /// The health of this VM, as far as it is told.
    pub health: Health,
}

/// Why a member cannot start.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be listened on.
    Open(OpenError),
    /// The service manager passes listeners, and the settings contradict them.
    Lent(String),
    /// The port is held by something that is not an EPMD, or by one that does not answer.
    Held {
        /// The address that was asked.
        address: SocketAddr,
        /// How that failed.
        error: io::Error,
    },
    /// The system says that an address is in use, and nobody answers where its holder would be reached.
    Unanswered {
        /// The address that cannot be listened on.
        wanted: SocketAddr,
        /// The address that was asked.
        asked: SocketAddr,
        /// The addresses with listeners that are in the way, where the system tells.
        listening: Option<Vec<SocketAddr>>,
    },
    /// The port is held by something that answers lookups and ends each registration without an answer.
    NoRegistrations {
        /// The address that was asked.
        address: SocketAddr,
    },
}

/// Why a member does not listen on other addresses. It keeps those that it had.
#[derive(Debug)]
pub enum ListenError {
    /// An address cannot be listened on.
    Open(OpenError),
    /// The service manager passes listeners on other addresses.
    Lent(String),
    /// It was not done within this time; it may still be.
    Timeout(Duration),
    /// The member has stopped.
    Stopped,
}

impl std::error::Error for StartError {}

impl std::error::Error for ListenError {}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Lent(sentence) => f.write_str(sentence),
            Self::Held { address, error } => {
                write!(f, "{address} is in use by a program that does not answer as an EPMD: {error}; ")?;
                write_who(f, address.port())
            }
            Self::Unanswered { wanted, asked, listening } => {
                write!(f, "cannot listen on {wanted}: ")?;
                match listening.as_deref() {
                    Some([]) => {
                        f.write_str("the system refuses the port as in use, but no process listens there; ")?;
                        f.write_str(
                            "it may be reserved, held by a socket that does not listen, or under WSL be that of a ",
                        )?;
                        return f.write_str("program of Windows: choose another port (ERL_EPMD_PORT)");
                    }
                    Some(listening) => {
                        let listening: Vec<_> = listening.iter().map(ToString::to_string).collect();
                        write!(f, "{} is in use, and nobody answers at {asked}; ", listening.join(", "))?;
                        f.write_str("name the addresses to listen on (ERL_EPMD_ADDRESS), or ")?;
                    }
                    None => write!(f, "the system refuses the port as in use, and nobody answers at {asked}; ")?,
                }
                write_who(f, asked.port())
            }
            Self::NoRegistrations { address } => {
                write!(f, "{address} answers lookups, but takes no registrations from this host: ")?;
                f.write_str("it may be a port that is forwarded to a container or to another host, or have no descriptors left; ")?;
                write_who(f, address.port())
            }
        }
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Lent(sentence) => f.write_str(sentence),
            Self::Timeout(patience) => {
                write!(f, "the addresses were not applied within {patience:?}; they may still be")
            }
            Self::Stopped => f.write_str("the server has stopped"),
        }
    }
}

/// Writes how to see which process holds a port.
fn write_who(f: &mut fmt::Formatter<'_>, port: u16) -> fmt::Result {
    f.write_str("to see which one: ")?;
    if cfg!(target_os = "linux") {
        write!(f, "ss -ltnp 'sport = :{port}' (as root)")
    } else {
        write!(f, "lsof -nP -iTCP:{port} -sTCP:LISTEN (as root)")
    }
}
