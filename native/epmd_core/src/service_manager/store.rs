//! Mirrors the listeners, connections and table into the service manager's descriptor store, so that the next start of
//! this service can resume from them.
//!
//! A connection lasts as long as any process has its descriptor, so the service manager gets one of each, and of a log
//! of the table. The store subscribes to the table as a follower does; what the service manager does not take it closes
//! without a word, so it gets a [witness](super::witness) as well.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::iter;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fd::{AsFd, OwnedFd};
use socket2::Socket;
use tokio::time::{sleep, timeout, timeout_at, Instant};

use super::notifier::{removal, storing, Notifier};
use super::restored::{number, Stored, CONNECTION, LISTENER, TABLE};
use super::table::Log;
use super::witness::{pair, TIMEOUT, WITNESS};
use super::young::Young;
use crate::backoff::until;
use crate::hand_over::message::Message;
use crate::hand_over::Hello;
use crate::os::{self, AsyncFd};
use crate::registry::log::{LogEntry, Subscription};
use crate::registry::{Descriptor, Registry};

/// Log entries that are taken before other peers get a turn.
const ENTRIES_AT_ONCE: usize = 256;
/// How many connections are kept. systemd compares each with all that it has, which takes its time; and the next life is
/// told of them in one variable, of which Linux takes 131,072 bytes.
const MOST: usize = 4_000;
/// How long after something was stored the witness is. In between others may be stored, of which it tells as well.
const WITNESS_DELAY: Duration = Duration::from_millis(100);
/// A pause before a message is sent again that was refused for another reason than a full queue.
const PAUSE: Duration = Duration::from_millis(50);

/// The store of this service, as far as it is filled from here.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    state: Arc<Mutex<State>>,
    /// Whether something had no room. Who asks for the status does not wait while a table is being stored.
    is_full: Arc<AtomicBool>,
}

#[derive(Debug)]
struct State {
    notifier: Arc<Notifier>,
    registry: Registry,
    hello: Hello,
    subscription: Arc<Subscription>,
    log: Log,
    /// The number of the table in the store.
    table: u64,
    /// The registrations whose connections are in the store.
    connections: BTreeSet<u64>,
    /// Those whose connections are not stored yet.
    young: Young,
    /// What the service manager has not been sent yet.
    outgoing: VecDeque<(String, Option<Arc<dyn Descriptor>>)>,
    /// Our end of the witness, while that should be in the store.
    witness: Option<Arc<AsyncFd<Socket>>>,
    /// When the first thing was stored of which no witness tells.
    unwitnessed: Option<Instant>,
    /// What the store has no room for is left out.
    full: Option<Full>,
    is_full: Arc<AtomicBool>,
}

/// Why no more is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The service manager took no more.
    Refused,
    /// There are as many as are kept.
    Most,
}

/// How far the passing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Done,
    More,
    /// The service manager's queue is full.
    Blocked,
    /// Too many descriptors are on their way to it.
    Crowded,
}

impl Store {
    /// Has this table and these listeners kept from now on, in the place of what is there already.
    pub(crate) fn new(
        notifier: Notifier,
        registry: &Registry,
        hello: Hello,
        stored: Stored,
        listeners: Vec<Arc<dyn Descriptor>>,
    ) -> io::Result<Self> {
        let connections = stored.names.iter().filter_map(|name| number(name, CONNECTION)).collect();
        let (log, is_stored) = match stored.log {
            Some(log) => (log, true),
            None => (Log::new()?, false),
        };
        let mut state = State {
            notifier: Arc::new(notifier),
            registry: registry.clone(),
            hello,
            subscription: registry.subscribe(None),
            log,
            table: stored.table,
            connections,
            young: Young::default(),
            outgoing: VecDeque::new(),
            witness: None,
            unwitnessed: None,
            full: None,
            is_full: Arc::default(),
        };
        listeners.into_iter().for_each(|listener| state.store(LISTENER.into(), listener));
        if !is_stored {
            state.store_log()?;
        }
        state.write_table()?;
        let is_full = Arc::clone(&state.is_full);
        Ok(Self { state: Arc::new(Mutex::new(state)), is_full })
    }

    /// Whether it had room for everything.
    pub(crate) fn has_all(&self) -> bool {
        !self.is_full.load(Ordering::Relaxed)
    }

    /// Passes what the store lacks, as far as it can be without waiting.
    pub(crate) fn pass(&self) {
        // Who tends it finds the same error.
        let _ = self.state.lock().pass();
    }

    /// Has these listeners kept in the place of those that are.
    pub(crate) fn renew(&self, listeners: Vec<Arc<dyn Descriptor>>) {
        let mut state = self.state.lock();
        state.remove(LISTENER.into());
        listeners.into_iter().for_each(|listener| state.store(LISTENER.into(), listener));
        let _ = state.pass();
    }

