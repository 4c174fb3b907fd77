//! What operating systems do differently, and what no safe interface reaches. The crate's unsafe code is here.
#![allow(unsafe_code)]

#[cfg(feature = "simulation")]
mod simulation;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{shutdown, SendFlags, Shutdown};
use rustix::process::{getrlimit, Resource};
use socket2::Socket;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;

#[cfg(feature = "simulation")]
pub use simulation::act_as_bsd;

/// No signal where the other end has closed. Apple has no such flag, and whoever runs this crate ignores that signal.
#[cfg(not(target_vendor = "apple"))]
pub(crate) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
pub(crate) const NO_SIGNAL: SendFlags = SendFlags::empty();

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

/// Whether a listener can be ended for every process that has it.
///
/// Linux can. macOS says ENOTCONN and does nothing, and on the BSDs the listener goes on as well.
pub(crate) fn can_end_listeners() -> bool {
    acts_as_linux()
}

/// Ends a listener, whoever has copies of it.
///
/// # Errors
///
/// ENOTCONN where the system cannot do it: the listener lasts as long as its last copy.
pub(crate) fn end_listener(listener: impl AsFd) -> io::Result<()> {
    if !can_end_listeners() {
        return Err(Errno::NOTCONN.into());
    }
    Ok(shutdown(listener, Shutdown::Read)?)
}

/// Whether a socket listens. Where listeners cannot be ended, nobody needs to know.
#[cfg(target_os = "linux")]
pub(crate) fn is_listening(socket: impl AsFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_listening(_socket: impl AsFd) -> bool {
    false
}

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

/// Whether nobody can listen on an address beside "any" of its family.
///
/// On Linux nobody can. Elsewhere only an equal address is in the way, and the more specific one gets what comes there.
pub(crate) fn any_excludes_others() -> bool {
    acts_as_linux()
}

/// Binds a socket that is going to listen.
pub(crate) fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    #[cfg(feature = "simulation")]
    if simulation::is_on() {
        return simulation::bind(socket, address);
    }
    socket.bind(&address.into())
}

#[cfg(not(feature = "simulation"))]
const fn acts_as_linux() -> bool {
    cfg!(target_os = "linux")
}

#[cfg(feature = "simulation")]
fn acts_as_linux() -> bool {
    cfg!(target_os = "linux") && !simulation::is_on()
}
