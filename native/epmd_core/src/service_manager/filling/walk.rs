//! Walks at random through what can happen to a store of any size: nodes come and go, the service manager is slow, the
//! log is begun anew, and the owner may be killed after each step. Rules that are broken on purpose must be found.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{catch_unwind, AssertUnwindSafe};

use super::*;

/// How many connections are kept.
const MOST: usize = 6;
/// How many messages the service manager lets wait.
const QUEUE: usize = 3;
const WALKS: u64 = 3_000;
const STEPS: usize = 60;

/// A descriptor: two of the same are the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    Listener(u64),
    Log(usize),
    Connection(u64),
    Witness(u64),
}

#[derive(Clone, Debug)]
enum Message {
    Store(Item, File),
    Remove(Item),
    Barrier(u64),
}

/// What systemd does with a store.
#[derive(Clone, Debug)]
struct Manager {
    room: usize,
    store: Vec<(Item, File)>,
    unread: VecDeque<Message>,
    closed: Vec<File>,
    /// Up to which witness it has read everything.
    answered: u64,
}

impl Manager {
    fn read(&mut self) {
        match self.unread.pop_front() {
            Some(Message::Store(_, file)) if self.store.iter().any(|(_, stored)| *stored == file) => {}
            Some(Message::Store(item, file)) if self.store.len() < self.room => self.store.push((item, file)),
            Some(Message::Store(_, file)) => self.closed.push(file),
            Some(Message::Barrier(witness)) => self.answered = witness,
            Some(Message::Remove(item)) => self.store.retain(|(stored, _)| *stored != item),
            None => {}
        }
    }

    fn has(&self, item: Item) -> bool {
        self.store.iter().any(|(stored, _)| *stored == item)
    }

    /// The number of the newest whole table, and its log.
    fn newest(&self, logs: &[Option<BTreeSet<u64>>]) -> Option<(u64, usize)> {
        let tables = self.store.iter().filter_map(|(item, file)| match (item, file) {
            (Item::Table(number), File::Log(log)) if logs[*log].is_some() => Some((*number, *log)),
            _ => None,
        });
        tables.max()
    }

