//! Whether the service manager keeps what it is sent.
//!
//! It does not say so, but it closes what it does not keep. The witness is one end of a pair of sockets: while the other
//! end sees it open, the store has room.

use std::io;
use std::time::Duration;

use rustix::fd::{AsFd, OwnedFd};
use socket2::Socket;
use tokio::time::timeout;

use super::notifier::{removal, storing, Notifier};
use crate::os::{self, AsyncFd};

/// How long the service manager may take to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// Its name in the store.
pub(super) const WITNESS: &str = "epmd-witness";
/// How long it may take to close what it does not keep, after it has said that it has read everything.
const CLOSING: Duration = Duration::from_millis(5);

/// Whether the service manager keeps anything, asked before it is sent what matters.
pub(super) async fn has_room(notifier: &Notifier) -> io::Result<bool> {
    let (witness, end) = pair()?;
    let (answered, barrier) = pair()?;
    let asked = async {
        notifier.deliver(&storing(WITNESS), Some(end.as_fd())).await?;
        notifier.deliver("BARRIER=1", Some(barrier.as_fd())).await?;
        drop((end, barrier));
        // It closes this once it has read everything that came before.
        os::ended(&answered).await;
        let refused = timeout(CLOSING, os::ended(&witness)).await.is_ok();
        notifier.deliver(&removal(WITNESS), None).await?;
        Ok(!refused)
    };
    // One that does not answer may be busy.
    timeout(TIMEOUT, asked).await.unwrap_or(Ok(true))
}

/// A pair of sockets, of which one tells when the other is closed.
pub(super) fn pair() -> io::Result<(AsyncFd<Socket>, OwnedFd)> {
    let (own, others) = os::socket_pair()?;
    own.set_nonblocking(true)?;
    Ok((os::watch(own)?, others.into()))
}
