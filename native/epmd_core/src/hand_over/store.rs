//! Keeps what a next life of this service needs to go on for its owner in the service manager's store.
//!
//! A connection lasts as long as any process has its descriptor, so the service manager gets one of each, and of a log
//! of the table. It follows the table as a standby does; what it does not take it closes without a word. So it gets one
//! end of a pair of sockets as well, the witness: while that is open, the store has room.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::hello::Hello;
use super::kept::{number, CONNECTION, LISTENER, TABLE};
use super::message::{self, Message};
use crate::os;
use crate::registry::follower::{Follower, Step};
use crate::registry::{Descriptor, Registry};
use crate::service_manager::Notifier;

const WITNESS: &str = "epmd-witness";
/// Steps that are taken before other peers get a turn.
const STEPS_AT_ONCE: usize = 256;
/// How long the log may become beyond twice its first length, before another takes its place; bytes.
const GROWTH: usize = 1 << 18;
/// A pause before a message is sent again that was refused for another reason than a full queue.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the service manager may take to answer, and to empty the store.
const PATIENCE: Duration = Duration::from_secs(2);

/// The store of this service, as far as it is filled from here.
#[derive(Clone, Debug)]
pub(crate) struct Store(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    notifier: Arc<Notifier>,
    registry: Registry,
    hello: Hello,
    follower: Arc<Follower>,
    log: Log,
    /// The number of the table in the store.
    table: u64,
    /// The registrations whose connections are in the store.
    connections: BTreeSet<u64>,
    /// What the service manager has not been sent yet.
    outgoing: VecDeque<(String, Option<Arc<dyn Descriptor>>)>,
    /// Something has been stored since the last witness was.
    unwitnessed: bool,
}

/// A table in the making.
#[derive(Debug)]
struct Log {
    file: File,
    /// Its length when it was whole, and now.
    first: usize,
    length: usize,
}

/// How far the passing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Done,
    Blocked,
    More,
}

/// Whether the service manager keeps what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Some,
    None,
}

impl Store {
    /// Has this table kept from now on, in the place of what is there already: the newest table's number and names.
    pub(crate) fn new(
        notifier: Notifier,
        registry: &Registry,
        hello: Hello,
        (table, names): (u64, &[String]),
    ) -> io::Result<Self> {
        let connections = names.iter().filter_map(|name| number(name, CONNECTION)).collect();
        let mut state = State {
            notifier: Arc::new(notifier),
            registry: registry.clone(),
            hello,
            follower: registry.follow(None),
            log: Log::new()?,
            table,
            connections,
            outgoing: VecDeque::new(),
            unwitnessed: false,
        };
        state.begin()?;
        Ok(Self(Arc::new(Mutex::new(state))))
    }

    /// Passes what the store lacks, as far as it can be without waiting.
    pub(crate) fn pass(&self) {
        // Who tends it finds the same error.
        let _ = self.0.lock().pass();
    }

    /// Has these listeners kept in the place of those that are.
    pub(crate) fn renew(&self, listeners: Vec<Arc<dyn Descriptor>>) {
        self.0.lock().remove(LISTENER.into());
        self.extend(listeners);
    }

    /// Has these listeners kept as well.
    pub(crate) fn extend(&self, listeners: Vec<Arc<dyn Descriptor>>) {
        let mut state = self.0.lock();
        listeners.into_iter().for_each(|listener| state.store(LISTENER.into(), listener));
        let _ = state.pass();
    }

    /// Tends the store for as long as the service manager hears; calls `full` when it has no more room.
    pub(crate) async fn tend(&self, full: impl Fn()) -> io::Error {
        let mut witness = None;
        loop {
            let (progress, notifier, follower) = {
                let mut state = self.0.lock();
                let progress = match state.pass() {
                    Ok(progress) => progress,
                    Err(error) => return error,
                };
                if progress == Progress::Done && std::mem::take(&mut state.unwitnessed) {
                    match state.witness() {
                        Ok(new) => witness = Some(new),
                        Err(error) => return error,
                    }
                    continue;
                }
                (progress, Arc::clone(&state.notifier), Arc::clone(&state.follower))
            };
            tokio::select! {
                () = closed(witness.as_ref()) => {
                    witness = None;
                    full();
                }
                () = tokio::task::yield_now(), if progress == Progress::More => {}
                () = async { tokio::join!(notifier.writable(), sleep(PAUSE)); }, if progress == Progress::Blocked => {}
                () = follower.stepped(), if progress == Progress::Done => {}
            }
        }
    }

