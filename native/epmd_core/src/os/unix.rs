//! What only Unix systems have: Unix sockets, descriptors that are passed, record locks, and numbers of users. On other
//! systems `without_unix.rs` stands in for this file.

pub(crate) mod passing;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nix::unistd::{Group, User};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use rustix::fs::{fcntl_lock, fstat, FlockOperation};
use rustix::io::{dup2, fcntl_getfd, fcntl_setfd, Errno, FdFlags};
use rustix::net::{recv, RecvFlags};
use rustix::process::{fcntl_getlk, getrlimit, Flock, FlockType, Pid, Resource};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;

pub(crate) use tokio::io::unix::AsyncFd;
pub(crate) use tokio::net::{UnixDatagram, UnixListener, UnixStream};

/// What accept(2) fails with while there is no descriptor, or no memory, for a connection.
pub(crate) const OUT_OF_DESCRIPTORS: [Errno; 4] = [Errno::NOMEM, Errno::NOBUFS, Errno::NFILE, Errno::MFILE];

/// Registers a socket with the runtime for reading.
pub(crate) fn watch<T: AsRawFd + Into<OwnedFd>>(socket: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: a type that converts into `OwnedFd` owns its descriptor and always returns the same one, and it stays in
    // the `AsyncFd`.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Waits until a watched socket ends, or receives something.
pub(crate) async fn ended<T: AsRawFd>(socket: &AsyncFd<T>)
where
    for<'a> &'a T: Read,
{
    let mut bytes = [0; 64];
    while let Ok(mut ready) = socket.readable().await {
        if ready.try_io(|socket| socket.get_ref().read(&mut bytes)).is_ok() {
            return;
        }
    }
}

/// Whether the other end has neither closed a connection nor been closed, and has sent nothing that is unread.
pub(crate) fn is_open(connection: impl AsFd) -> bool {
    let mut byte = [0];
    recv(connection, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT).is_err_and(|error| error == Errno::AGAIN)
}

/// Two sockets that are connected with each other.
pub(crate) fn socket_pair() -> io::Result<(Socket, Socket)> {
    Socket::pair(Domain::UNIX, Type::STREAM, None)
}

/// The address of the Unix socket of that name; one that begins with `@` is abstract.
pub(crate) fn unix_address(name: &OsStr) -> io::Result<SockAddr> {
    let mut path = name.as_bytes().to_vec();
    if let Some(first @ b'@') = path.first_mut() {
        *first = 0;
    }
    SockAddr::unix(PathBuf::from(OsString::from_vec(path)))
}

/// Connects to the Unix socket at this path.
pub(crate) async fn connect(path: PathBuf) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

/// The process at the other end: its user, its group, and its number where that is visible.
pub(crate) fn peer_of(socket: &UnixStream) -> io::Result<(u32, u32, Option<i32>)> {
    let peer = socket.peer_cred()?;
    Ok((peer.uid(), peer.gid(), peer.pid().filter(|pid| *pid > 0)))
}

/// The number of a descriptor.
pub(crate) fn number_of(descriptor: impl AsFd) -> i32 {
    descriptor.as_fd().as_raw_fd()
}

/// Inspects a descriptor that this process was started with, by its number.
///
/// # Errors
///
/// Also if there is no such descriptor.
pub(crate) fn look_at_passed<T>(number: RawFd, look: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
    // SAFETY: `fcntl` accepts any number, and fails if it is no open descriptor.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, no other part of this process owns it, and it is borrowed only for this call.
    look(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Takes a descriptor that this process was started with, by its number. It can be taken once.
pub(crate) fn take_passed(number: RawFd) -> io::Result<OwnedFd> {
    look_at_passed(number, |_| Ok(()))?;
    // SAFETY: it is open, and the service manager passed it to this process to own.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes a descriptor in the programs that this process starts.
pub(crate) fn close_on_exec(descriptor: impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfd(descriptor, FdFlags::CLOEXEC)?)
}

/// Whether a descriptor is closed in the programs that this process starts.
pub(crate) fn is_closed_on_exec(descriptor: impl AsFd) -> io::Result<bool> {
    Ok(fcntl_getfd(descriptor)?.contains(FdFlags::CLOEXEC))
}

/// Closes what a descriptor stands for. Its number stays in use for as long as the process lives, though not in the
/// programs that it starts.
pub(crate) fn occupy(mut descriptor: OwnedFd) -> io::Result<()> {
    dup2(File::open("/dev/null")?, &mut descriptor)?;
    close_on_exec(&descriptor)?;
    let _ = descriptor.into_raw_fd();
    Ok(())
}

/// The file of a descriptor.
pub(crate) fn file_of(descriptor: OwnedFd) -> io::Result<File> {
    Ok(descriptor.into())
}

/// The descriptor of a file.
pub(crate) fn descriptor_of(file: File) -> io::Result<OwnedFd> {
    Ok(file.into())
}

/// Reads as many bytes of a file as there is room for.
pub(crate) fn read_exact_at(file: &File, room: &mut [u8], at: u64) -> io::Result<()> {
    file.read_exact_at(room, at)
}

/// Writes bytes to a file.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    file.write_all_at(bytes, at)
}

/// How many descriptors the process may have open.
pub(crate) fn descriptor_limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Lets other sockets of this user bind the address of this one, or no longer.
pub(crate) fn set_reuse_port(socket: &Socket, shared: bool) -> io::Result<()> {
    socket.set_reuse_port(shared)
}

/// Takes the record lock on a file or socket, unless another process has it. Returns whether this one has it now.
pub(crate) fn try_lock(file: impl AsFd) -> io::Result<bool> {
    match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives the record lock back.
pub(crate) fn unlock(file: impl AsFd) -> io::Result<()> {
    Ok(fcntl_lock(file, FlockOperation::NonBlockingUnlock)?)
}

/// The other process that has the record lock, if one has; 0 if it is in another PID namespace.
pub(crate) fn lock_holder(file: impl AsFd) -> io::Result<Option<i32>> {
    let lock = fcntl_getlk(file, &Flock::from(FlockType::WriteLock))?;
    Ok(lock.map(|lock| Pid::as_raw(lock.pid)))
}

/// By what all descriptors of a file or socket are known to be of the same one.
pub(crate) fn inode(file: impl AsFd) -> io::Result<u64> {
    Ok(fstat(file)?.st_ino)
}

/// The user of this process, as the kernel reports it to others.
pub(crate) fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The number of a user, if there is one. A directory may have to be asked.
pub(crate) fn user_of_name(name: &str) -> io::Result<Option<u32>> {
    Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))
}

/// The number of a group, if there is one. A directory may have to be asked.
pub(crate) fn group_of_name(name: &str) -> io::Result<Option<u32>> {
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}
