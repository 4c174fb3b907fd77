//! The Unix socket between an owner and a follower: messages, and the descriptors that belong to them.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use tokio::io::Interest;

use super::message::{self, Message, MAX_MESSAGE};
use crate::os::{passing, UnixStream};

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
    /// `WouldBlock` while the other end does not read, and [`passing::is_crowded`] while too many descriptors are on their way.
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
        self.stream.try_io(Interest::WRITABLE, || passing::send(&self.stream, bytes, descriptor))
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
        let received = match stream.try_io(Interest::READABLE, || passing::receive(&*stream, &mut room)) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(_) => return Err(Failure::Closed),
        };
        descriptors.extend(received.descriptors);
        if received.is_cut_off {
            return Err(Failure::OutOfDescriptors);
        }
        if received.length == 0 {
            return Err(Failure::Closed);
        }
        bytes.extend(&room[..received.length]);
        // Descriptors that belong to no message must not pile up.
        if bytes.len() > BYTES_AT_ONCE + MAX_MESSAGE || descriptors.len() > DESCRIPTORS {
            return Err(Failure::Malformed);
        }
        Ok(())
    }
}

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