    /// Passes all that the store lacks, waiting a moment for the service manager where it must. Whether it has it all.
    pub(crate) async fn complete(&self) -> bool {
        let passed = async {
            loop {
                let (progress, notifier) = {
                    let mut state = self.0.lock();
                    (state.pass(), Arc::clone(&state.notifier))
                };
                match progress {
                    Ok(Progress::Done) => return true,
                    Ok(Progress::More) => {}
                    Ok(Progress::Blocked) => notifier.writable().await,
                    Err(_) => return false,
                }
            }
        };
        timeout(PATIENCE, passed).await.unwrap_or(false)
    }

    /// Takes everything back, waiting a moment for the service manager where it must.
    pub(crate) async fn empty(&self) {
        let (notifier, outgoing) = {
            let mut state = self.0.lock();
            let names = state.connections.iter().map(|id| format!("{CONNECTION}{id}"));
            let table = format!("{TABLE}{}", state.table);
            let names: Vec<_> = names.chain([LISTENER.into(), table, WITNESS.into()]).collect();
            state.outgoing.clear();
            (Arc::clone(&state.notifier), names)
        };
        remove(&notifier, &outgoing).await;
    }
}

/// Takes everything of these names from the store, waiting a moment for the service manager where it must.
pub(crate) async fn remove(notifier: &Notifier, names: &[String]) {
    let removed = async {
        for name in names {
            while let Err(error) = notifier.send(&removal(name), None) {
                if error.kind() != ErrorKind::WouldBlock {
                    return;
                }
                notifier.writable().await;
            }
        }
    };
    let _ = timeout(PATIENCE, removed).await;
}

/// Whether the service manager keeps anything, asked before it is sent what matters.
pub(crate) async fn room(notifier: &Notifier) -> io::Result<Room> {
    let (witness, end) = pair()?;
    notifier.send(&storing(WITNESS), Some(end.as_fd()))?;
    drop(end);
    let (answered, end) = pair()?;
    notifier.send("BARRIER=1", Some(end.as_fd()))?;
    drop(end);
    // It closes this once it has read everything that came before.
    if timeout(PATIENCE, closed(Some(&answered))).await.is_err() {
        return Ok(Room::Some);
    }
    let refused = timeout(Duration::from_millis(1), closed(Some(&witness))).await.is_ok();
    notifier.send(&removal(WITNESS), None)?;
    Ok(if refused { Room::None } else { Room::Some })
}

fn storing(name: &str) -> String {
    format!("FDSTORE=1\nFDNAME={name}")
}

fn removal(name: &str) -> String {
    format!("FDSTOREREMOVE=1\nFDNAME={name}")
}

/// A pair of sockets, of which one tells when the other is closed.
fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (own, others) = StdUnixStream::pair()?;
    own.set_nonblocking(true)?;
    Ok((UnixStream::from_std(own)?, others.into()))
}