    /// Tends the store for as long as the service manager hears; calls `full` when it has no more room.
    pub(crate) async fn tend(&self, full: impl Fn(Full)) -> io::Error {
        loop {
            let (progress, notifier, subscription, witness, witness_due, young_due) = {
                let mut state = self.state.lock();
                let progress = match state.pass() {
                    Ok(progress) => progress,
                    Err(error) => return error,
                };
                state.full.map(&full);
                let (notifier, subscription) = (Arc::clone(&state.notifier), Arc::clone(&state.subscription));
                let witness_due = state.unwitnessed.map(|since| since + WITNESS_DELAY);
                (progress, notifier, subscription, state.witness.clone(), witness_due, state.young.due())
            };
            let is_done = progress == Progress::Done;
            let closed = async {
                match &witness {
                    Some(witness) => os::ended(witness).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = closed => {
                    // One that has given way is closed as well.
                    let is_refused = |current: &mut Arc<_>| witness.is_some_and(|old| Arc::ptr_eq(current, &old));
                    let mut state = self.state.lock();
                    if state.witness.take_if(is_refused).is_some() {
                        state.set_full(Some(Full::Refused));
                    }
                }
                () = tokio::task::yield_now(), if progress == Progress::More => {}
                () = notifier.writable(), if progress == Progress::Blocked => {}
                () = sleep(PAUSE), if progress == Progress::Crowded => {}
                () = subscription.appended(), if is_done => {}
                () = until(young_due), if is_done => self.state.lock().store_due(),
                () = until(witness_due), if is_done => {
                    if let Err(error) = self.state.lock().send_witness() {
                        return error;
                    }
                }
            }
        }
    }

    /// Passes all that the store lacks, waiting a moment for the service manager where it must. Whether it has it all, but
    /// for the youngest registrations if these are too many for that moment.
    pub(crate) async fn complete(&self) -> bool {
        let deadline = Instant::now() + TIMEOUT;
        if !timeout_at(deadline, self.passed()).await.unwrap_or(false) {
            return false;
        }
        let young = async { while self.state.lock().store_oldest() && self.passed().await {} };
        let _ = timeout_at(deadline, young).await;
        true
    }

    /// Waits until the service manager has taken what it is to be passed. False if it cannot be reached.
    async fn passed(&self) -> bool {
        loop {
            let (progress, notifier) = {
                let mut state = self.state.lock();
                (state.pass(), Arc::clone(&state.notifier))
            };
            match progress {
                Ok(Progress::Done) => return true,
                Ok(Progress::More) => {}
                Ok(Progress::Blocked) => notifier.writable().await,
                Ok(Progress::Crowded) => sleep(PAUSE).await,
                Err(_) => return false,
            }
        }
    }

    /// Copies of what is stored, when that is everything; of the listeners, these.
    pub(crate) fn copies(&self, listeners: &[Arc<dyn Descriptor>]) -> io::Result<Vec<(String, OwnedFd)>> {
        let state = self.state.lock();
        let table = (format!("{TABLE}{}", state.table), state.log.copy()?);
        let copy = |name: String, descriptor: &dyn Descriptor| Ok((name, descriptor.as_fd().try_clone_to_owned()?));
        let listeners = listeners.iter().map(|listener| copy(LISTENER.into(), listener.as_ref()));
        let entries = state.registry.entries();
        let stored = entries.iter().filter(|entry| state.connections.contains(&entry.id()));
        let connections = stored.filter_map(|entry| Some((entry.id(), entry.connection()?)));
        let connections = connections.map(|(id, connection)| copy(name_of(id), connection.as_ref()));
        iter::once(Ok(table)).chain(listeners).chain(connections).collect()
    }

    /// Takes everything back, waiting a moment for the service manager where it must.
    pub(crate) async fn empty(&self) {
        let (notifier, outgoing) = {
            let mut state = self.state.lock();
            let names = state.connections.iter().map(|id| name_of(*id));
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
            if notifier.deliver(&removal(name), None).await.is_err() {
                return;
            }
        }
    };
    let _ = timeout(TIMEOUT, removed).await;
}

fn name_of(connection: u64) -> String {
    format!("{CONNECTION}{connection}")
}

impl State {
    /// Begins another table, and has it kept in the place of the last.
    fn begin(&mut self) -> io::Result<()> {
        self.log = Log::new()?;
        self.store_log()?;
        self.write_table()
    }

