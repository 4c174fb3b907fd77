//! The members of a host, each a process of its own.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::history::History;
use crate::nodes::Nodes;
use epmd_tools::client::{eventually, free_address, listing};
use epmd_tools::process::Process;
use epmd_tools::random::Random;

const MEMBERS: usize = 6;
/// How many members stand by: the default of `HandOver`.
const STANDBYS: usize = 2;
/// How long the host may take to be whole again. A standby whose owner is incompatible would pause for longer.
const PATIENCE: Duration = Duration::from_secs(40);

pub struct Host {
    pub server: SocketAddr,
    members: Vec<Member>,
    history: History,
}

pub struct Member {
    pub name: String,
    pub process: Process,
    /// It was told to stop; its last state may still say that it serves.
    pub ends: bool,
    paused: bool,
}

impl Host {
    pub fn new(history: &History) -> Self {
        Self { server: free_address(), members: Vec::new(), history: history.clone() }
    }

    /// Starts the members that are missing.
    pub fn fill(&mut self, random: &mut Random) {
        self.reap();
        for number in 0..MEMBERS {
            let limit = [None, Some(256), Some(1024)][random.below(3)];
            let name = format!("member{number}");
            if !self.members.iter().any(|member| member.name == name) {
                let process = Process::start_limited(self.server.port(), limit, &["-name", &name]);
                self.history.add(format!("{name} starts as {}, with {limit:?} descriptors", process.id()));
                self.members.push(Member { name, process, ends: false, paused: false });
            }
        }
        self.members.sort_by(|one, other| one.name.cmp(&other.name));
    }

    /// Waits for members that were told to stop, and removes them.
    fn reap(&mut self) {
        self.members.retain_mut(|member| {
            if member.ends {
                eventually("who was told to stop ends", || member.process.has_ended());
                member.process.stop();
            }
            !member.ends
        });
    }

    pub fn owner(&self) -> Option<usize> {
        self.in_state("serving").first().copied()
    }

    /// Members that have a copy of everything, and were not told to stop.
    pub fn standbys(&self) -> Vec<usize> {
        self.in_state("standing by")
    }

    /// Members that have joined and do not stand by.
    pub fn joined(&self) -> Vec<usize> {
        self.in_state("joined")
    }

    fn in_state(&self, state: &str) -> Vec<usize> {
        let says = |member: &Member| !member.ends && member.process.is(state);
        (0..self.members.len()).filter(|at| says(&self.members[*at])).collect()
    }

    pub fn member(&mut self, at: usize) -> &mut Member {
        &mut self.members[at]
    }

    /// Kills all of these at once.
    pub fn kill(&mut self, those: &[usize]) {
        for at in those {
            self.members[*at].process.signal(Signal::KILL);
        }
        let mut at = 0;
        self.members.retain_mut(|member| {
            let killed = those.contains(&at);
            at += 1;
            if killed {
                self.history.add(format!("{} was killed", member.name));
                member.process.kill();
            }
            !killed
        });
    }

    pub fn kill_named(&mut self, names: &[String]) {
        let those: Vec<_> = (0..self.members.len()).filter(|at| names.contains(&self.members[*at].name)).collect();
        self.kill(&those);
    }

    /// Tells these to stop in order, all at once.
    pub fn stop(&mut self, those: &[usize]) {
        for at in those {
            self.history.add(format!("{} is told to stop", self.members[*at].name));
            self.members[*at].process.ask_to_stop();
            self.members[*at].ends = true;
        }
    }

    pub fn pause(&mut self, at: usize) {
        self.history.add(format!("{} is paused", self.members[at].name));
        self.members[at].process.signal(Signal::STOP);
        self.members[at].paused = true;
    }

    pub fn resume(&mut self) {
        for member in self.members.iter_mut().filter(|member| member.paused) {
            member.paused = false;
            self.history.add(format!("{} goes on", member.name));
            member.process.signal(Signal::CONT);
        }
    }

    /// Kills the owner, if that is wanted and there is one, or a random member.
    pub fn kill_some(&mut self, owner: bool, random: &mut Random) {
        let any = random.below(MEMBERS) % self.members.len();
        let at = self.owner().filter(|_| owner).unwrap_or(any);
        self.kill(&[at]);
    }

    /// Checks that at most one member says that it serves.
    fn one_owner(&self) -> Result<(), String> {
        match self.in_state("serving").len() {
            0 | 1 => Ok(()),
            owners => Err(format!("{owners} serve: {}", self.describe())),
        }
    }

    fn describe(&self) -> String {
        let describe = |member: &Member| {
            let (name, id, said) = (&member.name, member.process.id(), member.process.said());
            format!("{name} ({id}) {said}{}", if member.ends { ", ending" } else { "" })
        };
        self.members.iter().map(describe).collect::<Vec<_>>().join("; ")
    }

    pub fn someone_serves(&self) -> Result<(), String> {
        self.until("one serves", || (self.in_state("serving").len() == 1).then_some(()).ok_or_else(|| self.describe()))
    }

    /// Waits until the host is whole: one serves, two stand by, and everybody is found.
    pub fn settle(&mut self, nodes: &Nodes) -> Result<(), String> {
        self.reap();
        self.until("the host is whole", || self.is_whole())?;
        nodes.found_again()?;
        self.history.add(format!("whole: {}", self.describe()));
        Ok(())
    }

    fn is_whole(&self) -> Result<(), String> {
        let (owners, standbys, joined) = (self.in_state("serving"), self.standbys(), self.joined());
        if owners.len() != 1 || standbys.len() != STANDBYS || joined.len() != MEMBERS - 1 - STANDBYS {
            return Err(self.describe());
        }
        let said: BTreeSet<u32> = standbys.iter().map(|at| self.members[*at].process.id()).collect();
        if BTreeSet::from_iter(self.members[owners[0]].process.standbys()) != said {
            return Err(format!("the owner has other standbys: {}", self.describe()));
        }
        if listening(self.server.port()) != 1 {
            return Err(format!("{} sockets listen", listening(self.server.port())));
        }
        let listed = listing(self.server).map_err(|error| error.to_string())?;
        match self.members.iter().find(|member| !listed.contains(&format!("name {} at port", member.name))) {
            Some(lost) => Err(format!("{} is not listed in {listed}", lost.name)),
            None => Ok(()),
        }
    }

    fn until(&self, what: &str, check: impl Fn() -> Result<(), String>) -> Result<(), String> {
        let began = Instant::now();
        loop {
            self.one_owner()?;
            match check() {
                Ok(()) => return Ok(()),
                Err(state) if began.elapsed() > PATIENCE => {
                    return Err(format!("not within {PATIENCE:?}: {what}: {state}"))
                }
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Waits, and checks meanwhile that there is at most one owner.
    pub fn wait(&self, time: Duration) -> Result<(), String> {
        let began = Instant::now();
        while began.elapsed() < time {
            self.one_owner()?;
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// How many sockets listen on this port. Copies of a socket count once.
fn listening(port: u16) -> usize {
    let (address, table) = (format!("0100007F:{port:04X}"), fs::read_to_string("/proc/net/tcp").expect("Linux"));
    table.lines().filter(|line| line.contains(&address) && line.contains(" 00000000:0000 0A ")).count()
}
