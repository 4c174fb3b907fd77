//! Mirrors the listeners, connections and table into the service manager's descriptor store, so that the next start of
//! this service can resume from them.
//!
//! A connection lasts as long as any process has its descriptor, so the service manager gets one of each, and of a log
//! of the table. The store subscribes to the table as a follower does; what the service manager does not take it closes
//! without a word, so it gets a [witness](super::witness) as well.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fd::{AsFd, OwnedFd};
use tokio::time::{sleep, timeout, timeout_at, Instant};

use super::filling::{Action, Filling, Full, MOST};
use super::item::Item;
use super::notifier::{removal, storing, Notifier, BARRIER};
use super::restored::Stored;
use super::table::Log;
use super::witness::{Heard, Witness, TIMEOUT};
use crate::backoff::until;
use crate::hand_over::message::Message;
use crate::hand_over::Hello;
use crate::os;
use crate::registry::log::{Lagged, LogEntry, Subscription};
use crate::registry::{Descriptor, Registry};

/// Log entries that are taken before other peers get a turn.
const ENTRIES_AT_ONCE: usize = 256;
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
    filling: Filling,
    notifier: Arc<Notifier>,
    registry: Registry,
    hello: Hello,
    listeners: Vec<Arc<dyn Descriptor>>,
    subscription: Arc<Subscription>,
    log: Log,
    /// What the service manager has not been sent yet.
    outgoing: VecDeque<(String, Option<Arc<dyn Descriptor>>)>,
    /// While it should be in the store.
    witness: Option<Arc<Witness>>,
    is_full: Arc<AtomicBool>,
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
        let filling = Filling::new(stored.items, stored.table, stored.log.is_some(), MOST, Instant::now());
        let mut state = State {
            filling,
            notifier: Arc::new(notifier),
            registry: registry.clone(),
            hello,
            listeners,
            subscription: registry.subscribe(None),
            log: stored.log.map_or_else(Log::new, Ok)?,
            outgoing: VecDeque::new(),
            witness: None,
            is_full: Arc::default(),
        };
        state.carry_out()?;
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
        state.listeners = listeners;
        state.filling.relisten(Instant::now());
        let _ = state.pass();
    }

    /// Tends the store for as long as the service manager hears; calls `full` when it has no more room.
    pub(crate) async fn tend(&self, full: impl Fn(Full)) -> io::Error {
        loop {
            let (progress, notifier, subscription, witness, due) = {
                let mut state = self.state.lock();
                let progress = match state.pass() {
                    Ok(progress) => progress,
                    Err(error) => return error,
                };
                state.filling.full().map(&full);
                let (notifier, subscription) = (Arc::clone(&state.notifier), Arc::clone(&state.subscription));
                (progress, notifier, subscription, state.witness.clone(), state.filling.due())
            };
            let is_done = progress == Progress::Done;
            let heard = async {
                match &witness {
                    Some(witness) => witness.heard().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                heard = heard => {
                    let mut state = self.state.lock();
                    // One that has given way is closed as well.
                    let is_current = state.witness.as_ref().zip(witness).is_some_and(|(now, then)| Arc::ptr_eq(now, &then));
                    if is_current {
                        state.hear(heard);
                    }
                }
                () = tokio::task::yield_now(), if progress == Progress::More => {}
                () = notifier.writable(), if progress == Progress::Blocked => {}
                () = sleep(PAUSE), if progress == Progress::Crowded => {}
                () = subscription.appended(), if is_done => {}
                () = until(due), if is_done => self.state.lock().filling.on_time(Instant::now()),
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
        let young = async { while self.state.lock().filling.hurry(Instant::now()) && self.passed().await {} };
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

    /// Copies of what is stored, when that is everything.
    pub(crate) fn copies(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let state = self.state.lock();
        let mut copies = Vec::new();
        for item in state.filling.items().filter(|item| *item != Item::Witness) {
            for descriptor in state.descriptors(item)? {
                copies.push((item.to_string(), descriptor.as_fd().try_clone_to_owned()?));
            }
        }
        Ok(copies)
    }

    /// Takes everything back, waiting a moment for the service manager where it must.
    pub(crate) async fn empty(&self) {
        let (notifier, items) = {
            let mut state = self.state.lock();
            state.outgoing.clear();
            (Arc::clone(&state.notifier), state.filling.items().collect::<Vec<_>>())
        };
        remove(&notifier, items).await;
    }
}

/// Takes these from the store, waiting a moment for the service manager where it must.
pub(crate) async fn remove(notifier: &Notifier, items: Vec<Item>) {
    let removed = async {
        for item in items {
            if notifier.deliver(&removal(item), None).await.is_err() {
                return;
            }
        }
    };
    let _ = timeout(TIMEOUT, removed).await;
}

impl State {
    /// Does what the rules say.
    fn carry_out(&mut self) -> io::Result<()> {
        while let Some(action) = self.filling.next_action() {
            match action {
                Action::NewLog => self.log = Log::new()?,
                Action::WriteTable => self.write_table()?,
                Action::Store(Item::Witness) => self.store_witness()?,
                Action::Store(item) => {
                    let descriptors = self.descriptors(item)?;
                    self.outgoing.extend(descriptors.into_iter().map(|descriptor| (storing(item), Some(descriptor))));
                }
                Action::Remove(item) => {
                    if item == Item::Witness {
                        self.witness = None;
                    }
                    self.outgoing.push_back((removal(item), None));
                }
            }
        }
        self.is_full.store(self.filling.full().is_some(), Ordering::Relaxed);
        Ok(())
    }

    /// What is stored as this. There is nothing where a connection has just ended, or another table has come.
    fn descriptors(&self, item: Item) -> io::Result<Vec<Arc<dyn Descriptor>>> {
        Ok(match item {
            Item::Listener => self.listeners.clone(),
            Item::Table(number) if number == self.filling.table() => vec![Arc::new(self.log.copy()?)],
            Item::Connection(id) => self.registry.get(id).and_then(|entry| entry.connection()).into_iter().collect(),
            Item::Table(_) | Item::Witness => Vec::new(),
        })
    }

    fn store_witness(&mut self) -> io::Result<()> {
        let (witness, stored, asked) = Witness::new()?;
        self.witness = Some(Arc::new(witness));
        self.outgoing.push_back((storing(Item::Witness), Some(Arc::new(stored))));
        self.outgoing.push_back((BARRIER.into(), Some(Arc::new(asked))));
        Ok(())
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Read => self.filling.answered(Instant::now()),
            Heard::Refused => {
                self.witness = None;
                self.filling.refused(Instant::now());
            }
        }
    }

    /// Writes the whole table to the log, and each of its changes from now on.
    fn write_table(&mut self) -> io::Result<()> {
        self.subscription = self.registry.subscribe(None);
        let mut bytes = Message::Hello(self.hello.clone()).encode();
        while let Ok(Some(entry)) = self.subscription.take() {
            self.follow(entry, &mut bytes);
        }
        // The ends of others may have been lost.
        let registry = &self.registry;
        self.filling.keep_only(|id| registry.get(id).is_some(), Instant::now());
        self.log.begin(&bytes)
    }

    /// Passes what there is, as far as the service manager takes it.
    fn pass(&mut self) -> io::Result<Progress> {
        self.carry_out()?;
        // What it does not read waits in the subscription, not here.
        let sent = self.send()?;
        if sent != Progress::Done {
            return Ok(sent);
        }
        let mut bytes = Vec::new();
        let (mut progress, mut are_lost) = (Progress::More, false);
        for _ in 0..ENTRIES_AT_ONCE {
            match self.subscription.take() {
                Ok(Some(entry)) => self.follow(entry, &mut bytes),
                Ok(None) => {
                    progress = Progress::Done;
                    break;
                }
                Err(Lagged) => {
                    are_lost = true;
                    break;
                }
            }
        }
        if !are_lost {
            self.log.append(&bytes)?;
        }
        if are_lost || self.log.is_long() {
            self.filling.begin_table(Instant::now());
        }
        self.carry_out()?;
        Ok(match self.send()? {
            Progress::Done => progress,
            waiting => waiting,
        })
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
            LogEntry::Ended(id, _) => self.filling.ended(*id, Instant::now()),
            LogEntry::Registered(entry) if !entry.is_local() => self.filling.registered(entry.id(), Instant::now()),
            _ => {}
        }
        bytes.extend(Message::Log(entry).encode());
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::ffi::OsString;
    use std::sync::mpsc;
    use std::thread;

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[tokio::test]
    async fn whether_it_has_all_is_told_while_a_table_is_stored() {
        let name = OsString::from(format!("@embedded_epmd_store_{}", std::process::id()));
        let manager = Socket::new(Domain::UNIX, Type::DGRAM, None).expect("a socket");
        manager.bind(&os::unix_address(&name).expect("a name")).expect("it is free");
        let notifier = Notifier::open(&name).expect("it is there");
        let hello = Hello::new(vec![[127, 0, 0, 1].into()], None);
        let store = Store::new(notifier, &Registry::default(), hello, Stored::default(), Vec::new()).expect("a store");
        let busy = store.state.lock();
        let (tell, told) = mpsc::channel();
        let asked = store.clone();
        thread::spawn(move || tell.send(asked.has_all()));
        assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(true));
        drop(busy);
    }
}
