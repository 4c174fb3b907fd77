//! The lock that decides who serves: a record lock on one of the listeners, that with the lowest address. Members may
//! have the same listeners in different orders, as systemd gives them back in its own.
//!
//! Only who was given the listener can try, so no other user can take it, fill it or be in its way. It goes with the
//! process, however that ends. Linux alone has such locks on sockets (tried on 5.10 to 6.18), and a handover.
//!
//! A record lock ends as soon as its process closes *any* descriptor of the socket. So an owner closes no descriptor of
//! that listener before it stops serving it. And it does not exclude within a process, in which the tests have
//! several members, and a VM that runs `init:restart` two for a moment: those exclude each other by a list.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use rustix::fs::{fcntl_lock, fstat, FlockOperation};
use rustix::io::Errno;
use rustix::process::{fcntl_getlk, Flock, FlockType};

/// The sockets whose locks are held in this process, by their inodes.
static HELD: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// A lock that can be tried. It needs no more descriptors for that.
#[derive(Debug)]
pub(crate) struct PendingLock {
    listener: OwnedFd,
    inode: u64,
}

/// The lock, held until this is dropped or released.
#[derive(Debug)]
pub(crate) struct OwnerLock(Option<PendingLock>);

impl PendingLock {
    /// The lock on this listener.
    pub(crate) fn on(listener: impl AsFd) -> io::Result<Self> {
        let inode = fstat(&listener)?.st_ino;
        Ok(Self { listener: listener.as_fd().try_clone_to_owned()?, inode })
    }

    /// Tries to lock. The error gives the pending lock back, with that of the system if another process was not the
    /// reason.
    pub(crate) fn try_lock(self) -> Result<OwnerLock, (Self, Option<io::Error>)> {
        if !HELD.lock().insert(self.inode) {
            return Err((self, None));
        }
        match fcntl_lock(&self.listener, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(OwnerLock(Some(self))),
            Err(error) => {
                HELD.lock().remove(&self.inode);
                let is_taken = matches!(error, Errno::AGAIN | Errno::ACCESS);
                Err((self, (!is_taken).then(|| error.into())))
            }
        }
    }

    /// Whether nobody holds the lock.
    pub(crate) fn is_free(&self) -> bool {
        let held = || fcntl_getlk(&self.listener, &Flock::from(FlockType::WriteLock));
        !HELD.lock().contains(&self.inode) && matches!(held(), Ok(None))
    }

    /// The process that holds the lock, if that is another one and visible.
    pub(crate) fn holder(&self) -> Option<i32> {
        let holder = fcntl_getlk(&self.listener, &Flock::from(FlockType::WriteLock)).ok()??;
        holder.pid.map(|pid| pid.as_raw_nonzero().get())
    }
}

impl OwnerLock {
    /// Tries the lock on this listener. `Ok(None)` means that another process has it.
    ///
    /// # Errors
    ///
    /// On a system that has no such locks.
    pub(crate) fn try_on(listener: impl AsFd) -> io::Result<Option<Self>> {
        match PendingLock::on(listener)?.try_lock() {
            Ok(lock) => Ok(Some(lock)),
            Err((_, None)) => Ok(None),
            Err((_, Some(error))) => Err(error),
        }
    }

    /// The lock on a listener that takes this one's place; `None` if it is the same.
    pub(crate) fn follow(&self, listener: impl AsFd) -> io::Result<Option<Self>> {
        if self.0.as_ref().is_some_and(|held| fstat(&listener).is_ok_and(|other| other.st_ino == held.inode)) {
            return Ok(None);
        }
        Self::try_on(listener)
    }

    /// Lets others have it. This process can try again.
    pub(crate) fn release(mut self) -> Option<PendingLock> {
        let pending = self.0.take()?;
        pending.unlock();
        Some(pending)
    }
}

impl PendingLock {
    fn unlock(&self) {
        let _ = fcntl_lock(&self.listener, FlockOperation::NonBlockingUnlock);
        HELD.lock().remove(&self.inode);
    }
}

impl Drop for OwnerLock {
    fn drop(&mut self) {
        if let Some(pending) = &self.0 {
            pending.unlock();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn one_at_a_time_has_the_lock() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let first = OwnerLock::try_on(&listener).expect("a lock").expect("it is free");
        let second = PendingLock::on(&listener).expect("a descriptor");
        let (second, error) = second.try_lock().expect_err("it is held");
        assert!(error.is_none(), "{error:?}");
        let first = first.release().expect("it was held");
        let second = second.try_lock().expect("it is free");
        assert!(first.try_lock().is_err());
        drop(second);
        assert!(OwnerLock::try_on(&listener).expect("a lock").is_some());
    }
}
