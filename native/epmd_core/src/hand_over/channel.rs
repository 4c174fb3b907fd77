//! The Unix socket between an owner and a follower: messages, and the descriptors that belong to them.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::message::{self, Message, MAX_MESSAGE};
use crate::os::NO_SIGNAL;

/// Descriptors that one read may bring: more than an owner sends with one message.
const DESCRIPTORS_AT_ONCE: usize = 4;
/// Descriptors that may wait for their messages.
const DESCRIPTORS: usize = 64;
/// Bytes of messages that one read may bring.
const BYTES_AT_ONCE: usize = 16 * 1024;

/// The writing and the reading end of this side.
pub(crate) fn open(stream: UnixStream) -> (Sender, Receiver) {
    let stream = Arc::new(stream);
    let receiver = Receiver { stream: Arc::clone(&stream), bytes: Vec::new(), descriptors: VecDeque::new() };
    (Sender { stream, unsent: Vec::new() }, receiver)
}

/// An error of a Unix socket, with a remedy where one is known.
pub(crate) fn explain(error: &io::Error) -> String {
    if Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT) {
        return "Unix sockets are not allowed here, so that stock nodes are unknown for 2 seconds whenever the owner \
                changes; under systemd add AF_UNIX to RestrictAddressFamilies="
            .into();
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return format!(
            "a security policy denies this process Unix sockets ({error}); AppArmor, SELinux or a snap must allow those \
             whose abstract names begin with embedded_epmd/"
        );
    }
    error.to_string()
}

/// Whether a descriptor was not sent because too many of this user are on their way (`ETOOMANYREFS`): receivers have to
/// read first.
pub(crate) fn is_crowded(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::TOOMANYREFS)
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Sender {
    stream: Arc<UnixStream>,
    /// The rest of a message that was sent in part.
    unsent: Vec<u8>,
}

impl Sender {
    /// Sends a message with its descriptor, without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` while the other end does not read, and [`is_crowded`] while too many descriptors are on their way.
    /// Nothing of this message was sent then.
    pub(crate) fn send(&mut self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let sent = self.write(&self.unsent, None)?;
            self.unsent.drain(..sent);
        }
        let sent = self.write(bytes, descriptor)?;
        self.unsent.extend(&bytes[sent..]);
        Ok(())
    }

    fn write(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        self.stream.try_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut with = SendAncillaryBuffer::new(&mut space);
            if let Some(descriptor) = &descriptor {
                with.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)));
            }
            Ok(sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut with, NO_SIGNAL)?)
        })
    }

    /// The stream, to wait until it is writable.
    pub(crate) fn stream(&self) -> Arc<UnixStream> {
        Arc::clone(&self.stream)
    }
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct Receiver {
    stream: Arc<UnixStream>,
    bytes: Vec<u8>,
    /// Received descriptors that no message has taken yet, in order.
    descriptors: VecDeque<OwnedFd>,
}

/// Why no message was received.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The other end has closed.
    Closed,
    /// The bytes are not a message, or the descriptors do not match it.
    Malformed,
    /// A descriptor was sent, and this process has no free one for it.
    OutOfDescriptors,
}

impl Receiver {
    /// Waits for a message and the descriptor that belongs to it.
    pub(crate) async fn receive(&mut self) -> Result<(Message, Option<OwnedFd>), Failure> {
        loop {
            if let Some((bytes, length)) = message::frame(&self.bytes).map_err(|_| Failure::Malformed)? {
                let message = Message::decode(bytes).map_err(|_| Failure::Malformed)?;
                let has_descriptor = Message::has_descriptor(bytes);
                self.bytes.drain(..length);
                let descriptor = if has_descriptor { self.descriptors.pop_front() } else { None };
                if has_descriptor != descriptor.is_some() {
                    return Err(Failure::Malformed);
                }
                return Ok((message, descriptor));
            }
            self.stream.readable().await.map_err(|_| Failure::Closed)?;
            self.read()?;
        }
    }

    fn read(&mut self) -> Result<(), Failure> {
        let Self { stream, bytes, descriptors } = self;
        let mut room = [0; BYTES_AT_ONCE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_AT_ONCE))];
        let mut with = RecvAncillaryBuffer::new(&mut space);
        let received = stream.try_io(Interest::READABLE, || {
            Ok(recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut room)], &mut with, RECEIVE)?)
        });
        let received = match received {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(_) => return Err(Failure::Closed),
        };
        for message in with.drain() {
            if let RecvAncillaryMessage::ScmRights(came) = message {
                descriptors.extend(came);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Failure::OutOfDescriptors);
        }
        if received.bytes == 0 {
            return Err(Failure::Closed);
        }
        bytes.extend(&room[..received.bytes]);
        // Descriptors that belong to no message must not pile up.
        if bytes.len() > BYTES_AT_ONCE + MAX_MESSAGE || descriptors.len() > DESCRIPTORS {
            return Err(Failure::Malformed);
        }
        Ok(())
    }
}

/// No descriptors for programs that this process starts. Apple has no such flag, and no hand-over.
#[cfg(not(target_vendor = "apple"))]
const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(target_vendor = "apple")]
const RECEIVE: RecvFlags = RecvFlags::empty();

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_belongs_to_no_message_ends_the_channel() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let (mut sender, mut receiver) = (open(one).0, open(other).1);
        sender.send(&Message::Listener { lent: false }.encode_with(true), None).expect("room for it");
        assert!(matches!(receiver.receive().await, Err(Failure::Malformed)), "a listener without a descriptor");

        let (one, other) = UnixStream::pair().expect("a pair");
        let (mut sender, mut receiver) = (open(one).0, open(other).1);
        sender.send(&[0xff, 0xff, 0], None).expect("room for it");
        assert!(matches!(receiver.receive().await, Err(Failure::Malformed)), "a message that is too long");
    }
}
