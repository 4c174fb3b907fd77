//! Pins threads to cores, and measures their time on the processor.
//!
//! `/proc/PID/task/TID/schedstat` gives a thread's time on the processor and its time waiting for one, in nanoseconds
//! (first and second field). The times in `/proc/PID/stat` come in ticks of 10 ms and would need far longer runs.

use std::fs;
use std::ops::Sub;
use std::process;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet, Pid};

/// The cores of the load generator and of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    pub(crate) load: usize,
    pub(crate) server: usize,
}

impl Cores {
    /// The first two cores that this process may use. `None` if there is only one.
    pub(crate) fn choose() -> Result<Option<Self>> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        Ok(cores.next().zip(cores.next()).map(|(load, server)| Self { load, server }))
    }
}

/// Pins the calling thread.
pub(crate) fn pin_this_thread(core: usize) -> Result<()> {
    Ok(sched_setaffinity(None, &only(core))?)
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}

/// How long threads had a processor, and how long they waited for one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) on_cpu: Duration,
    pub(crate) waiting: Duration,
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { on_cpu: self.on_cpu - earlier.on_cpu, waiting: self.waiting - earlier.waiting }
    }
}

/// Threads of one process whose time is counted together.
#[derive(Debug)]
pub(crate) struct Threads {
    process: u32,
    threads: Vec<u32>,
}

impl Threads {
    /// The threads of this process whose name starts with `prefix`; there must be at least one.
    pub(crate) fn named(process: u32, prefix: &str) -> Result<Self> {
        let mut threads = Vec::new();
        for entry in fs::read_dir(format!("/proc/{process}/task"))? {
            let path = entry?.path();
            if fs::read_to_string(path.join("comm"))?.starts_with(prefix) {
                threads.extend(path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
            }
        }
        threads.sort_unstable();
        ensure!(!threads.is_empty(), "process {process} has no thread named {prefix}*");
        Ok(Self { process, threads })
    }

    /// All threads of this process.
    pub(crate) fn all(process: u32) -> Result<Self> {
        Self::named(process, "")
    }

    /// The threads of this process.
    pub(crate) fn own() -> Result<Self> {
        Self::all(process::id())
    }

    /// Pins them to one core.
    pub(crate) fn pin(&self, core: usize) -> Result<()> {
        for thread in &self.threads {
            let thread = Pid::from_raw(*thread as i32).context("a thread id is positive")?;
            sched_setaffinity(Some(thread), &only(core))?;
        }
        Ok(())
    }

    /// Their usage so far. A thread that has ended is an error: its time would be missing.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let mut total = Usage::default();
        for thread in &self.threads {
            let path = format!("/proc/{}/task/{thread}/schedstat", self.process);
            let line = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            let mut fields = line.split(' ').map(str::parse);
            let (Some(Ok(on_cpu)), Some(Ok(waiting))) = (fields.next(), fields.next()) else {
                bail!("{path} is not understood: {line:?}")
            };
            total.on_cpu += Duration::from_nanos(on_cpu);
            total.waiting += Duration::from_nanos(waiting);
        }
        Ok(total)
    }
}
