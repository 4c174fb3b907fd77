//! An EPMD server: the Erlang Port Mapper, which maps the names of the Erlang nodes of a host to their ports.
//!
//! Data flows one way: bytes, request, access, registry, reply. The crate is built in floors; each uses those below it,
//! and none above:
//!
//! | floor | what it is |
//! |---|---|
//! | `member` | one process among those of a host: it serves the port or joins whoever does, and changes over |
//! | `server` | accepts, and takes each connection from its bytes to its reply |
//! | `hand_over` | an owner's sockets and table, on their way to a standby |
//! | [`registry`] | the table of registered nodes, and its copy |
//! | `service_manager` | what systemd passes to the process |
//! | `address`, `journal`, `metrics`, `reserve`, `backoff` | listeners, the record of changes, counters, spare descriptors, pauses |
//! | [`protocol`], `node`, `role`, `limits`, `os` | the ground: bytes and words, no I/O but in `os` |
//!
//! Nothing here knows of Erlang terms; `epmd_nif` puts this crate into a VM.

mod address;
mod backoff;
mod hand_over;
mod journal;
mod limits;
mod member;
mod metrics;
mod node;
mod os;
pub mod protocol;
pub mod registry;
mod reserve;
mod role;
mod server;
mod service_manager;

pub use address::{parse_addresses, Listeners, OpenError};
#[cfg(any(fuzzing, test))]
pub use hand_over::fuzzing;
pub use hand_over::{HandOver, Standby, Trusted};
pub use journal::{Change, Journal, Observer};
pub use limits::Limits;
pub use member::{
    Answer, Handle, Keeps, ListenError, Member, RegisterError, Settings, Snapshot, StartError, Status, Table,
};
pub use metrics::{Counter, Metrics};
pub use node::{InvalidName, Node, NodeName};
#[cfg(feature = "simulation")]
pub use os::act_as_bsd;
pub use role::Role;
pub use server::{serve, Network, Open, Policy};
pub use service_manager::ServiceManager;
