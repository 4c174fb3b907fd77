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
//! | `reserved_names` | names that belong to users; whose a connection is |
//! | `address`, `health`, `journal`, `metrics`, `reserve`, `backoff` | listeners, the VM's health, changes, counters, spare descriptors, pauses |
//! | [`protocol`], `node`, `role`, `limits`, `users`, `os` | the ground: bytes and words, no I/O but in `users` and `os` |
//!
//! Words that are used throughout:
//!
//! | word | meaning |
//! |---|---|
//! | member | this library in one VM: an owner, or a process that has joined one |
//! | owner | the member, or another EPMD, that serves the port |
//! | follower | a member that has joined an owner and holds a replica of its table |
//! | standby | a follower that also has the owner's listeners and connections, and serves next |
//! | replica | a follower's table, kept up to date by the owner; its first transfer is a snapshot |
//! | log entry | one change of the table, as it is sent to followers |
//! | in sync | has received the whole snapshot and every later entry |
//! | tombstone | a name that has left, remembered so that its next creation differs |
//! | grace period | the time in which nodes of the last owner may register again; then the table has settled |
//! | epoch | the time in which one table goes on under one owner; numbers count within it |
//!
//! This crate knows no Erlang terms; `epmd_nif` puts it into a VM.

mod address;
mod backoff;
#[cfg(test)]
mod explore;
mod hand_over;
mod health;
mod journal;
mod limits;
mod member;
mod metrics;
mod node;
mod os;
pub mod protocol;
pub mod registry;
mod reserve;
mod reserved_names;
mod role;
mod server;
mod service_manager;
mod users;

pub use address::{parse_addresses, Listeners, OpenError};
pub use hand_over::{HandOver, Standby, Trusted};
pub use health::{Ask, Health};
pub use journal::{Change, Journal, Observer};
pub use limits::Limits;
pub use member::{
    Answer, Handle, Keeps, ListenError, Member, RegisterError, Settings, Snapshot, StartError, Status, Table,
};
pub use metrics::{Counter, Metrics};
pub use node::{InvalidName, Node, NodeName};
#[cfg(feature = "simulation")]
pub use os::{act_as_bsd, act_as_jail};
pub use reserved_names::ReservedNames;
pub use role::Role;
pub use server::{serve, Network, Open, Policy};
pub use service_manager::ServiceManager;
pub use users::{own_user, user};

/// What only the fuzz targets use.
#[cfg(any(fuzzing, test))]
pub mod fuzzing {
    pub use crate::hand_over::fuzzing::*;
    pub use crate::server::fuzzing::*;
}
