//! Why it cannot be known whose a connection is.

use std::fmt;

use rustix::io::Errno;

/// Why it cannot be known whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no other system is asked"))]
pub(crate) enum Unknown {
    /// The kernel cannot be asked.
    Unasked(Errno),
    /// It does not know our end.
    NotHere,
    /// It does not know the other end.
    Elsewhere,
    /// The other end is closed, or about to be.
    Closed,
    /// The user has no number of its own in the user namespace of this process.
    Unmapped,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unasked(error) => write!(f, "the kernel cannot be asked over netlink: {error}"),
            Self::NotHere => f.write_str("the connection is not in the network namespace of this VM"),
            Self::Elsewhere => f.write_str("the other end of the connection is not on this host"),
            Self::Closed => f.write_str("the other end of the connection is closed"),
            Self::Unmapped => f.write_str("the user is outside of the user namespace of this VM"),
        }
    }
}
