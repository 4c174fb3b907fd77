//! A member as a process of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{kill_process, Pid, Signal};

use crate::client::eventually;

/// The state of a listener in `/proc/net/tcp`.
const LISTENS: &str = "0A";
/// The state of a connected socket in `/proc/net/unix`.
const UNIX_CONNECTED: &str = "03";

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Kill,
    /// In order.
    Stop,
}

impl End {
    pub const BOTH: [Self; 2] = [Self::Kill, Self::Stop];

    /// Ends a process. One that stops in order is not waited for.
    pub fn of(self, process: &mut Process) {
        match self {
            Self::Kill => process.kill(),
            Self::Stop => process.ask_to_stop(),
        }
    }
}

#[derive(Debug)]
pub struct Process {
    child: Child,
    /// The last state that it printed.
    said: Arc<Mutex<String>>,
    /// Whether it has said that it has no descriptor left.
    is_used_up: Arc<AtomicBool>,
    /// The processes that stand by for it, once it has answered.
    standbys: Arc<Mutex<Option<Vec<u32>>>>,
}

impl Process {
    pub fn start(port: u16) -> Self {
        Self::start_limited(port, None, &[])
    }

    /// Starts a member whose node has this name. It stands by at once: one without a node waits a second for one.
    pub fn start_named(port: u16, name: &str, flags: &[&str]) -> Self {
        Self::start_limited(port, None, &[&["-name", name], flags].concat())
    }

    /// Starts a member with a limit of descriptors.
    pub fn start_limited(port: u16, descriptors: Option<u32>, flags: &[&str]) -> Self {
        Self::run(descriptors, "exec \"$0\" \"$@\"", port, flags)
    }

    /// One that a shell runs like this, after it has set a limit of descriptors. `$0` is the program, `$@` its flags.
    pub fn run(descriptors: Option<u32>, script: &str, port: u16, flags: &[&str]) -> Self {
        let limit = descriptors.map_or(String::new(), |limit| format!("ulimit -n {limit} && "));
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{limit}{script}")]).arg(standalone());
        Self::spawn(command, port, flags)
    }

