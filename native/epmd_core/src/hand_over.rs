//! The hand-over: an owner of the port keeps other members, its standbys, able to go on for it.
//!
//! A connection lasts as long as any process holds its descriptor. So the owner passes its listeners and the
//! connection of every registered node to its standbys, and tells them of every step of the table, as it comes
//! ([`owner`], [`replication`]). When the owner ends, however it ends, they have it all, and one of them serves
//! ([`standby`]). Every other member that has joined may have the steps without the descriptors ([`mirroring`]).
//! They speak ([`message`], [`hello`]) over a Unix socket ([`channel`]), whose name is held by the owner alone
//! ([`rendezvous`]): who can claim it is the owner.
//!
//! The service manager can be given the same ([`store`]), for the next life of a service that has no standby ([`kept`]).

mod body;
mod channel;
mod copying;
// Also for tests, so that no change breaks it unseen.
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod hello;
mod kept;
mod log;
mod message;
mod mirroring;
mod owner;
mod rendezvous;
mod replication;
mod settings;
mod standby;
mod store;
mod turns;
mod witness;

pub(crate) use hello::Hello;
pub(crate) use kept::{Kept, Stored, LISTENER};
pub(crate) use mirroring::follow;
pub use owner::Standby;
pub(crate) use owner::{Offer, Terms};
pub(crate) use rendezvous::{Claim, Owned, Rendezvous};
pub(crate) use replication::Replication;
pub use settings::{HandOver, Trusted};
pub(crate) use standby::{stand_by, Candidate, Handoff};
pub(crate) use store::{remove, Full, Store};
pub(crate) use witness::{room, Room};
