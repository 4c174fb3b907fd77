//! The lock that decides who serves: a record lock on every listener. So two members with one listener in common exclude
//! each other, in whatever order they have theirs, and whatever others one of them has.
//!
//! Only who was given a listener can try, so no other user can take it, fill it or be in its way. It goes with the
//! process, however that ends. Linux alone has such locks on sockets (tried on 5.10 to 6.18), and a handover.
//!
//! A record lock ends as soon as its process closes *any* descriptor of the socket. So an owner closes no descriptor of
//! a listener before it stops serving it. And it does not exclude within a process, in which the tests have
//! several members, and a VM that runs `init:restart` two for a moment: those exclude each other by a list.

use std::collections::BTreeSet;
use std::io;

use parking_lot::Mutex;
use rustix::fd::{AsFd, OwnedFd};

use crate::os;

/// The sockets whose locks are held in this process, by their inodes.
static HELD: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// A lock that can be tried. It needs no more descriptors for that.
#[derive(Debug, Default)]
pub(crate) struct PendingLock(Vec<Record>);

/// The lock, held until this is dropped or released.
#[derive(Debug)]
pub(crate) struct OwnerLock(PendingLock);

/// The record lock on one listener.
#[derive(Debug)]
struct Record {
    listener: OwnedFd,
    inode: u64,
}

impl PendingLock {
    /// The lock on these listeners.
    pub(crate) fn on(listeners: &[impl AsFd]) -> io::Result<Self> {
        let mut lock = Self::default();
        listeners.iter().try_for_each(|listener| lock.extend(listener.as_fd()))?;
        Ok(lock)
    }

    /// It is on this listener as well.
    pub(crate) fn extend(&mut self, listener: impl AsFd) -> io::Result<()> {
        let inode = os::inode(listener.as_fd())?;
        if !self.is_on(inode) {
            self.0.push(Record { listener: listener.as_fd().try_clone_to_owned()?, inode });
        }
        Ok(())
    }

    /// Tries to lock. The error gives the pending lock back, with that of the system if another process was not the
    /// reason.
    pub(crate) fn try_lock(mut self) -> Result<OwnerLock, (Self, Option<io::Error>)> {
        // All in one order: of several that try at once, one gets everything.
        self.0.sort_unstable_by_key(|record| record.inode);
        for (place, record) in self.0.iter().enumerate() {
            if let Err(error) = record.try_lock() {
                self.0[..place].iter().for_each(Record::unlock);
                return Err((self, error));
            }
        }
        Ok(OwnerLock(self))
    }

    /// Whether nobody holds the lock.
    pub(crate) fn is_free(&self) -> bool {
        self.0.iter().all(Record::is_free)
    }

    /// The process that holds the lock, if that is another one and visible.
    pub(crate) fn holder(&self) -> Option<i32> {
        self.0.iter().find_map(Record::holder)
    }

    fn is_on(&self, inode: u64) -> bool {
        self.0.iter().any(|record| record.inode == inode)
    }
}

impl OwnerLock {
    /// Tries the lock on these listeners. `Ok(None)` means that another process has it.
    ///
    /// # Errors
    ///
    /// On a system that has no such locks.
    pub(crate) fn try_on(listeners: &[impl AsFd]) -> io::Result<Option<Self>> {
        match PendingLock::on(listeners)?.try_lock() {
            Ok(lock) => Ok(Some(lock)),
            Err((_, None)) => Ok(None),
            Err((_, Some(error))) => Err(error),
        }
    }

