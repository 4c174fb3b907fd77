//! A client in a process of its own, which can be stopped and killed.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal};

use crate::support::this_program::this_test;
use epmd_tools::client::register;

/// A client in a child process, ended when dropped.
pub(crate) struct ClientProcess(Child);

impl ClientProcess {
    /// Starts the process, and waits until it has registered the name at port 4711.
    pub(crate) fn start(server: SocketAddr, name: &str) -> Self {
        let mut child = this_test("hostile::child::client_process")
            .arg("--ignored")
            .env("CLIENT_OF", server.to_string())
            .env("CLIENT_NAME", name)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a second process of this test");
        let stderr = child.stderr.take().expect("standard error is piped");
        let client = Self(child);
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "registered"), "the child process did not register");
        client
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.0), signal).expect("a child can be signalled");
    }
}

impl Drop for ClientProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of the child process that `ClientProcess` starts.
#[test]
#[ignore = "no test: the body of a child process"]
fn client_process() {
    let (Ok(server), Ok(name)) = (std::env::var("CLIENT_OF"), std::env::var("CLIENT_NAME")) else {
        return;
    };
    let server: SocketAddr = server.parse().expect("an address");
    let stream = register(server, &name, 4711).expect("a free name");
    writeln!(io::stderr(), "registered").expect("the parent listens");
    // Until the connection or the process ends.
    let _ = (&stream).read(&mut [0; 1]);
}
