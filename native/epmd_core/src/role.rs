//! The role of a member.

/// The current role of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It tries to bind the port or to join its owner.
    Searching,
    /// It serves the port.
    Serving,
    /// It is registered with the owner.
    Joined,
}
