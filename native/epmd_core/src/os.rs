//! What the operating system offers and no safe interface reaches. The crate's unsafe code is here.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::{getrlimit, Resource};
use socket2::Socket;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;

/// Has the runtime watch a socket for something to read.
pub(crate) fn watch<T: AsRawFd + Into<OwnedFd>>(socket: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: what turns into an `OwnedFd` owns its descriptor, always gives the same one, and stays in the `AsyncFd`.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Has the kernel hand over connections together with their first bytes; those that stay silent come a second later.
///
/// Where the system cannot, a connection comes at once, which costs time and nothing else.
#[cfg(target_os = "linux")]
pub(crate) fn defer_accept(listener: &Socket) {
    let seconds: libc::c_int = 1;
    let length = size_of_val(&seconds) as libc::socklen_t;
    // SAFETY: the kernel copies `length` bytes from the address, which is that of an integer of this length.
    unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            length,
        );
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn defer_accept(_listener: &Socket) {}

/// How many descriptors the process may have open.
pub(crate) fn descriptor_limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