    /// One that this command runs.
    pub fn spawn(mut command: Command, port: u16, flags: &[&str]) -> Self {
        command.args(["-member", "-relaxed_command_check", "-address", "127.0.0.1", "-port", &port.to_string()]);
        let mut child = command.args(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a program");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let process = Self { child, said: Arc::default(), is_used_up: Arc::default(), standbys: Arc::default() };
        let (said, is_used_up) = (Arc::clone(&process.said), Arc::clone(&process.is_used_up));
        let standbys = Arc::clone(&process.standbys);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line == "no descriptor is left" {
                    is_used_up.store(true, Ordering::Relaxed);
                } else if let Some(ids) = line.strip_prefix("standbys ") {
                    *standbys.lock().expect("no panic") = ids.split_whitespace().map(|id| id.parse().ok()).collect();
                } else {
                    *said.lock().expect("no panic") = line;
                }
            }
        });
        process
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a running process").count()
    }

    /// Lowers its limit to the descriptors in use, and makes it use up those that are free below.
    pub fn use_up_descriptors(&mut self) {
        let most = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a running process");
        let highest = most.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok()).max();
        let limit = highest.expect("some descriptor") + 1;
        writeln!(self.child.stdin.as_mut().expect("it is piped"), "use up {limit}").expect("it reads");
        eventually("no descriptor is left", || self.is_used_up.load(Ordering::Relaxed));
    }

    /// Its sockets: the inode of each, by its descriptor.
    pub fn sockets(&self) -> BTreeMap<u32, String> {
        let folder = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a running process");
        let socket = |entry: fs::DirEntry| {
            let link = fs::read_link(entry.path()).ok()?.to_str()?.to_owned();
            Some((entry.file_name().to_str()?.parse().ok()?, link)).filter(|(_, link)| link.starts_with("socket:"))
        };
        folder.filter_map(|entry| socket(entry.ok()?)).collect()
    }

    /// How many Unix sockets it has.
    pub fn unix_sockets(&self) -> usize {
        self.unix(|_| true).len()
    }

    /// Its sessions with other processes: connected Unix sockets, by their inodes.
    pub fn sessions(&self) -> BTreeSet<String> {
        self.unix(|state| state == UNIX_CONNECTED)
    }

    /// Its Unix sockets whose state fits, by their inodes.
    fn unix(&self, fits: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let table = fs::read_to_string(format!("/proc/{}/net/unix", self.id())).expect("a running process");
        let own: BTreeSet<String> = self.sockets().into_values().collect();
        let socket = |line: &str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let inode = format!("socket:[{}]", fields.get(6)?);
            (fits(fields[5]) && own.contains(&inode)).then_some(inode)
        };
        table.lines().filter_map(socket).collect()
    }

    /// Its sockets of this port that listen, however many other processes have them, by their inodes.
    pub fn listeners(&self, port: u16) -> BTreeSet<String> {
        self.tcp(|local, _, state| local == port && state == LISTENS).map(|(_, inode)| inode).collect()
    }

    /// The local ports of its connections to this port.
    pub fn connected_to(&self, port: u16) -> Vec<u16> {
        self.tcp(|local, remote, state| local != port && remote == port && state != LISTENS)
            .map(|(local, _)| local)
            .collect()
    }

    /// Its end of this connection, by its inode.
    pub fn end_of(&self, connection: &TcpStream) -> Option<String> {
        let port = |address: io::Result<SocketAddr>| address.expect("a connection").port();
        let (near, far) = (port(connection.peer_addr()), port(connection.local_addr()));
        self.tcp(move |local, remote, _| local == near && remote == far).map(|(_, inode)| inode).next()
    }

    /// Its IPv4 sockets whose local port, remote port and state fit: the local port and the inode.
    fn tcp(&self, fits: impl Fn(u16, u16, &str) -> bool) -> impl Iterator<Item = (u16, String)> {
        let table = fs::read_to_string(format!("/proc/{}/net/tcp", self.id())).expect("a running process");
        let own: BTreeSet<String> = self.sockets().into_values().collect();
        let socket = |line: &str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let port = |field: &str| u16::from_str_radix(field.rsplit_once(':')?.1, 16).ok();
            let (local, remote) = (port(fields.get(1)?)?, port(fields.get(2)?)?);
            let inode = format!("socket:[{}]", fields.get(9)?);
            (own.contains(&inode) && fits(local, remote, fields[3])).then_some((local, inode))
        };
        table.lines().skip(1).filter_map(socket).collect::<Vec<_>>().into_iter()
    }

    /// Waits until it says that it stands by.
    pub fn stands_by(&self) {
        eventually("it stands by", || self.is("standing by"));
    }

    /// Asks an owner which processes stand by for it: that one stands by, it may have said of the last owner.
    pub fn standbys(&self) -> Vec<u32> {
        *self.standbys.lock().expect("no panic") = None;
        writeln!(self.child.stdin.as_ref().expect("it is piped"), "standbys").expect("it reads");
        eventually("it answers", || self.standbys.lock().expect("no panic").is_some());
        self.standbys.lock().expect("no panic").take().expect("the answer")
    }

    /// Waits until so many stand by for it.
    pub fn has_standbys(&self, count: usize) {
        eventually("others stand by", || self.standbys().len() == count);
    }

    /// Waits until it says that it serves.
    pub fn serves(&self) {
        eventually("it serves", || self.is("serving"));
    }

    /// Waits until it says that it has joined.
    pub fn joins(&self) {
        eventually("it joins", || self.is("joined"));
    }

    /// Sends a signal. If that stops the process, waits until each of its threads stands still: until then the others go
    /// on.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a running process");
        if signal == Signal::STOP {
            eventually("it stands still", || self.threads().all(|state| state == 'T'));
        }
    }

    /// The state of each of its threads.
    fn threads(&self) -> impl Iterator<Item = char> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id())).expect("a running process");
        threads.filter_map(|thread| {
            let stat = fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
            // The name before it may have anything in it.
            stat.rsplit_once(") ")?.1.chars().next()
        })
    }

    /// The last line that it printed.
    pub fn said(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    /// Whether that is the last line that it printed.
    pub fn is(&self, state: &str) -> bool {
        *self.said.lock().expect("no panic") == state
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("a running process");
        self.child.wait().expect("its end");
    }

    /// Tells it to stop in order, without waiting.
    pub fn ask_to_stop(&mut self) {
        drop(self.child.stdin.take());
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        self.ask_to_stop();
        assert!(self.child.wait().expect("its end").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program `standalone`. Cargo makes it beside `soak`, and one folder above a program of tests.
pub fn standalone() -> PathBuf {
    let this = env::current_exe().expect("a program knows its own path");
    let mut programs = this.ancestors().skip(1).take(2).map(|folder| folder.join("standalone"));
    programs.find(|program| program.is_file()).unwrap_or_else(|| {
        panic!("standalone is neither beside {} nor a folder above: `cargo build -p epmd_tools`", this.display())
    })
}
