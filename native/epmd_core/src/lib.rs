//! An EPMD server: the Erlang Port Mapper, which maps the names of the Erlang nodes of a host to their ports.
//!
//! Data flows one way: bytes ([`protocol`]), request, `access`, [`registry`], reply. `connection` serves one peer,
//! [`server`] many of them, and [`member`] decides whether this process serves the port or joins whoever does.
//! Nothing here knows of Erlang terms; `epmd_nif` puts this crate into a VM.

mod address;
mod figures;
mod hand_over;
mod journal;
mod limits;
mod member;
mod node;
mod os;
mod pauses;
pub mod protocol;
pub mod registry;
mod reserve;
mod role;
mod server;

pub use address::{parse_addresses, Listeners, OpenError};
pub use figures::{Counter, Figures};
pub use hand_over::Standby;
pub use journal::{Change, Journal, Observer};
pub use limits::Limits;
pub use member::{Answer, Handle, Member, RegisterError, Settings, Snapshot, StartError, Status};
pub use node::{InvalidName, Node, NodeName};
pub use role::Role;
pub use server::{serve, Network, Open, Policy};
