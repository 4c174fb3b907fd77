//! What the service manager is told, by the rules of sd_notify(3): which descriptors it shall keep in its store.
//!
//! Nothing else is said, least of all `READY=1`: whether the service is ready is not for this crate to tell.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};

use rustix::fd::{BorrowedFd, OwnedFd};
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;

use super::item::Item;
use crate::os::{self, passing, UnixDatagram};

/// The message with which the service manager is asked to close its descriptor once it has read everything before.
pub(super) const BARRIER: &str = "BARRIER=1";

/// The socket on which the service manager listens.
#[derive(Debug)]
pub(crate) struct Notifier(UnixDatagram);

impl Notifier {
    /// Connects to the socket of that name; one that begins with `@` is abstract.
    pub(crate) fn open(name: &OsStr) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&os::unix_address(name)?)?;
        Ok(Self(UnixDatagram::from_std(OwnedFd::from(socket).into())?))
    }

    /// Sends a message with its descriptor, without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` while the service manager does not read.
    pub(crate) fn send(&self, message: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.0.try_io(Interest::WRITABLE, || passing::send(&self.0, message.as_bytes(), descriptor)).map(drop)
    }

    /// Sends a message with its descriptor as soon as the service manager reads.
    pub(crate) async fn deliver(&self, message: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        loop {
            match self.send(message, descriptor) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable().await,
                sent => return sent,
            }
        }
    }

    /// Waits until it takes more.
    pub(crate) async fn writable(&self) {
        let _ = self.0.writable().await;
    }
}

/// The message with which a descriptor is stored as this.
pub(super) fn storing(item: Item) -> String {
    format!("FDSTORE=1\nFDNAME={item}")
}

/// The message that takes this out of the store.
pub(super) fn removal(item: Item) -> String {
    format!("FDSTOREREMOVE=1\nFDNAME={item}")
}
