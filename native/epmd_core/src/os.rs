//! What the operating system offers and no safe interface reaches. The crate's unsafe code is here.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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

/// Looks at the descriptor that this process was started with under a number.
///
/// # Errors
///
/// Also where there is none.
pub(crate) fn look_at_passed<T>(number: RawFd, look: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
    // SAFETY: `fcntl` takes any number, and fails for one that is no descriptor.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, nobody else in this process was given it, and it is borrowed for the call alone.
    look(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Takes the descriptor that this process was started with under a number. It can be taken once.
pub(crate) fn take_passed(number: RawFd) -> io::Result<OwnedFd> {
    look_at_passed(number, |_| Ok(()))?;
    // SAFETY: it is open, and whoever started this process passed it for the one who takes it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A file in memory, which lasts as long as anybody has its descriptor.
#[cfg(target_os = "linux")]
pub(crate) fn memory_file(name: &str) -> io::Result<File> {
    Ok(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn memory_file(_name: &str) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// How many descriptors the process may have open.
pub(crate) fn descriptor_limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Whether Unix sockets can have names outside the file system, which end with their process.
pub(crate) const HAS_ABSTRACT_NAMES: bool = cfg!(target_os = "linux");

/// The supplementary groups of the process at the other end of a Unix socket.
#[cfg(target_os = "linux")]
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> Vec<u32> {
    // As many as a process may have.
    let mut groups = vec![0; 65_536];
    let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to the address, and there is room for as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    groups.truncate(if result == 0 { length as usize / size_of::<u32>() } else { 0 });
    groups
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn peer_groups(_socket: BorrowedFd<'_>) -> Vec<u32> {
    Vec::new()
}
