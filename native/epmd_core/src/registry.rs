//! The table of registered nodes.
//!
//! The lock is a `parking_lot` mutex, held for a few memory accesses and never across an await.

mod departed;
mod entry;
pub(crate) mod follower;
pub(crate) mod replica;
mod table;

pub use departed::DepartedName;
pub(crate) use entry::NodeConnection;
pub use entry::{Descriptor, Entry, Holder};
pub(crate) use table::Contents;
pub use table::{NameTaken, Registration, Registry};
