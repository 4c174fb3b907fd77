//! Stands in for `unix.rs` on other systems, so that the rest of the crate compiles there: all that it offers fails.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::path::PathBuf;

use rustix::fd::{AsFd, AsSocket, BorrowedFd, OwnedFd, RawFd};
use rustix::io::Errno;
use socket2::{SockAddr, Socket};

// They have the same methods. None of them is ever opened.
pub(crate) use tokio::net::{TcpListener as UnixListener, TcpStream as UnixStream, UdpSocket as UnixDatagram};

pub(crate) const OUT_OF_DESCRIPTORS: [Errno; 2] = [Errno::NOBUFS, Errno::MFILE];

macro_rules! unsupported {
    ($($name:ident$(<$of:ident>)?($($argument:ty),*) -> $result:ty;)*) => {
        $(
            pub(crate) fn $name$(<$of>)?($(_: $argument),*) -> io::Result<$result> {
                Err(ErrorKind::Unsupported.into())
            }
        )*
    };
}

unsupported! {
    watch<T>(T) -> AsyncFd<T>;
    socket_pair() -> (Socket, Socket);
    unix_address(&OsStr) -> SockAddr;
    peer_of(&UnixStream) -> (u32, u32, Option<i32>);
    look_at_passed<T>(RawFd, impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> T;
    take_passed(RawFd) -> OwnedFd;
    close_on_exec(impl AsFd) -> ();
    is_closed_on_exec(impl AsFd) -> bool;
    occupy(OwnedFd) -> ();
    file_of(OwnedFd) -> File;
    descriptor_of(File) -> OwnedFd;
    read_exact_at(&File, &mut [u8], u64) -> ();
    write_all_at(&File, &[u8], u64) -> ();
    set_reuse_port(&Socket, bool) -> ();
    try_lock(impl AsFd) -> bool;
    unlock(impl AsFd) -> ();
    lock_holder(impl AsFd) -> Option<i32>;
    inode(impl AsFd) -> u64;
    user_of_name(&str) -> Option<u32>;
    group_of_name(&str) -> Option<u32>;
}

pub(crate) async fn connect(_: PathBuf) -> io::Result<UnixStream> {
    Err(ErrorKind::Unsupported.into())
}

pub(crate) fn is_open(_: impl AsFd) -> bool {
    false
}

pub(crate) fn number_of(_: impl AsFd) -> i32 {
    -1
}

pub(crate) fn descriptor_limit() -> usize {
    usize::MAX
}

/// The number that no user has.
pub(crate) fn own_user() -> u32 {
    u32::MAX
}

/// A socket that is watched. There is none, so nothing is done with one.
#[derive(Debug)]
pub(crate) struct AsyncFd<T>(PhantomData<T>, Infallible);

#[derive(Debug)]
pub(crate) struct Ready(Infallible);

impl<T> AsyncFd<T> {
    pub(crate) fn get_ref(&self) -> &T {
        match self.1 {}
    }

    pub(crate) async fn readable(&self) -> io::Result<Ready> {
        match self.1 {}
    }
}

impl<T> AsSocket for AsyncFd<T> {
    fn as_socket(&self) -> BorrowedFd<'_> {
        match self.1 {}
    }
}

impl Ready {
    pub(crate) fn clear_ready(&mut self) {
        match self.0 {}
    }
}

pub(crate) async fn ended<T>(socket: &AsyncFd<T>) {
    match socket.1 {}
}

pub(crate) mod passing {
    use super::*;

    #[derive(Debug)]
    pub(crate) struct Received {
        pub(crate) length: usize,
        pub(crate) descriptors: Vec<OwnedFd>,
        pub(crate) is_cut_off: bool,
    }

    unsupported! {
        send(impl AsFd, &[u8], Option<BorrowedFd<'_>>) -> usize;
        receive(impl AsFd, &mut [u8]) -> Received;
    }

    pub(crate) fn is_crowded(_: &io::Error) -> bool {
        false
    }
}
