//! A service under a stand-in for systemd, which is `test/support/service_manager.c`.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use epmd_tools::client::{eventually, listing};
use epmd_tools::process::standalone;

pub struct Service {
    manager: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// A member as a service that may store so many descriptors, with sockets such as `epmd.socket=4369`.
    pub fn start(store: usize, sockets: &[String], flags: &[&str]) -> Self {
        let mut command = Command::new(stand_in());
        command.arg(store.to_string()).args(sockets).arg("--").arg(standalone());
        command.args(["-member", "-relaxed_command_check"]).args(flags);
        Self::spawn(command)
    }

    /// A member as a service that has in each life the flags that stand in a file then.
    pub fn start_with_flags_of(file: &Path, store: usize) -> Self {
        let mut command = Command::new(stand_in());
        command.args([
            &store.to_string(),
            "--",
            "sh",
            "-c",
            "exec \"$0\" -member -relaxed_command_check $(cat \"$1\")",
        ]);
        command.arg(standalone()).arg(file);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut manager = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(manager.stdout.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&said);
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| all.lock().unwrap().push(line)));
        Self { manager, said }
    }

    fn tell(&mut self, letter: &str) {
        self.manager.stdin.as_mut().unwrap().write_all(letter.as_bytes()).unwrap();
    }

    /// Kills the service and waits for its end.
    pub fn kill(&mut self) {
        self.end("k");
    }

    /// Ends the service in order and waits for its end.
    pub fn stop(&mut self) {
        self.end("c");
    }

    fn end(&mut self, how: &str) {
        self.said.lock().unwrap().clear();
        self.tell(how);
        eventually("the service has ended", || self.is("ended"));
    }

    pub fn start_again(&mut self) {
        self.said.lock().unwrap().clear();
        self.tell("s");
    }

    /// Whether that is the last it said.
    pub fn is(&self, state: &str) -> bool {
        self.said.lock().unwrap().last().is_some_and(|last| last == state)
    }

    pub fn serves(&self, server: SocketAddr) {
        eventually("the service serves", || self.is("serving") && listing(server).is_ok());
    }

    /// What is in the store, the witness left out.
    pub fn stored(&mut self) -> Vec<String> {
        let mut names: Vec<_> = self.ask("n", "store").split(' ').skip(1).map(str::to_owned).collect();
        names.retain(|name| name != "epmd-witness");
        names.sort();
        names
    }

    /// How many messages the manager has heard.
    pub fn heard(&mut self) -> usize {
        self.number("h", "heard ")
    }

    /// How many there are, with the witness if there is one.
    fn how_many(&mut self) -> usize {
        self.number("m", "many ")
    }

    fn number(&mut self, letter: &str, begin: &str) -> usize {
        self.ask(letter, begin)[begin.len()..].parse().unwrap()
    }

    /// Asks the manager with a letter. Its answer is the line that begins like this.
    fn ask(&mut self, letter: &str, begin: &str) -> String {
        let told = |said: &[String]| said.iter().filter(|line| line.starts_with(begin)).count();
        let before = told(&self.said.lock().unwrap());
        self.tell(letter);
        eventually("the manager tells", || told(&self.said.lock().unwrap()) > before);
        let mut said = self.said.lock().unwrap();
        let at = said.iter().rposition(|line| line.starts_with(begin)).unwrap();
        said.remove(at)
    }

    /// Waits until so many connections are stored, with a listener if it needs one, and one table.
    pub fn has_stored(&mut self, connections: usize, listeners: usize) {
        // Each tenth message waits for the stand-in, so on a busy machine thousands take long: what must not end is the
        // progress. And to list the names again and again would keep the stand-in from storing them.
        let all = connections + listeners + 1;
        let mut stored = self.how_many();
        while stored < all {
            eventually("more is in the store", || self.how_many() != stored);
            stored = self.how_many();
        }
        eventually("everything is in the store", || self.stored().len() == all);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.manager.stdin.take());
        let _ = self.manager.wait();
    }
}

/// The stand-in, compiled once.
pub fn stand_in() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../test/support/service_manager.c");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("service_manager-{}", std::process::id()));
        let compiled = Command::new("cc").arg("-o").arg(&program).arg(source).status();
        assert!(compiled.is_ok_and(|status| status.success()), "cc compiles the stand-in for systemd");
        program
    })
}
