//! The hand-over: the owner of the port keeps other members, its standbys, ready to take over.
//!
//! A connection lasts as long as any process holds its descriptor. So the owner passes its listeners and the connection
//! of every registered node to its standbys, and sends them every step of the table as it happens ([`owner`],
//! [`replication`]). When the owner ends, in whatever way, the standbys hold everything, and one of them serves
//! ([`standby`]). Every member that has joined also mirrors the table, without the descriptors ([`mirroring`]).
//!
//! They exchange messages ([`message`], [`hello`]) over a Unix socket ([`channel`]). Only one process can hold its
//! name: the process that has claimed the name is the owner ([`rendezvous`]).
//!
//! The service manager can store the same for a service without a standby ([`store`]), until the service runs again
//! ([`kept`]).

mod body;
mod channel;
mod copying;
// Compiled for tests too, so that a change that breaks it is noticed.
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod hello;
mod kept;
mod log;
mod message;
mod mirroring;
mod owner;
mod permits;
mod rendezvous;
mod replication;
mod settings;
mod standby;
mod store;
#[allow(missing_docs, unreachable_pub, reason = "public for the fuzz targets; documented at `Message`")]
pub mod tags;
mod witness;

pub(crate) use hello::Hello;
pub use hello::Standby;
pub(crate) use kept::{Kept, Stored, LISTENER};
pub(crate) use mirroring::follow;
pub(crate) use owner::{Offer, OfferConfig};
pub(crate) use rendezvous::{Claim, Owned, Rendezvous};
pub(crate) use replication::Replication;
pub use settings::{HandOver, Trusted};
pub(crate) use standby::{stand_by, Candidate, Handoff};
pub(crate) use store::{remove, Full, Store};
pub(crate) use witness::{room, Room};
