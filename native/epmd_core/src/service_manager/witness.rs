//! Whether the service manager keeps what it is sent.
//!
//! It does not say so, but it closes what it does not keep. The witness is one end of a pair of sockets: while the other
//! end sees it open, the store has room. By a second pair it is asked to say when it has read that.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fd::{AsFd, OwnedFd};
use socket2::Socket;
use tokio::time::timeout;

use super::filling::CLOSING;
use super::item::Item;
use super::notifier::{removal, storing, Notifier, BARRIER};
use crate::os::{self, AsyncFd};

/// How long the service manager may take to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// Our ends of the two pairs.
#[derive(Debug)]
pub(super) struct Witness {
    witness: AsyncFd<Socket>,
    barrier: AsyncFd<Socket>,
    is_read: AtomicBool,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The service manager has read it, and everything that came before.
    Read,
    /// It was closed: there was no room for it.
    Refused,
}

impl Witness {
    /// A new one, and the ends for the service manager: of the witness, which is stored, and of the barrier.
    pub(super) fn new() -> io::Result<(Self, OwnedFd, OwnedFd)> {
        let pair = || {
            let (own, others) = os::socket_pair()?;
            own.set_nonblocking(true)?;
            io::Result::Ok((os::watch(own)?, OwnedFd::from(others)))
        };
        let ((witness, stored), (barrier, asked)) = (pair()?, pair()?);
        Ok((Self { witness, barrier, is_read: AtomicBool::new(false) }, stored, asked))
    }

    /// Waits for the next that is heard of it; that it was read is heard once.
    pub(super) async fn heard(&self) -> Heard {
        tokio::select! {
            biased;
            () = os::ended(&self.witness) => Heard::Refused,
            () = os::ended(&self.barrier), if !self.is_read.load(Ordering::Relaxed) => {
                self.is_read.store(true, Ordering::Relaxed);
                Heard::Read
            }
        }
    }
}

/// Whether the service manager keeps anything, asked before it is sent what matters.
pub(super) async fn has_room(notifier: &Notifier) -> io::Result<bool> {
    let (witness, stored, asked) = Witness::new()?;
    let answer = async {
        notifier.deliver(&storing(Item::Witness), Some(stored.as_fd())).await?;
        notifier.deliver(BARRIER, Some(asked.as_fd())).await?;
        drop((stored, asked));
        let is_refused = match witness.heard().await {
            Heard::Refused => true,
            Heard::Read => timeout(CLOSING, witness.heard()).await.is_ok(),
        };
        notifier.deliver(&removal(Item::Witness), None).await?;
        Ok(!is_refused)
    };
    // One that does not answer may be busy.
    timeout(TIMEOUT, answer).await.unwrap_or(Ok(true))
}