    /// Locks the listeners that are served from now on, before anybody is given them. Returns the lock on the others, to
    /// be held until they are shut.
    ///
    /// # Errors
    ///
    /// When one cannot be locked. Then nothing changes.
    pub(crate) fn follow(&mut self, listeners: &[impl AsFd]) -> io::Result<Self> {
        let (mut served, mut new) = (BTreeSet::new(), PendingLock::default());
        for listener in listeners {
            let inode = os::inode(listener.as_fd())?;
            served.insert(inode);
            // No copy of one that is locked: to close that would end the lock.
            if !self.0.is_on(inode) {
                new.extend(listener.as_fd())?;
            }
        }
        let mut new = new.try_lock().map_err(|(_, error)| error.unwrap_or(io::ErrorKind::WouldBlock.into()))?;
        new.0 .0.append(&mut self.0 .0);
        let (held, others) = new.take().0.into_iter().partition(|record| served.contains(&record.inode));
        self.0 = PendingLock(held);
        Ok(Self(PendingLock(others)))
    }

    /// Lets others have it. This process can try again.
    pub(crate) fn release(mut self) -> PendingLock {
        self.unlock();
        self.take()
    }

    fn unlock(&self) {
        self.0 .0.iter().for_each(Record::unlock);
    }

    fn take(&mut self) -> PendingLock {
        std::mem::take(&mut self.0)
    }
}

impl Drop for OwnerLock {
    fn drop(&mut self) {
        self.unlock();
    }
}

impl Record {
    fn try_lock(&self) -> Result<(), Option<io::Error>> {
        if !HELD.lock().insert(self.inode) {
            return Err(None);
        }
        let failed = match os::try_lock(&self.listener) {
            Ok(true) => return Ok(()),
            Ok(false) => None,
            Err(error) => Some(error),
        };
        HELD.lock().remove(&self.inode);
        Err(failed)
    }

    fn unlock(&self) {
        let _ = os::unlock(&self.listener);
        HELD.lock().remove(&self.inode);
    }

    fn is_free(&self) -> bool {
        !HELD.lock().contains(&self.inode) && matches!(os::lock_holder(&self.listener), Ok(None))
    }

    fn holder(&self) -> Option<i32> {
        os::lock_holder(&self.listener).ok()?.filter(|pid| *pid > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").expect("a free port")
    }

    fn lock(listeners: &[&TcpListener]) -> Option<OwnerLock> {
        OwnerLock::try_on(listeners).expect("a lock")
    }

    #[test]
    fn one_at_a_time_has_the_lock() {
        let listener = listener();
        let first = lock(&[&listener]).expect("it is free");
        let second = PendingLock::on(&[&listener]).expect("a descriptor");
        let (second, error) = second.try_lock().expect_err("it is held");
        assert!(error.is_none(), "{error:?}");
        let first = first.release();
        let second = second.try_lock().expect("it is free");
        assert!(first.try_lock().is_err());
        drop(second);
        assert!(lock(&[&listener]).is_some());
    }

    #[test]
    fn one_listener_in_common_excludes_in_whatever_order_they_come() {
        let [a, b, c] = [(); 3].map(|()| listener());
        for others in [&[&a, &b][..], &[&b, &a], &[&c, &b], &[&b], &[&b, &b]] {
            let held = lock(&[&a, &b]).expect("it is free");
            let pending = PendingLock::on(others).expect("descriptors");
            assert!(!pending.is_free());
            let (pending, _) = pending.try_lock().expect_err("one is held");
            assert!(lock(&[&c]).is_some(), "what was locked before the one that is held is free again");
            drop(held);
            assert!(pending.is_free() && pending.try_lock().is_ok());
        }
    }

    #[test]
    fn it_follows_the_listeners_that_are_served_and_the_others_are_locked_until_they_are_shut() {
        let [old, both, new] = [(); 3].map(|()| listener());
        let mut held = lock(&[&old, &both]).expect("it is free");
        let others = held.follow(&[&both, &new]).expect("a lock");
        let taken = |listener: &TcpListener| lock(&[listener]).is_none();
        assert!(taken(&old) && taken(&both) && taken(&new));
        drop(others);
        assert!(!taken(&old) && taken(&both) && taken(&new));
        let _other = lock(&[&old]).expect("it is free");
        held.follow(&[&old, &new]).expect_err("another has one");
        assert!(taken(&both) && taken(&new), "nothing has changed");
        drop(held);
        assert!(!taken(&both) && !taken(&new));
    }
}
