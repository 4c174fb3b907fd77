//! A member as a process of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::server::standalone;

pub struct Process(Child);

impl Process {
    pub fn start(port: u16) -> Self {
        Self::start_limited(port, None, &[])
    }

    /// One that may have so many descriptors.
    pub fn start_limited(port: u16, descriptors: Option<u32>, flags: &[&str]) -> Self {
        let limit = descriptors.map_or(String::new(), |limit| format!("ulimit -n {limit} && "));
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{limit}exec \"$0\" \"$@\"")]).arg(standalone());
        command.args(["-member", "-relaxed_command_check", "-address", "127.0.0.1", "-port", &port.to_string()]);
        command.args(flags);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell"))
    }

    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0.id())).expect("a running process").count()
    }

    /// Has it not open any more descriptors than it has.
    pub fn use_up_descriptors(&self) {
        use rustix::process::{prlimit, Pid, Resource, Rlimit};
        let pid = Pid::from_raw(self.0.id() as i32).expect("a process id");
        let most = fs::read_dir(format!("/proc/{}/fd", self.0.id())).expect("a running process");
        let highest = most.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok()).max();
        let limit = Some(highest.expect("some descriptor") + 1);
        prlimit(Some(pid), Resource::Nofile, Rlimit { current: limit, maximum: limit }).expect("a lower limit");
    }

    /// Waits until it says that it stands by.
    pub fn stands_by(&mut self) {
        let mut line = String::new();
        let stdout = self.0.stdout.take().expect("it is waited for once");
        BufReader::new(stdout).read_line(&mut line).expect("text");
        assert_eq!(line, "standing by\n");
    }

    pub fn kill(&mut self) {
        self.0.kill().expect("a running process");
        self.0.wait().expect("its end");
    }

    /// Ends it in order.
    pub fn stop(&mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().expect("its end").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