    fn read_all(&mut self) {
        while !self.unread.is_empty() {
            self.read();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Registered(u64),
    Ended(u64),
}

/// A way to break the rules: what becomes of the actions, before they are carried out.
type Broken = fn(&Manager, Vec<Action>) -> Vec<Action>;

struct Owner {
    filling: Filling,
    broken: Broken,
    now: Instant,
    registry: BTreeSet<u64>,
    changes: VecDeque<Change>,
    /// What stands in each log; nothing before a whole table does.
    logs: Vec<Option<BTreeSet<u64>>>,
    /// Which of them is written.
    log: usize,
    outgoing: VecDeque<Message>,
    listener: u64,
    /// How many there were, and which is in the store.
    witnesses: u64,
    witness: Option<u64>,
    /// The last of which it was heard that it was read.
    heard: u64,
    manager: Manager,
}

impl Owner {
    fn new(room: usize, broken: Broken) -> Self {
        let now = Instant::now();
        let manager = Manager { room, store: Vec::new(), unread: VecDeque::new(), closed: Vec::new(), answered: 0 };
        let filling = Filling::new([], 0, false, MOST, now);
        let (changes, outgoing) = (VecDeque::new(), VecDeque::new());
        Self {
            filling,
            broken,
            now,
            registry: BTreeSet::new(),
            changes,
            logs: Vec::new(),
            log: 0,
            outgoing,
            listener: 0,
            witnesses: 0,
            witness: None,
            heard: 0,
            manager,
        }
    }

    /// The next life of this one, after it was killed.
    fn next_life(mut self) -> Self {
        self.manager.read_all();
        let (number, log) = self.manager.newest(&self.logs).expect("a table");
        let known = self.logs[log].clone().expect("it is whole");
        let is_kept = |id: &u64| self.manager.has(Item::Connection(*id));
        let registry: BTreeSet<_> = known.intersection(&self.registry).copied().filter(is_kept).collect();
        let items: Vec<_> = self.manager.store.iter().map(|(item, _)| *item).collect();
        // Its other end has ended with the process.
        self.manager.store.retain(|(item, _)| *item != Item::Witness);
        let listener = self.manager.store.iter().find_map(|(_, file)| match file {
            File::Listener(listener) => Some(*listener),
            _ => None,
        });
        let listener = listener.unwrap_or(self.listener);
        let filling = Filling::new(items, number, true, MOST, self.now);
        Self {
            filling,
            registry,
            changes: VecDeque::new(),
            outgoing: VecDeque::new(),
            witness: None,
            log,
            listener,
            ..self
        }
    }

    fn carry_out(&mut self) {
        let actions = std::iter::from_fn(|| self.filling.next_action()).collect();
        let mut actions: VecDeque<_> = (self.broken)(&self.manager, actions).into();
        while let Some(action) = actions.pop_front() {
            match action {
                Action::NewLog => {
                    self.log = self.logs.len();
                    self.logs.push(None);
                }
                Action::WriteTable => {
                    self.changes.clear();
                    self.registry.iter().for_each(|id| self.filling.registered(*id, self.now));
                    let registry = &self.registry;
                    self.filling.keep_only(|id| registry.contains(&id), self.now);
                    self.logs[self.log] = Some(self.registry.clone());
                }
                Action::Store(item) => {
                    let file = match item {
                        Item::Listener => File::Listener(self.listener),
                        Item::Table(_) => File::Log(self.log),
                        Item::Connection(id) => File::Connection(id),
                        Item::Witness => {
                            self.witnesses += 1;
                            self.witness = Some(self.witnesses);
                            File::Witness(self.witnesses)
                        }
                    };
                    self.outgoing.push_back(Message::Store(item, file));
                    if let File::Witness(witness) = file {
                        self.outgoing.push_back(Message::Barrier(witness));
                    }
                }
                Action::Remove(item) => {
                    if item == Item::Witness {
                        self.witness = None;
                    }
                    self.outgoing.push_back(Message::Remove(item));
                }
            }
            actions.extend(std::iter::from_fn(|| self.filling.next_action()));
        }
    }

    /// As `State::pass`; whether everything was sent.
    fn pass(&mut self) -> bool {
        self.carry_out();
        if !self.send() {
            return false;
        }
        while let Some(change) = self.changes.pop_front() {
            let log = self.logs[self.log].as_mut().expect("a table in it");
            match change {
                Change::Registered(id) => {
                    log.insert(id);
                    self.filling.registered(id, self.now);
                }
                Change::Ended(id) => {
                    log.remove(&id);
                    self.filling.ended(id, self.now);
                }
            }
        }
        self.carry_out();
        self.send()
    }

    fn send(&mut self) -> bool {
        while self.manager.unread.len() < QUEUE {
            let Some(message) = self.outgoing.pop_front() else { break };
            self.manager.unread.push_back(message);
        }
        self.outgoing.is_empty()
    }

    fn tend(&mut self) {
        let is_done = self.pass();
        if self.witness.is_some_and(|witness| self.manager.closed.contains(&File::Witness(witness))) {
            self.witness = None;
            self.filling.refused(self.now);
        } else if self.witness == Some(self.manager.answered) && self.heard != self.manager.answered {
            self.heard = self.manager.answered;
            self.filling.answered(self.now);
        } else if is_done && self.filling.due().is_some_and(|due| due <= self.now) {
            self.filling.on_time(self.now);
        }
    }
}

/// Numbers at random, the same ones for each walk every time.
struct Dice(u64);

impl Dice {
    /// One below this.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)) % sides
    }
}

/// One walk. Panics where a promise is broken.
fn walk(number: u64, broken: Broken) {
    let mut dice = Dice(number);
    // At least a listener, a table and the one in its place, and the witness.
    let room = 4 + usize::try_from(dice.roll(8)).expect("it is small");
    let mut owner = Owner::new(room, broken);
    settle(&mut owner);
    let mut next = 1;
    for _ in 0..STEPS {
        match dice.roll(14) {
            0..=3 => {
                owner.registry.insert(next);
                owner.changes.push_back(Change::Registered(next));
                next += 1;
            }
            4..=5 => {
                // The service manager sees that its connection has ended, sooner or later than the owner.
                let ending = owner.registry.iter().copied().nth(dice.roll(4) as usize);
                if let Some(id) = ending.filter(|id| owner.registry.remove(id)) {
                    owner.changes.push_back(Change::Ended(id));
                }
            }
            6..=8 => owner.tend(),
            9 => owner.manager.read(),
            10 => {
                let registry = &owner.registry;
                let has_ended = |file: &File| matches!(file, File::Connection(id) if !registry.contains(id));
                owner.manager.store.retain(|(_, file)| !has_ended(file));
            }
            11 => {
                owner.now += Duration::from_millis(dice.roll(1_500));
            }
            12 => match dice.roll(4) {
                0 => {
                    owner.listener += 1;
                    owner.filling.relisten(owner.now);
                }
                1 => {
                    // Changes were lost.
                    owner.changes.clear();
                    owner.filling.begin_table(owner.now);
                }
                2 => owner.filling.begin_table(owner.now),
                _ => drop(owner.filling.hurry(owner.now)),
            },
            _ if dice.roll(4) == 0 => settle(&mut owner),
            _ if dice.roll(8) == 0 => {
                owner = owner.next_life();
                settle(&mut owner);
            }
            _ => {}
        }
        // The owner is killed, and the service manager reads what it was sent.
        let mut manager = owner.manager.clone();
        manager.read_all();
        assert!(manager.newest(&owner.logs).is_some(), "no table: {manager:?} {:?}", owner.filling);
    }
    settle(&mut owner);
}

/// Nothing happens any more. What the rules say of the store must be true of it.
fn settle(owner: &mut Owner) {
    for _ in 0..2_000 {
        owner.tend();
        owner.manager.read_all();
        let is_idle = owner.filling.actions.is_empty()
            && owner.outgoing.is_empty()
            && owner.changes.is_empty()
            && owner.manager.unread.is_empty();
        let is_refused = |witness| owner.manager.closed.contains(&File::Witness(witness));
        let is_read = |witness| owner.manager.answered == witness && owner.heard != witness;
        let has_news = owner.witness.is_some_and(|witness| is_refused(witness) || is_read(witness));
        match owner.filling.due() {
            _ if !is_idle || has_news => {}
            None => return check(owner),
            Some(due) => owner.now = owner.now.max(due),
        }
    }
    panic!("there is always something to do: {:?}", owner.filling);
}

fn check(owner: &Owner) {
    let Owner { filling, registry, manager, logs, .. } = owner;
    let known = manager.newest(logs).and_then(|(_, log)| logs[log].as_ref());
    assert_eq!(known, Some(registry), "another table is stored: {manager:?} {filling:?}");
    let stored: BTreeSet<_> = registry.iter().copied().filter(|id| manager.has(Item::Connection(*id))).collect();
    let others =
        manager.store.iter().filter(|(item, _)| matches!(item, Item::Connection(id) if !registry.contains(id)));
    assert_eq!(others.count(), 0, "connections of nodes that are gone: {manager:?}");
    let has_all = stored == *registry && manager.has(Item::Listener);
    assert!(has_all || filling.full().is_some(), "it is said that all is kept: {manager:?} {filling:?}");
    // Beside the connections: a listener, a table, and the witness.
    let fits = registry.len() + 3 <= manager.room && registry.len() <= MOST;
    assert!(has_all || !fits, "there is room for all: {manager:?} {filling:?}");
    assert!(filling.full().is_none() || !fits, "it is said that there is no room: {manager:?} {filling:?}");
}

#[test]
fn what_is_said_of_the_store_is_true_and_a_table_is_always_there() {
    (0..WALKS).for_each(|number| walk(number, |_, actions| actions));
}

#[test]
fn where_the_witness_is_closed_late_everything_is_stored_again() {
    let mut owner = Owner::new(4, |_, actions| actions);
    let now = owner.now;
    owner.registry.extend([1, 2]);
    owner.changes.extend([Change::Registered(1), Change::Registered(2)]);
    settle(&mut owner);
    // It had said that there was room.
    owner.filling.refused(now);
    assert_eq!(owner.filling.full(), Some(Full::Refused));
    owner.registry.remove(&2);
    owner.changes.push_back(Change::Ended(2));
    settle(&mut owner);
    assert_eq!(owner.filling.full(), None);
}

#[test]
fn rules_that_are_broken_are_found() {
    let broken: [(&str, Broken); 6] = [
        ("the last table is removed before the next is stored", |_, mut actions| {
            let is_table = |action: &Action| matches!(action, Action::Store(Item::Table(_)));
            if let Some(place) = actions.iter().position(is_table).filter(|place| place + 1 < actions.len()) {
                actions.swap(place, place + 1);
            }
            actions
        }),
        ("what had no room is not stored again", |manager, mut actions| {
            actions.retain(|action| match action {
                Action::Store(Item::Connection(id)) => !manager.closed.contains(&File::Connection(*id)),
                _ => true,
            });
            actions
        }),
        ("a connection stays when its node has left", |_, mut actions| {
            actions.retain(|action| !matches!(action, Action::Remove(Item::Connection(_))));
            actions
        }),
        ("nothing gives way to the next table", |_, actions| {
            let tables = actions.iter().filter(|action| matches!(action, Action::Store(Item::Table(_)))).count();
            let gives_way = |action: &Action| tables > 0 && matches!(action, Action::Remove(Item::Connection(_)));
            actions.into_iter().filter(|action| !gives_way(action)).collect()
        }),
        ("no witness is stored", |_, mut actions| {
            actions.retain(|action| !matches!(action, Action::Store(Item::Witness)));
            actions
        }),
        ("the last table stays", |_, mut actions| {
            actions.retain(|action| !matches!(action, Action::Remove(Item::Table(_))));
            actions
        }),
    ];
    for (name, broken) in broken {
        let is_found = |number: &u64| catch_unwind(AssertUnwindSafe(|| walk(*number, broken))).is_err();
        let found = (0..WALKS).find(is_found);
        println!("{name}: found in walk {found:?}");
        assert!(found.is_some(), "not found: {name}");
    }
}
