//! Descriptors that are passed over Unix sockets. Nothing here waits.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Descriptors that one read may bring.
const AT_ONCE: usize = 4;

/// No signal when the other end has closed, and no descriptors for programs that this process starts. Apple has no such
/// flags: the VM ignores that signal, and there is no handover.
#[cfg(not(target_vendor = "apple"))]
const FLAGS: (SendFlags, RecvFlags) = (SendFlags::NOSIGNAL, RecvFlags::CMSG_CLOEXEC);
#[cfg(target_vendor = "apple")]
const FLAGS: (SendFlags, RecvFlags) = (SendFlags::empty(), RecvFlags::empty());

/// What one read has brought.
#[derive(Debug)]
pub(crate) struct Received {
    /// How many bytes; 0 when the other end has closed.
    pub(crate) length: usize,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Whether more descriptors were sent than this process has room for.
    pub(crate) is_cut_off: bool,
}

/// Sends bytes with a descriptor; returns how many were sent.
///
/// # Errors
///
/// Those of sendmsg(2): `WouldBlock` while the other end does not read, and [`is_crowded`].
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptor) = &descriptor {
        with.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut with, FLAGS.0)?)
}

/// Receives bytes, and the descriptors that came with them.
///
/// # Errors
///
/// Those of recvmsg(2): `WouldBlock` while there is nothing.
pub(crate) fn receive(socket: impl AsFd, room: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut with = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(room)], &mut with, FLAGS.1)?;
    let descriptors = with.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = descriptors.flatten().collect();
    Ok(Received { length: received.bytes, descriptors, is_cut_off: received.flags.contains(ReturnFlags::CTRUNC) })
}

/// Whether a descriptor was not sent because too many of this user are on their way (`ETOOMANYREFS`): receivers have to
/// read first.
pub(crate) fn is_crowded(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::TOOMANYREFS)
}
