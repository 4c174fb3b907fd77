//! An EPMD server: the Erlang Port Mapper, which maps the names of the Erlang nodes of a host to their ports.
//!
//! Data flows one way: bytes, request, access, registry, reply. The crate is built in layers. Each uses the layers
//! below it, and none above:
//!
//! | layer | what it does |
//! |---|---|
//! | `member` | one process of a host: serves the port or joins the process that does, and takes over when that ends |
//! | `server` | accepts connections, reads their requests and replies |
//! | `service_manager` | sockets that systemd passes to this process, and what its descriptor store keeps |
//! | `hand_over` | passes an owner's sockets and table to its standbys |
//! | [`registry`] | the table of registered nodes, or a replica of it |
//! | `owners` | names that belong to users; whose a connection is |
//! | `address`, `journal`, `metrics`, `reserve`, `backoff` | listeners, changes, counters, spare descriptors, pauses |
//! | [`protocol`], `node`, `role`, `limits`, `users`, `os` | the ground: bytes and words, no I/O but in `users` and `os` |
//!
//! This crate knows no Erlang terms; `epmd_nif` puts it into a VM.

mod address;
mod backoff;
mod hand_over;
mod journal;
mod limits;
mod member;
mod metrics;
mod node;
mod os;
mod owners;
pub mod protocol;
pub mod registry;
mod reserve;
mod role;
mod server;
mod service_manager;
mod users;

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
pub use owners::Owners;
pub use role::Role;
pub use server::{serve, Network, Open, Policy};
pub use service_manager::ServiceManager;
pub use users::{own_user, user};
