//! The table of registered nodes, or, in a member that does not serve, a replica of its owner's.
//!
//! The lock is a `parking_lot` mutex, held for a few memory accesses and never across an await.

mod contents;
mod entry;
mod life;
pub(crate) mod log;
mod nodes;
mod plan;
mod provisional;
mod refusals;
mod replica;
mod table;
mod tombstones;

pub(crate) use contents::replicated;
pub(crate) use entry::NodeConnection;
pub use entry::{Descriptor, Entry, Holder};
pub use life::{Life, Past, Series};
pub use plan::{plan, Planned};
pub(crate) use refusals::{Refusal, NAME_TAKEN};
pub(crate) use replica::{Held, Incoming, Restored};
pub use table::{Known, NameTaken, Registration, Registry};
pub use tombstones::Tombstone;
