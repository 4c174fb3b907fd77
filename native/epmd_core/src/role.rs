//! What a member does at present.

/// What a member does at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It looks for the port or its owner.
    Searching,
    /// It owns the port.
    Serving,
    /// It is registered with the owner.
    Joined,
}
