//! The Unix socket between an owner and its standby: its name, who may be at its ends, and what passes through it.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use super::message::{self, Message, MAX_MESSAGE};

/// Descriptors that one read may bring: more than an owner sends with one message.
const DESCRIPTORS_AT_ONCE: usize = 4;
/// Descriptors that may wait for their messages.
const DESCRIPTORS: usize = 64;
/// Bytes of messages that one read may bring.
const BYTES_AT_ONCE: usize = 16 * 1024;

/// Where the owner of a port is found by the members of its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rendezvous {
    name: String,
    /// The port.
    pub(crate) port: u16,
    /// Where the lock and the socket are; none where names need no folder.
    folder: Option<PathBuf>,
}

impl Rendezvous {
    /// The rendezvous for the owner of this address and port, and for this process's user: on Linux an abstract name, which
    /// belongs to the network namespace as the port does, elsewhere a folder of the user's own.
    pub(crate) fn of(owner: SocketAddr) -> Self {
        let user = user();
        if cfg!(target_os = "linux") {
            Self { name: format!("\0embedded_epmd/{user}/{owner}"), port: owner.port(), folder: None }
        } else {
            Self::in_folder(Path::new("/tmp").join(format!("embedded_epmd-{user}")), owner)
        }
    }

    fn in_folder(folder: PathBuf, owner: SocketAddr) -> Self {
        Self { name: owner.to_string(), port: owner.port(), folder: Some(folder) }
    }

    fn socket(&self) -> PathBuf {
        self.folder.as_ref().map_or_else(|| self.name.clone().into(), |folder| folder.join(&self.name))
    }

    /// Claims the name: at most one process has it, for as long as that lives and keeps the claim.
    ///
    /// # Errors
    ///
    /// `AddrInUse` while somebody else has it.
    pub(crate) fn claim(&self) -> io::Result<Claim> {
        let lock = match &self.folder {
            None => None,
            Some(folder) => Some(self.lock(folder)?),
        };
        Ok(Claim { listener: UnixListener::bind(self.socket())?, _lock: lock })
    }

    /// A name in a folder outlives its process, so that it is a lock that tells whether somebody has it.
    fn lock(&self, folder: &Path) -> io::Result<File> {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = fs::symlink_metadata(folder)?;
        if !found.is_dir() || found.uid() != user() || found.mode() & 0o077 != 0 {
            let text = format!("{} is not a folder that only this user can enter", folder.display());
            return Err(io::Error::new(ErrorKind::PermissionDenied, text));
        }
        let lock = File::create(folder.join(format!("{}.lock", self.name)))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => io::Error::from(ErrorKind::AddrInUse),
            error => error.into(),
        })?;
        match fs::remove_file(self.socket()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(lock),
        }
    }

    /// Connects to whoever has claimed the name.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if that is another user's process.
    pub(crate) async fn connect(&self) -> io::Result<(Sender, Receiver)> {
        open(UnixStream::connect(self.socket()).await?)
    }
}

/// The name, held.
#[derive(Debug)]
pub(crate) struct Claim {
    listener: UnixListener,
    _lock: Option<File>,
}

impl Claim {
    /// Waits for the next member that connects.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

/// Opens an end of the channel, if this process's user has the other end as well.
pub(crate) fn open(stream: UnixStream) -> io::Result<(Sender, Receiver)> {
    let peer = stream.peer_cred()?.uid();
    if peer != user() {
        let text = format!("the process at the other end belongs to the user {peer}");
        return Err(io::Error::new(ErrorKind::PermissionDenied, text));
    }
    let stream = Arc::new(stream);
    let receiver = Receiver { stream: Arc::clone(&stream), bytes: Vec::new(), descriptors: VecDeque::new() };
    Ok((Sender { stream, unsent: Vec::new() }, receiver))
}

/// The user of this process, as the other end is told it.
fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Sender {
    stream: Arc<UnixStream>,
    /// What is left of a message that was sent in part.
    unsent: Vec<u8>,
}

impl Sender {
    /// Sends a message with its descriptor, without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` while the other end does not read; nothing of this message was sent then.
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
            Ok(sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut with, SendFlags::NOSIGNAL)?)
        })
    }

    /// The stream, to wait until it takes more.
    pub(crate) fn stream(&self) -> Arc<UnixStream> {
        Arc::clone(&self.stream)
    }
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct Receiver {
    stream: Arc<UnixStream>,
    bytes: Vec<u8>,
    /// Those that came with the messages, in their order.
    descriptors: VecDeque<OwnedFd>,
}

