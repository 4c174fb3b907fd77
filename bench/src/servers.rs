//! Starts the servers, each in the foreground on a port of its own, and stops them by their own process id.

use std::env;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use rustix::process::geteuid;

use crate::cpu::Threads;
use crate::interrupt::Interrupt;
use crate::load::IN_FLIGHT;
use crate::null;

/// Time for a server to come up.
const START: Duration = Duration::from_secs(20);
/// A server is up once it has used less than `QUIET_CPU` during `QUIET`: a VM goes on booting after the port is open.
const QUIET: Duration = Duration::from_millis(50);
const QUIET_CPU: Duration = Duration::from_millis(1);
/// Ports to choose from: below the ephemeral range, so that no outgoing connection uses one of them, and none of those of
/// the tests beside it.
const PORTS: std::ops::Range<u16> = 20_000..21_000;

/// The share of its descriptors that our server may use: the most that can be set. The default leaves more than half to
/// the application.
const DESCRIPTOR_SHARE: u64 = 95;
/// Descriptors of its share that our server does not give to nodes.
const FOR_WAITING: u64 = 8;

/// The most names that our server can hold while the load lasts, by the limit of descriptors that it inherits.
pub(crate) fn most_names(descriptors: u64) -> usize {
    let names = descriptors.saturating_mul(DESCRIPTOR_SHARE) / 100;
    usize::try_from(names.saturating_sub(FOR_WAITING)).unwrap_or(usize::MAX).saturating_sub(IN_FLIGHT)
}

/// The servers that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Ours,
    C,
    Null,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::C => "C",
            Self::Null => "null",
        })
    }
}

/// Which of our servers is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The example program of `epmd_core`: the server alone.
    Standalone,
    /// The server in a running VM; its thread is called `epmd…`, and only that thread's time counts.
    Embedded,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standalone => "standalone",
            Self::Embedded => "embedded",
        })
    }
}

/// Starts servers.
#[derive(Debug)]
pub(crate) struct Launcher {
    root: PathBuf,
    form: Form,
    core: Option<usize>,
    next_port: u16,
}

impl Launcher {
    /// For the repository at `root`; `core` is where servers are pinned to.
    pub(crate) fn new(root: PathBuf, form: Form, core: Option<usize>) -> Self {
        // Benchmarks that run at the same time start their search for ports at different places.
        let offset = process::id() * 7 % PORTS.len() as u32;
        Self { root, form, core, next_port: PORTS.start + offset as u16 }
    }

    /// Starts a server and waits until it accepts connections and has nothing else to do. With `owned`, all names of ours
    /// belong to this user.
    pub(crate) fn start(&mut self, who: Who, owned: bool, interrupt: &Interrupt) -> Result<Server> {
        let port = self.free_port()?;
        let mut command = self.command(who, owned, port)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", Path::new(command.get_program()).display()))?;
        let mut running = Running(child);
        running.wait_until_up(port, interrupt).with_context(|| format!("{who} ({command:?}) does not come up"))?;
        let id = running.0.id();
        let threads = match (who, self.form) {
            (Who::Ours, Form::Embedded) => Threads::named(id, "epmd")?,
            _ => Threads::all(id)?,
        };
        if let Some(core) = self.core {
            threads.pin(core)?;
        }
        Ok(Server { address: on_loopback(port), threads, _running: running })
    }

    fn command(&self, who: Who, owned: bool, port: u16) -> Result<Command> {
        let user = geteuid().as_raw();
        let arguments = ["-port", &port.to_string(), "-address", "127.0.0.1"];
        Ok(match (who, self.form) {
            (Who::Null, _) => {
                let mut command = Command::new(env::current_exe()?);
                command.args(["null", &port.to_string()]);
                command
            }
            (Who::C, _) => {
                let mut command = Command::new("epmd");
                command.args(arguments);
                command
            }
            (Who::Ours, Form::Standalone) => {
                let mut command = Command::new(env::current_exe()?.with_file_name("standalone"));
                command.args(arguments);
                if owned {
                    command.args(["-reserve", &format!("*={user}")]);
                }
                command
            }
            (Who::Ours, Form::Embedded) => {
                let reserved = if owned { format!("[{{\"*\", {user}}}]") } else { "[]".into() };
                vm(&self.root, port, &reserved)
            }
        })
    }

    /// A free port, a new one for each server: no server finds connections of an earlier one in TIME_WAIT.
    fn free_port(&mut self) -> Result<u16> {
        for _ in PORTS {
            let port = self.next_port;
            self.next_port = if port + 1 < PORTS.end { port + 1 } else { PORTS.start };
            if TcpListener::bind(on_loopback(port)).is_ok() {
                return Ok(port);
            }
        }
        bail!("no free port in {PORTS:?}")
    }
}

/// A VM that serves the port the way a release would: the server comes up while the VM boots, and a supervisor looks
/// after it.
fn vm(root: &Path, port: u16, reserved: &str) -> Command {
    let environment = env::var("MIX_ENV").unwrap_or_else(|_| "prod".into());
    let flags =
        "-start_epmd false -epmd_module Elixir.EmbeddedEpmd.Discovery -kernel inet_dist_use_interface {127,0,0,1}";
    let script = format!(
        "{{:ok, _}} = Application.ensure_all_started(:embedded_epmd)
         {{:ok, _}} = Supervisor.start_link([{{EmbeddedEpmd, reserved_names: {reserved}, descriptor_share: {DESCRIPTOR_SHARE}}}], strategy: :one_for_one)
         Process.sleep(:infinity)"
    );
    let mut command = Command::new("elixir");
    command
        .args(["--sname", &format!("bench_host_{}", process::id()), "--cookie", "bench", "-e", &script])
        .env("ERL_FLAGS", flags)
        .env("ERL_LIBS", root.join("_build").join(environment).join("lib"))
        .env("ERL_EPMD_PORT", port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1");
    command
}

/// A server that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddrV4,
    /// The threads whose time on the processor is the server's.
    pub(crate) threads: Threads,
    _running: Running,
}

/// A child process that is killed when this is dropped.
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn wait_until_up(&mut self, port: u16, interrupt: &Interrupt) -> Result<()> {
        let deadline = Instant::now() + START;
        while ask(port).is_err() || !self.is_quiet()? {
            interrupt.check()?;
            ensure!(Instant::now() < deadline, "not ready after {START:?}");
            if let Some(status) = self.0.try_wait()? {
                bail!("ended: {status}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn is_quiet(&self) -> Result<bool> {
        let threads = Threads::all(self.0.id())?;
        let before = threads.usage()?;
        thread::sleep(QUIET);
        Ok((threads.usage()? - before).on_cpu < QUIET_CPU)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks some name up: the C daemon would log connections without a request.
fn ask(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect(on_loopback(port))?;
    stream.set_read_timeout(Some(START))?;
    stream.write_all(&null::node().look_up())?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

fn on_loopback(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}
