//! Whether the service manager keeps what it is sent.
//!
//! It does not say so, but it closes what it does not keep. The witness is one end of a pair of sockets: while the other
//! end sees it open, the store has room.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::service_manager::{removal, storing, Notifier};

/// How long the service manager may take to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// Its name in the store.
pub(super) const WITNESS: &str = "epmd-witness";
/// How long it may take to close what it does not keep, after it has said that it has read everything.
const CLOSING: Duration = Duration::from_millis(5);

/// Whether the service manager keeps what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Some,
    None,
}

/// Whether the service manager keeps anything, asked before it is sent what matters.
pub(crate) async fn room(notifier: &Notifier) -> io::Result<Room> {
    let (witness, end) = pair()?;
    let (answered, barrier) = pair()?;
    let asked = async {
        notifier.deliver(&storing(WITNESS), Some(end.as_fd())).await?;
        notifier.deliver("BARRIER=1", Some(barrier.as_fd())).await?;
        drop((end, barrier));
        // It closes this once it has read everything that came before.
        closed(Some(&answered)).await;
        let refused = timeout(CLOSING, closed(Some(&witness))).await.is_ok();
        notifier.deliver(&removal(WITNESS), None).await?;
        Ok(if refused { Room::None } else { Room::Some })
    };
    // One that does not answer may be busy.
    timeout(TIMEOUT, asked).await.unwrap_or(Ok(Room::Some))
}

/// A pair of sockets, of which one tells when the other is closed.
pub(super) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (own, others) = StdUnixStream::pair()?;
    own.set_nonblocking(true)?;
    Ok((UnixStream::from_std(own)?, others.into()))
}

pub(super) async fn closed(own: Option<&UnixStream>) {
    let Some(own) = own else { return std::future::pending().await };
    let mut byte = [0];
    while own.readable().await.is_ok() {
        match own.try_read(&mut byte) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}