/// Why no message came.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The other end has closed.
    Closed,
    /// What came is no message.
    Malformed,
    /// A descriptor came, and this process has none left for it.
    OutOfDescriptors,
}

impl Receiver {
    /// Waits for a message, and the descriptor that belongs to it.
    pub(crate) async fn receive(&mut self) -> Result<(Message, Option<OwnedFd>), Failure> {
        loop {
            if let Some((bytes, length)) = message::frame(&self.bytes).map_err(|_| Failure::Malformed)? {
                let message = Message::decode(bytes).map_err(|_| Failure::Malformed)?;
                self.bytes.drain(..length);
                let descriptor = if message.has_descriptor() { self.descriptors.pop_front() } else { None };
                if message.has_descriptor() != descriptor.is_some() {
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
                descriptors.extend(came.map(close_on_exec));
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Failure::OutOfDescriptors);
        }
        if received.bytes == 0 {
            return Err(Failure::Closed);
        }
        bytes.extend(&room[..received.bytes]);
        // Whoever sends descriptors that belong to no message would have them pile up.
        if bytes.len() > BYTES_AT_ONCE + MAX_MESSAGE || descriptors.len() > DESCRIPTORS {
            return Err(Failure::Malformed);
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const RECEIVE: RecvFlags = RecvFlags::empty();

/// On Linux they come that way.
fn close_on_exec(descriptor: OwnedFd) -> OwnedFd {
    #[cfg(not(target_os = "linux"))]
    let _ = rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC);
    descriptor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendezvous() -> Rendezvous {
        let owner = "127.0.0.1:4369".parse().expect("an address");
        let folder = format!("embedded_epmd-test-{}", std::process::id());
        Rendezvous::in_folder(std::env::temp_dir().join(folder), owner)
    }

    #[tokio::test]
    async fn a_place_in_a_folder_is_claimed_once_and_free_after_its_holder() {
        let rendezvous = rendezvous();
        let folder = rendezvous.folder.clone().expect("a folder");
        let claim = rendezvous.claim().expect("a free name");
        assert_eq!(rendezvous.claim().expect_err("a claimed name").kind(), ErrorKind::AddrInUse);
        let (connected, accepted) = tokio::join!(rendezvous.connect(), claim.accept());
        let (mut sender, _) = connected.expect("somebody to connect to");
        let (_, mut receiver) = open(accepted.expect("a member")).expect("the same user");
        sender.send(&Message::Alive.encode(), None).expect("room for it");
        assert!(matches!(receiver.receive().await, Ok((Message::Alive, None))));

        drop(claim);
        drop(rendezvous.claim().expect("a name that its holder gave up, though its socket is there"));
        assert!(rendezvous.connect().await.is_err());

        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("our folder");
        assert_eq!(rendezvous.claim().expect_err("a folder open to others").kind(), ErrorKind::PermissionDenied);
        fs::remove_dir_all(folder).expect("our folder");
    }

    #[tokio::test]
    async fn what_belongs_to_no_message_ends_the_channel() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let (mut sender, mut receiver) = (open(one).expect("our own").0, open(other).expect("our own").1);
        sender.send(&Message::Listener.encode(), None).expect("room for it");
        assert!(matches!(receiver.receive().await, Err(Failure::Malformed)), "a listener without a descriptor");

        let (one, other) = UnixStream::pair().expect("a pair");
        let (mut sender, mut receiver) = (open(one).expect("our own").0, open(other).expect("our own").1);
        sender.send(&[0xff, 0xff, 0], None).expect("room for it");
        assert!(matches!(receiver.receive().await, Err(Failure::Malformed)), "a message that is too long");
    }
}
