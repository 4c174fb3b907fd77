//! The handover: the owner of the port keeps other members, its standbys, ready to take over.
//!
//! A connection lasts as long as any process holds its descriptor. So the owner passes its listeners and the connection
//! of every registered node to its standbys, and sends them every change of the table as it happens ([`primary`],
//! [`session`]). When the owner ends, in whatever way, the standbys hold everything ([`holdings`]), and the one that locks
//! the listener serves ([`lock`]). Every member that has joined follows the table ([`mod@follow`]), also one for which there
//! is no place to stand by ([`places`]). What is kept and given up is decided in one place ([`succession`]).
//!
//! They find each other over the port ([`meeting`]), check each other's process ([`peer`]), and exchange messages
//! ([`message`], [`hello`]) over a Unix socket ([`channel`]). Over it the owner also asks after the health of a follower's
//! VM ([`inquiries`]).

mod body;
mod channel;
mod follow;
// Compiled for tests too, so that a change that breaks it is noticed.
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod hello;
mod holdings;
mod inquiries;
mod lock;
mod meeting;
pub(crate) mod message;
mod obstacle;
mod peer;
mod places;
mod primary;
mod session;
mod settings;
mod succession;

pub(crate) use follow::{follow, Candidate, LastOwner, Takeover};
pub use hello::Standby;
pub(crate) use hello::{Hello, VERSION};
pub(crate) use holdings::{Holdings, OwnNode};
pub(crate) use lock::OwnerLock;
pub(crate) use obstacle::Obstacle;
pub(crate) use primary::{Links, Offer, Primary};
pub use settings::{HandOver, Trusted};