    /// Has the log kept in the place of the last.
    fn store_log(&mut self) -> io::Result<()> {
        let stored = Arc::new(self.log.copy()?);
        let last = self.table;
        self.table += 1;
        // Where the store is full, the new table needs room before the old one can go.
        let gives_way = self.connections.first().copied().filter(|_| last > 0);
        let gives_way = gives_way.and_then(|id| Some((id, self.connection(id)?)));
        if let Some((id, _)) = gives_way {
            self.remove(name_of(id));
        }
        // It is sent once the table is in it, and before the connections of which it tells: without them it is of more
        // use than they are without it.
        self.store(format!("{TABLE}{}", self.table), stored);
        self.remove(format!("{TABLE}{last}"));
        if let Some((id, connection)) = gives_way {
            self.store(name_of(id), connection);
        }
        Ok(())
    }

    /// Writes the whole table to the log, and each of its changes from now on.
    fn write_table(&mut self) -> io::Result<()> {
        self.subscription = self.registry.subscribe(None);
        let mut bytes = Message::Hello(self.hello.clone()).encode();
        while let Ok(Some(entry)) = self.subscription.take() {
            self.follow(entry, &mut bytes);
        }
        self.log.begin(&bytes)
    }

    fn set_full(&mut self, full: Option<Full>) {
        self.full = full;
        self.is_full.store(full.is_some(), Ordering::Relaxed);
    }

    fn connection(&self, id: u64) -> Option<Arc<dyn Descriptor>> {
        self.registry.get(id)?.connection()
    }

    fn pass(&mut self) -> io::Result<Progress> {
        // What it does not read waits in the subscription, not here.
        let sent = self.send()?;
        if sent != Progress::Done {
            return Ok(sent);
        }
        let mut bytes = Vec::new();
        for _ in 0..ENTRIES_AT_ONCE {
            let taken = self.subscription.take();
            match taken {
                Ok(Some(entry)) => self.follow(entry, &mut bytes),
                Ok(None) => {
                    self.log.append(&bytes)?;
                    if self.log.is_long() {
                        self.begin()?;
                    }
                    return self.send();
                }
                // Entries were lost.
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

    /// Stores another witness, of everything so far.
    fn send_witness(&mut self) -> io::Result<Progress> {
        self.unwitnessed = None;
        let (own, others) = pair()?;
        self.witness = Some(Arc::new(own));
        if self.full == Some(Full::Refused) {
            self.set_full(None);
        }
        self.outgoing.push_back((storing(WITNESS), Some(Arc::new(others))));
        self.send()
    }

    fn send(&mut self) -> io::Result<Progress> {
        while let Some((message, descriptor)) = self.outgoing.front() {
            match self.notifier.send(message, descriptor.as_deref().map(AsFd::as_fd)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Blocked),
                Err(error) if os::passing::is_crowded(&error) => return Ok(Progress::Crowded),
                Err(error) => return Err(error),
            }
            self.outgoing.pop_front();
        }
        Ok(Progress::Done)
    }

    fn follow(&mut self, entry: LogEntry, bytes: &mut Vec<u8>) {
        match &entry {
            // A log begins with nothing to resume, and who observes lives no longer than this owner.
            LogEntry::Resumed(_) | LogEntry::Retained(_) | LogEntry::Settled | LogEntry::Refused(_) => return,
            LogEntry::Ended(id, _) if self.connections.remove(id) => self.remove(name_of(*id)),
            LogEntry::Ended(id, _) => self.young.remove(*id),
            LogEntry::Registered(entry) if !self.connections.contains(&entry.id()) => {
                self.young.add(entry.id(), Instant::now());
            }
            _ => {}
        }
        bytes.extend(Message::Log(entry).encode());
    }

    /// Has those registrations kept that have lived long enough.
    fn store_due(&mut self) {
        let due = self.young.take_due(Instant::now());
        due.into_iter().for_each(|id| self.store_connection(id));
    }

    /// Has the oldest of those kept that are not. Whether there were any.
    fn store_oldest(&mut self) -> bool {
        let oldest = self.young.take_oldest();
        oldest.iter().for_each(|id| self.store_connection(*id));
        !oldest.is_empty()
    }

    fn store_connection(&mut self, id: u64) {
        // This VM's own node has none.
        let Some(connection) = self.connection(id) else { return };
        if self.connections.len() >= MOST {
            self.set_full(Some(Full::Most));
            return;
        }
        self.connections.insert(id);
        self.store(name_of(id), connection);
    }

    fn store(&mut self, name: String, descriptor: Arc<dyn Descriptor>) {
        self.unwitnessed.get_or_insert_with(Instant::now);
        if self.witness.take().is_some() {
            self.remove(WITNESS.into());
        }
        self.outgoing.push_back((storing(&name), Some(descriptor)));
    }

    fn remove(&mut self, name: String) {
        self.outgoing.push_back((removal(&name), None));
    }
}
