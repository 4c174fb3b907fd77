//! Servers as processes: OTP's C daemon and ours, started on a free port and ended with the test.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use epmd_tools::client::{self, PATIENCE};
use epmd_tools::ports::ClaimedPort;
use epmd_tools::process::standalone;

/// How often the reference is asked whether it answers, which it does a few milliseconds after its start.
const POLL: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// OTP's C daemon.
    Reference,
    Ours,
}

/// How to start a server. The port is chosen at the start.
#[derive(Clone, Debug)]
pub struct Settings {
    kind: Kind,
    addresses: Option<String>,
    flags: Vec<String>,
    descriptors: Option<u32>,
    namespace: Option<String>,
}

impl Settings {
    /// On both loopback addresses, where the reference always listens.
    pub fn new(kind: Kind) -> Self {
        Self { kind, addresses: Some("127.0.0.1,::1".into()), flags: Vec::new(), descriptors: None, namespace: None }
    }

    pub fn ours() -> Self {
        Self::new(Kind::Ours)
    }

    pub fn relaxed(self) -> Self {
        self.flag("-relaxed_command_check")
    }

    pub fn packet_timeout(self, seconds: u64) -> Self {
        self.flag("-packet_timeout").flag(&seconds.to_string())
    }

    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Started by a shell that first sets `ulimit -n`.
    pub fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Started inside a network namespace, on all its addresses.
    pub fn everywhere_in(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.into());
        self.addresses = None;
        self
    }

    /// Starts it and returns once it listens.
    pub fn start(&self) -> Server {
        let mut failures = Vec::new();
        // A process that does not claim ports this way may still take the port first.
        for _ in 0..5 {
            match self.try_start(Some(ClaimedPort::any())) {
                Ok(server) => return server,
                Err(failure) => failures.push(failure),
            }
        }
        panic!("{:?} did not start: {failures:#?}", self.kind);
    }

    /// On a port that the server chooses and names when it listens; ours only.
    pub fn start_on_any_port(&self) -> Server {
        self.try_start(None).unwrap_or_else(|failure| panic!("did not start: {failure}"))
    }

    fn try_start(&self, claimed: Option<ClaimedPort>) -> Result<Server, String> {
        let port = claimed.as_ref().map_or(0, |claimed| claimed.number());
        let errors = error_file();
        let mut child = self
            .command(port)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).expect("the target directory can be written"))
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program().display()))?;
        let stdout = child.stdout.take();
        let mut server = Server { kind: self.kind, port, _claimed: claimed, child, errors, started: false };
        match self.kind {
            Kind::Reference => server.wait_until_it_answers(self.namespace.is_some())?,
            Kind::Ours => server.wait_until_it_says_so(stdout.expect("stdout is piped"))?,
        }
        server.started = true;
        Ok(server)
    }

    fn command(&self, port: u16) -> Command {
        let mut words: Vec<String> = Vec::new();
        if let Some(namespace) = &self.namespace {
            words.extend(["ip", "netns", "exec", namespace].map(String::from));
        }
        if let Some(limit) = self.descriptors {
            let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
            words.extend(["sh".into(), "-c".into(), script]);
        }
        words.push(self.program().to_str().expect("a path in UTF-8").into());
        words.extend(["-port".into(), port.to_string()]);
        if let Some(addresses) = &self.addresses {
            words.extend(["-address".into(), addresses.clone()]);
        }
        words.extend(self.flags.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        // The tests must not depend on the environment.
        for name in ["ERL_EPMD_PORT", "ERL_EPMD_ADDRESS", "ERL_EPMD_RELAXED_COMMAND_CHECK"] {
            command.env_remove(name);
        }
        command
    }

    fn program(&self) -> PathBuf {
        match self.kind {
            Kind::Reference => reference(),
            Kind::Ours => standalone(),
        }
    }
}

/// A running server, ended when dropped.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    port: u16,
    _claimed: Option<ClaimedPort>,
    child: Child,
    errors: PathBuf,
    /// False if it never listened. Then the start is tried again, and its end is no failure.
    started: bool,
}

impl Server {
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn ipv4(&self) -> SocketAddr {
        self.at(Ipv4Addr::LOCALHOST)
    }

    pub fn ipv6(&self) -> SocketAddr {
        self.at(Ipv6Addr::LOCALHOST)
    }

    pub fn at(&self, address: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(address.into(), self.port)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How much memory it has.
    pub fn resident_megabytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running server");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) / 1024
    }

    /// What it wrote to its standard error.
    pub fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    fn wait_until_it_answers(&mut self, in_namespace: bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !self.is_running() {
                return Err(format!("epmd ended at once on port {}: {}", self.port, self.errors()));
            }
            let answers = if in_namespace {
                listens_in_namespace_of(self.pid(), self.port)
            } else {
                // It listens on ::1 after 127.0.0.1.
                client::listing(self.ipv6()).is_ok() && client::listing(self.ipv4()).is_ok()
            };
            if answers && self.is_running() {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(format!("epmd does not answer on port {}: {}", self.port, self.errors()))
    }

    fn wait_until_it_says_so(&mut self, stdout: ChildStdout) -> Result<(), String> {
        let mut poll = [PollFd::new(&stdout, PollFlags::IN)];
        let patience = Timespec::try_from(PATIENCE).expect("a time that fits");
        if rustix::event::poll(&mut poll, Some(&patience)).map_err(|error| error.to_string())? == 0 {
            return Err(format!("says nothing on port {}: {}", self.port, self.errors()));
        }
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
        let named = line.trim_end().strip_prefix("listening on port ").and_then(|port| port.parse().ok());
        match named {
            Some(port) if self.port == 0 || self.port == port => self.port = port,
            _ => return Err(format!("said {line:?} about port {}: {}", self.port, self.errors())),
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let errors = self.errors();
        let _ = fs::remove_file(&self.errors);
        if std::thread::panicking() {
            if !errors.is_empty() {
                eprintln!("standard error of {:?}: {errors}", self.kind);
            }
            return;
        }
        if self.kind == Kind::Ours && self.started {
            assert!(!errors.contains("panicked"), "our server panicked: {errors}");
            assert!(!matches!(ended, Ok(Some(_))), "our server ended by itself ({ended:?}): {errors}");
        }
    }
}

fn reference() -> PathBuf {
    env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|directory| directory.join("epmd"))
        .find(|program| program.is_file())
        .expect("the C daemon `epmd` is what we are compared with: apt-get install erlang-base")
}

fn error_file() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("server-{}-{number}.stderr", std::process::id()))
}

/// The namespace's own table of sockets shows a listener on both wildcard addresses.
fn listens_in_namespace_of(pid: u32, port: u16) -> bool {
    let listener = format!(":{port:04X} ");
    ["tcp", "tcp6"].iter().all(|table| {
        fs::read_to_string(format!("/proc/{pid}/net/{table}"))
            .is_ok_and(|sockets| sockets.lines().any(|line| line.contains(&listener) && line.contains(" 0A ")))
    })
}
