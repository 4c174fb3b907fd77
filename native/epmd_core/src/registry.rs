//! The table of registered nodes.
//!
//! The lock is a `parking_lot` mutex, held for a few memory accesses and never across an await.

mod departed;
mod entry;
mod epoch;
pub(crate) mod follower;
pub(crate) mod mirror;
mod refusals;
pub(crate) mod replica;
mod state;
mod table;
mod unconfirmed;

pub use departed::DepartedName;
pub(crate) use entry::NodeConnection;
pub use entry::{Descriptor, Entry, Holder};
pub(crate) use refusals::{Refusal, NAME_TAKEN};
pub(crate) use state::Contents;
pub use table::{NameTaken, Registration, Registry};