async fn closed(own: Option<&UnixStream>) {
    let Some(own) = own else { return std::future::pending().await };
    let mut byte = [0];
    while own.readable().await.is_ok() {
        match own.try_read(&mut byte) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

impl State {
    /// Begins another table, and has it kept in the place of the last.
    fn begin(&mut self) -> io::Result<()> {
        self.follower = self.registry.follow(None);
        self.log = Log::new()?;
        let mut bytes = Message::Hello(self.hello.clone()).encode();
        while let Ok(Some(step)) = self.follower.take() {
            self.follow(step, &mut bytes);
        }
        self.log.append(&bytes)?;
        self.log.first = self.log.length;
        let last = self.table;
        self.table += 1;
        // Where the store is full, the new table needs room before the old one can go.
        let gives_way = self.connections.first().copied();
        let gives_way = gives_way.and_then(|id| Some((id, self.connection(id)?)));
        if let Some((id, _)) = gives_way {
            self.remove(format!("{CONNECTION}{id}"));
        }
        let file = Arc::new(self.log.file.try_clone()?);
        self.store(format!("{TABLE}{}", self.table), file);
        self.remove(format!("{TABLE}{last}"));
        if let Some((id, connection)) = gives_way {
            self.store(format!("{CONNECTION}{id}"), connection);
        }
        Ok(())
    }

    fn connection(&self, id: u64) -> Option<Arc<dyn Descriptor>> {
        self.registry.entries().iter().find(|entry| entry.id() == id)?.connection()
    }

    fn pass(&mut self) -> io::Result<Progress> {
        // What it does not read waits in the table's steps, not here.
        if self.send()? == Progress::Blocked {
            return Ok(Progress::Blocked);
        }
        let mut bytes = Vec::new();
        for _ in 0..STEPS_AT_ONCE {
            let taken = self.follower.take();
            match taken {
                Ok(Some(step)) => self.follow(step, &mut bytes),
                Ok(None) => {
                    self.log.append(&bytes)?;
                    if self.log.length > 2 * self.log.first + GROWTH {
                        self.begin()?;
                    }
                    return self.send();
                }
                // Steps were lost.
                Err(_) => {
                    self.begin()?;
                    bytes.clear();
                }
            }
        }
        self.log.append(&bytes)?;
        Ok(match self.send()? {
            Progress::Done => Progress::More,
            progress => progress,
        })
    }

    fn send(&mut self) -> io::Result<Progress> {
        while let Some((message, descriptor)) = self.outgoing.front() {
            match self.notifier.send(message, descriptor.as_deref().map(AsFd::as_fd)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Blocked),
                // Too many descriptors are on their way.
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => return Ok(Progress::Blocked),
                Err(error) => return Err(error),
            }
            self.outgoing.pop_front();
        }
        Ok(Progress::Done)
    }

    fn follow(&mut self, step: Step, bytes: &mut Vec<u8>) {
        let message = match step {
            Step::Entered(entry) => {
                let connection = entry.connection();
                bytes.extend(message::entry(&entry, connection.is_some()));
                if let Some(connection) = connection.filter(|_| self.connections.insert(entry.id())) {
                    self.store(format!("{CONNECTION}{}", entry.id()), connection);
                }
                return;
            }
            Step::Left(id) => {
                if self.connections.remove(&id) {
                    self.remove(format!("{CONNECTION}{id}"));
                }
                Message::Left(id)
            }
            Step::Epoch(epoch) => Message::Epoch(epoch),
            Step::Counters(counters) => Message::Counters(counters),
            Step::Departed(departure) => Message::Departed(departure),
            Step::Whole => Message::Whole,
            // A log begins with nothing to resume.
            Step::Resumed(_) | Step::Kept(_) => return,
        };
        bytes.extend(message.encode());
    }

    fn store(&mut self, name: String, descriptor: Arc<dyn Descriptor>) {
        self.unwitnessed = true;
        self.outgoing.push_back((storing(&name), Some(descriptor)));
    }

    fn remove(&mut self, name: String) {
        self.outgoing.push_back((removal(&name), None));
    }

    /// Another witness in the place of the last.
    fn witness(&mut self) -> io::Result<UnixStream> {
        let (own, others) = pair()?;
        self.remove(WITNESS.into());
        self.outgoing.push_back((storing(WITNESS), Some(Arc::new(others))));
        Ok(own)
    }
}

impl Log {
    fn new() -> io::Result<Self> {
        Ok(Self { file: os::memory_file("epmd-table")?, first: 0, length: 0 })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length += bytes.len();
        Ok(())
    }
}
