//! The hand-over: an owner of the port keeps one other member of the same user, its standby, able to go on for it.
//!
//! A connection lasts as long as any process holds its descriptor. So the owner passes its listeners and the
//! connection of every registered node to its standby, and tells it of every step of the table, as it comes
//! ([`owner`]). When the owner ends, however it ends, the standby has it all and serves ([`standby`]). They speak
//! ([`message`]) over a Unix socket ([`channel`]), whose name is held by the owner alone: who can claim it is the owner.

mod channel;
mod message;
mod owner;
mod replication;
mod standby;

pub(crate) use channel::Rendezvous;
pub use owner::Standby;
pub(crate) use owner::{Offer, Terms};
pub(crate) use replication::Replication;
pub(crate) use standby::{stand_by, Candidate, Handoff};
