//! Whose a connection is: the user of the socket at its other end, by what the kernel says.
//!
//! The kernel is asked for the sockets of both ends. The other one must be open: of one that was closed it does not know
//! the user any more, and says 0. Ours must be this very connection, and is asked for last: so what was said is of it, and
//! not of one that had the same addresses before, or has them in another network namespace.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::net::{getpeername, getsockname};

#[cfg(target_os = "linux")]
use super::kernel::Kernel;

/// Why it cannot be known whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// The user at the other end of a connection. Does not wait.
#[cfg(target_os = "linux")]
pub(crate) fn user_of(connection: impl AsFd) -> Result<u32, Unknown> {
    let (own, peer) = ends(&connection).ok_or(Unknown::Closed)?;
    let inode = fstat(&connection).map_err(Unknown::Unasked)?.st_ino;
    let kernel = Kernel::open().map_err(Unknown::Unasked)?;
    let find = |local, remote| kernel.find(local, remote).map_err(Unknown::Unasked);
    let (theirs, ours) = (find(peer, own)?, find(own, peer)?);
    match (theirs, ours) {
        (_, None) => Err(Unknown::NotHere),
        (_, Some(ours)) if u64::from(ours.inode) != inode => Err(Unknown::NotHere),
        (None, _) => Err(Unknown::Elsewhere),
        (Some(theirs), Some(ours)) if !theirs.is_open() || !ours.is_open() => Err(Unknown::Closed),
        (Some(theirs), _) if is_unmapped(theirs.user) => Err(Unknown::Unmapped),
        (Some(theirs), _) => Ok(theirs.user),
    }
}

/// The addresses of our end and of the other one.
#[cfg(target_os = "linux")]
fn ends(connection: impl AsFd) -> Option<(SocketAddr, SocketAddr)> {
    let own = getsockname(&connection).ok()?.try_into().ok()?;
    Some((own, getpeername(&connection).ok()??.try_into().ok()?))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn user_of(_connection: impl AsFd) -> Result<u32, Unknown> {
    Err(Unknown::Unasked(Errno::OPNOTSUPP))
}

/// Whether that is what the kernel says of every user who has no number in this user namespace.
#[cfg(target_os = "linux")]
fn is_unmapped(user: u32) -> bool {
    const OVERFLOW: u32 = 65_534;
    // Inside, outside, and how many.
    const EVERYBODY: [&str; 3] = ["0", "0", "4294967295"];
    let maps = || std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    user == OVERFLOW && !maps().split_whitespace().eq(EVERYBODY)
}
