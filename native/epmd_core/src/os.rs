//! What differs between operating systems, and what no safe interface offers. All unsafe code of the crate is here.
//!
//! Descriptors are named by `rustix::fd`, on Windows too. There a reference to what is `AsFd` need not be so itself.
//! That is why generic code passes on `as_fd()`.
#![allow(unsafe_code)]

#[cfg(feature = "simulation")]
mod simulation;
#[cfg_attr(not(unix), path = "os/without_unix.rs")]
mod unix;

use std::fs::File;
use std::io;
use std::net::SocketAddr;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
#[cfg(target_os = "linux")]
use rustix::fd::{AsRawFd, FromRawFd};
use rustix::io::Errno;
use rustix::net::{shutdown, Shutdown};
use socket2::Socket;

#[cfg(feature = "simulation")]
pub use simulation::{act_as_bsd, act_as_jail};
pub(crate) use unix::*;

/// Makes the kernel report a connection together with its first bytes, or after a second if it stays silent.
///
/// On other systems a connection is reported at once, which only costs time.
pub(crate) fn defer_accept(listener: &Socket) {
    set_defer_accept(listener.as_fd(), 1);
}

/// Makes the kernel report new connections at once.
pub(crate) fn accept_at_once(listener: impl AsFd) {
    set_defer_accept(listener.as_fd(), 0);
}

#[cfg(target_os = "linux")]
fn set_defer_accept(listener: BorrowedFd<'_>, seconds: libc::c_int) {
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
fn set_defer_accept(_listener: BorrowedFd<'_>, _seconds: i32) {}

/// A file in memory. It lasts as long as any process has its descriptor.
#[cfg(target_os = "linux")]
pub(crate) fn memory_file(name: &str) -> io::Result<File> {
    Ok(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn memory_file(_name: &str) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Bytes that nobody can guess. Linux only, as is the handover, which needs them.
#[cfg(target_os = "linux")]
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())? {
        filled if filled == N => Ok(bytes),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether a listener can be ended for every process that has a copy.
///
/// On Linux it can. On macOS `shutdown` fails with ENOTCONN, and on the BSDs the listener goes on as well.
pub(crate) fn can_end_listeners() -> bool {
    acts_as_linux()
}

/// Ends a listener for every process that has a copy.
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

/// Whether a socket listens. Always false where listeners cannot be ended; there is no handover that would ask.
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
    // The most that Linux allows (`NGROUPS_MAX`).
    let mut groups = vec![0; 65_536];
    let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the buffer.
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

/// Whether nothing has ever been written to a TCP connection, by whatever process. False where the kernel cannot tell.
#[cfg(target_os = "linux")]
pub(crate) fn is_unanswered(connection: impl AsFd) -> bool {
    // The places of `tcpi_notsent_bytes` and `tcpi_data_segs_out` in `struct tcp_info` (Linux 4.6 and later), in words.
    const NOT_SENT: usize = 36;
    const SENT: usize = 39;
    let mut info = [0_u32; SENT + 1];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the array.
    let result = unsafe {
        libc::getsockopt(
            connection.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    result == 0 && length as usize == size_of_val(&info) && info[NOT_SENT] == 0 && info[SENT] == 0
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_unanswered(_connection: impl AsFd) -> bool {
    false
}

/// The process at the other end of a Unix socket, as a descriptor of it (Linux 6.5 and later).
#[cfg(target_os = "linux")]
pub(crate) fn peer_process(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    let mut process: libc::c_int = -1;
    let mut length = size_of_val(&process) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the integer.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut process).cast(),
            &raw mut length,
        )
    };
    // SAFETY: the kernel has just opened it for this process.
    (result == 0 && process >= 0).then(|| unsafe { OwnedFd::from_raw_fd(process) })
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn peer_process(_socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    None
}

/// Whether the process of this descriptor still runs: then its number is its own. It takes no descriptor to ask.
pub(crate) fn is_running(process: &OwnedFd) -> bool {
    let has_ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&Timespec::default()));
    has_ended.is_ok_and(|ended| ended == 0)
}

/// Whether a listener on "any" excludes other listeners on the same port, on every address of its family.
///
/// On Linux it does. Elsewhere only an equal address is excluded, and connections go to the more specific listener.
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
