//! Nodes that are no members: plain sockets that register, go and come back, and are looked up all the time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::history::History;
use epmd_tools::client::{self, connect, exchange};
use epmd_tools::random::Random;
use epmd_tools::request::{alive2, port_please2, Alive2};

/// Nodes that stay, and are looked up.
const STAYING: usize = 10;
/// Nodes that stay until they are told to register again.
const RETURNING: usize = 4;
/// Threads whose nodes come and go, and how many names each of them uses.
const WALKERS: u64 = 3;
const COMING: usize = 20;
/// How long a node tries to register.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Nodes {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    server: SocketAddr,
    history: History,
    registered: Mutex<BTreeMap<String, Registered>>,
    broken: Mutex<Option<String>>,
    /// Read-locked while a node comes or goes.
    changes: RwLock<()>,
    /// Lookups may fail.
    may_fail: AtomicBool,
    /// Nodes may be missing until they register again.
    may_lose: AtomicBool,
    /// Counts the changes of the two flags above.
    expectations: AtomicU64,
    /// Milliseconds between lookups, and between changes.
    paces: [AtomicUsize; 2],
    ends: AtomicBool,
}

struct Registered {
    port: u16,
    creation: u32,
    stream: TcpStream,
    since: Instant,
}

impl Nodes {
    pub fn start(server: SocketAddr, history: &History, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            server,
            history: history.clone(),
            registered: Mutex::default(),
            broken: Mutex::default(),
            changes: RwLock::default(),
            may_fail: AtomicBool::new(true),
            may_lose: AtomicBool::new(true),
            expectations: AtomicU64::new(0),
            paces: Default::default(),
            ends: AtomicBool::new(false),
        });
        let returning = (0..RETURNING).map(|number| (returning(number), 2_000));
        for (name, port) in (0..STAYING).map(|number| (staying(number), number as u16 + 1)).chain(returning) {
            shared.register_until_granted(&name, port).expect("somebody serves");
        }
        let run = |task: fn(&Shared, u64, Random), number| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || task(&shared, number, Random::new(seed ^ number)))
        };
        let lookers = (WALKERS + 1..=WALKERS + 2).map(|number| run(look_up, number));
        let threads = (1..=WALKERS).map(|number| run(come_and_go, number)).chain(lookers).collect();
        Self { shared, threads }
    }

    /// Sets the milliseconds between two lookups, and between two nodes that come or go.
    pub fn pace(&self, looking_up: usize, coming: usize) {
        self.shared.paces[0].store(looking_up, Ordering::Relaxed);
        self.shared.paces[1].store(coming, Ordering::Relaxed);
    }

    /// No node comes or goes until the returned guard is dropped.
    pub fn hold_still(&self) -> impl Drop + use<'_> {
        self.shared.changes.write().expect("no panic")
    }

    /// From now on lookups may fail, until the host is whole.
    pub fn expect_failures(&self) {
        self.shared.may_fail.store(true, Ordering::SeqCst);
        self.shared.expectations.fetch_add(1, Ordering::SeqCst);
    }

    /// From now on nodes may be lost, until the host is whole.
    pub fn expect_losses(&self) {
        self.shared.may_lose.store(true, Ordering::SeqCst);
        self.expect_failures();
    }

    pub fn broken(&self) -> Result<(), String> {
        self.shared.broken.lock().expect("no panic").clone().map_or(Ok(()), Err)
    }

    /// Checks that every node is found at its port, and that its connection is open.
    pub fn all_held(&self) -> Result<(), String> {
        let registered = self.shared.registered.lock().expect("no panic");
        for (name, node) in registered.iter() {
            if client::is_closed(&node.stream) {
                let since = node.since.elapsed();
                return Err(format!("the connection of {name}, which registered {since:?} ago, has ended"));
            }
            self.shared.is_found(name, node.port).map_err(|error| {
                let (since, creation) = (node.since.elapsed(), node.creation);
                let holders = self.shared.holders(&node.stream);
                format!("{error}; registered {since:?} ago with creation {creation}, held by {holders:?}")
            })?;
        }
        self.shared.history.add(format!("all {} nodes are held", registered.len()));
        Ok(())
    }

    /// Registers lost nodes again, if any may be lost, and checks that all are held then.
    pub fn found_again(&self) -> Result<(), String> {
        if self.shared.may_lose.load(Ordering::SeqCst) {
            let mut registered = self.shared.registered.lock().expect("no panic");
            let is_lost = |node: &Registered| client::is_closed(&node.stream);
            let lost: Vec<_> = registered
                .iter()
                .filter(|(_, node)| is_lost(node))
                .map(|(name, node)| (name.clone(), node.port))
                .collect();
            registered.retain(|_, node| !is_lost(node));
            drop(registered);
            self.shared.history.add(format!("{} nodes register again", lost.len()));
            for (name, port) in lost {
                self.shared.register_until_granted(&name, port)?;
            }
        }
        self.all_held()?;
        self.shared.may_lose.store(false, Ordering::SeqCst);
        self.shared.may_fail.store(false, Ordering::SeqCst);
        self.shared.expectations.fetch_add(1, Ordering::SeqCst);
        self.broken()
    }

    /// Checks that a node that registers again gets its next creation, whoever has served since.
    pub fn creations_go_on(&self, random: &mut Random) -> Result<(), String> {
        let name = returning(random.below(RETURNING));
        let mut registered = self.shared.registered.lock().expect("no panic");
        let Some(Registered { port, creation, stream, .. }) = registered.remove(&name) else { return Ok(()) };
        client::close(stream);
        let node = self.shared.register(&name, port)?;
        if node.creation != creation.wrapping_add(1) {
            return Err(format!("{name} had creation {creation}, and then {}", node.creation));
        }
        registered.insert(name, node);
        Ok(())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn register(&self, name: &str, port: u16) -> Result<Registered, String> {
        let mut stream = connect(self.server).map_err(|error| error.to_string())?;
        stream.write_all(&alive2(name, port)).map_err(|error| error.to_string())?;
        let mut reply = [0; 6];
        stream.read_exact(&mut reply).map_err(|error| error.to_string())?;
        match reply {
            [b'v', 0, creation @ ..] => {
                Ok(Registered { port, creation: u32::from_be_bytes(creation), stream, since: Instant::now() })
            }
            refusal => Err(format!("{name} was refused: {}", refusal.escape_ascii())),
        }
    }

    fn register_until_granted(&self, name: &str, port: u16) -> Result<(), String> {
        let began = Instant::now();
        loop {
            match self.register(name, port) {
                Ok(node) => {
                    self.registered.lock().expect("no panic").insert(name.into(), node);
                    return Ok(());
                }
                Err(error) if began.elapsed() > PATIENCE => return Err(format!("{name} cannot register: {error}")),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn is_found(&self, name: &str, port: u16) -> Result<(), String> {
        let reply = exchange(self.server, &port_please2(name)).map_err(|error| format!("{name}: {error}"))?;
        if reply == Alive2::new(name, port).found() {
            return Ok(());
        }
        Err(format!("{name} is not found: {}", reply.escape_ascii()))
    }

    /// The processes that have the other end of a node's connection.
    fn holders(&self, stream: &TcpStream) -> Vec<String> {
        let Ok(node) = stream.local_addr() else { return Vec::new() };
        let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
        let hex = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
        let ends = format!("{} {}", hex(self.server), hex(node));
        let Some(line) = table.lines().find(|line| line.contains(&ends)) else { return Vec::new() };
        let socket = format!("socket:[{}]", line.split_whitespace().nth(9).unwrap_or_default());
        let processes = fs::read_dir("/proc").expect("Linux").flatten();
        let has = |process: &fs::DirEntry| {
            let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
            let mut links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
            links.any(|link| link.to_str() == Some(&socket))
        };
        processes.filter(has).map(|process| process.file_name().to_string_lossy().into_owned()).collect()
    }

    fn expectations(&self) -> (u64, bool, bool) {
        let expectations = self.expectations.load(Ordering::SeqCst);
        (expectations, self.may_fail.load(Ordering::SeqCst), self.may_lose.load(Ordering::SeqCst))
    }

    fn break_promise(&self, what: String) {
        self.history.add(what.clone());
        self.broken.lock().expect("no panic").get_or_insert(what);
    }

    fn rest(&self, pace: usize) {
        thread::sleep(Duration::from_millis(self.paces[pace].load(Ordering::Relaxed) as u64));
    }
}

fn staying(number: usize) -> String {
    format!("staying{number}")
}

fn returning(number: usize) -> String {
    format!("returning{number}")
}

fn look_up(shared: &Shared, _: u64, mut random: Random) {
    while !shared.ends.load(Ordering::Relaxed) {
        let number = random.below(STAYING);
        let before = shared.expectations();
        let outcome = exchange(shared.server, &port_please2(staying(number)));
        let (after, (_, may_fail, may_lose)) = (shared.expectations(), before);
        shared.history.count_look_up();
        // If the expectations changed meanwhile, it is not known which of them apply.
        if before == after {
            let found = Alive2::new(staying(number), number as u16 + 1).found();
            match outcome {
                Ok(reply) if reply == found => {}
                Ok(reply) if !reply.is_empty() && !may_lose => {
                    shared.break_promise(format!("staying{number} was not found: {}", reply.escape_ascii()));
                }
                outcome if !may_fail => {
                    shared.break_promise(format!("the lookup of staying{number} failed: {outcome:?}"));
                }
                _ => {}
            }
        }
        shared.rest(0);
    }
}

fn come_and_go(shared: &Shared, walker: u64, mut random: Random) {
    while !shared.ends.load(Ordering::Relaxed) {
        let number = random.below(COMING);
        let name = format!("coming{walker}_{number}");
        let change = shared.changes.read().expect("no panic");
        let there = shared.registered.lock().expect("no panic").remove(&name);
        match there {
            Some(node) => client::close(node.stream),
            // It may fail: perhaps nobody serves.
            None => {
                if let Ok(node) = shared.register(&name, number as u16 + 1_000) {
                    shared.registered.lock().expect("no panic").insert(name, node);
                }
            }
        }
        drop(change);
        shared.rest(1);
    }
}
