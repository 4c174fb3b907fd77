//! Other users of this host, as whom a test does something.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::skip::not_run;
use epmd_tools::process::Process;
use epmd_tools::request::alive2;

/// The other user, and one more.
pub const NOBODY: u32 = 65_534;
pub const THIRD: u32 = 65_533;

/// A user whom no other run beside this one has: for what the kernel counts by user.
pub fn own() -> u32 {
    30_000 + std::process::id() % 30_000
}

/// Whether there are others: a plain user in a user namespace of his own has none.
pub fn are_there() -> bool {
    let users = fs::read_to_string("/proc/self/uid_map").expect("a user namespace");
    if users.split_whitespace().nth(2).is_some_and(|count| count.parse::<u32>().expect("a number") > NOBODY) {
        return true;
    }
    not_run("there is no second user in this user namespace");
    false
}

/// A program that is run by this user.
pub fn run_as(user: u32, program: &str) -> Command {
    let user = user.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", program]).stdin(Stdio::null());
    command
}

/// A Perl script that is run by a user, and says lines. It ends with the test.
pub struct Perl {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Perl {
    pub fn start(user: u32, script: &str, arguments: impl IntoIterator<Item = String>) -> Self {
        let mut command = run_as(user, "perl");
        command.args(["-e", script]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("perl");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, lines }
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().expect("it is piped"), "{line}").expect("it reads");
    }

    /// The next line that it says, or nothing when it has ended.
    pub fn says(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }
}

impl Drop for Perl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a Perl script of this user's says to its end.
pub fn say(user: u32, script: &str) -> String {
    let output = run_as(user, "perl").args(["-e", script]).output().expect("perl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A member that is run by this user, who need not see where its program is.
pub fn member_of(user: u32, port: u16, flags: &[&str]) -> Process {
    limited_member_of(user, None, port, flags)
}

/// The same, with a limit of descriptors.
pub fn limited_member_of(user: u32, descriptors: Option<u32>, port: u16, flags: &[&str]) -> Process {
    let script =
        format!("exec 3<\"$0\" && exec setpriv --reuid {user} --regid {user} --clear-groups /proc/self/fd/3 \"$@\"");
    Process::run(descriptors, &script, port, flags)
}

/// What a client does when it has sent its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It reads the reply and stays.
    Stay,
    Close,
    Reset,
    HalfClose,
    /// It asks again until it is registered, and ends.
    AskAgain,
}

/// A client that registers a name, and is this user's.
pub struct Client(Perl);

const SCRIPT: &str = r#"
    use Socket qw(:all); use IO::Handle;
    my ($host, $port, $request, $then) = @ARGV;
    sub ask {
        my $ipv6 = $host =~ /:/;
        socket(S, $ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0) or die "socket: $!";
        my $to = $ipv6 ? pack_sockaddr_in6($port, inet_pton(AF_INET6, $host)) : pack_sockaddr_in($port, inet_aton($host));
        connect(S, $to) or die "connect: $!";
        syswrite(S, pack("H*", $request));
    }
    sub reply { my $n = sysread(S, my $b, 100); return unpack("H*", $b // "") }
    sub say { syswrite(STDOUT, "$_[0]\n") }
    ask();
    if ($then eq "Stay") { &say(reply()) }
    elsif ($then eq "AskAgain") { ask() until reply() =~ /^7600/; exit }
    elsif ($then eq "HalfClose") { shutdown(S, 1); &say("") }
    else { setsockopt(S, SOL_SOCKET, SO_LINGER, pack("ii", 1, 0)) if $then eq "Reset"; close(S); &say("") }
    sleep 600;
"#;

impl Client {
    pub fn start(user: u32, server: SocketAddr, name: &str, then: Then) -> Self {
        let request: String = alive2(name, 4711).iter().map(|byte| format!("{byte:02x}")).collect();
        let arguments = [server.ip().to_string(), server.port().to_string(), request, format!("{then:?}")];
        Self(Perl::start(user, SCRIPT, arguments))
    }

    /// The reply in hexadecimal digits, or nothing of one that reads none.
    pub fn reply(&mut self) -> String {
        self.0.says()
    }

    /// Whether one that asks again has been refused so far.
    pub fn is_refused(&mut self) -> bool {
        !self.0.has_ended()
    }

    /// Whether it was registered.
    pub fn is_granted(&mut self) -> bool {
        match self.reply() {
            reply if reply.starts_with("7600") => true,
            reply if reply.starts_with("7601") => false,
            reply => panic!("no reply to a registration: {reply:?}"),
        }
    }
}

/// Many names that one user has.
pub struct Crowd {
    _perl: Perl,
    pub size: usize,
}

const REGISTER_ALL: &str = r#"
    use Socket qw(:all);
    my ($host, $port, @requests) = @ARGV;
    my @held;
    for my $request (@requests) {
        socket(my $s, AF_INET, SOCK_STREAM, 0) or die "socket: $!";
        connect($s, pack_sockaddr_in($port, inet_aton($host))) or die "connect: $!";
        syswrite($s, pack("H*", $request));
        sysread($s, my $reply, 100);
        last unless unpack("H*", $reply) =~ /^7600/;
        push @held, $s;
    }
    syswrite(STDOUT, scalar(@held) . "\n");
    sleep 600;
"#;

impl Crowd {
    /// Registers `NAME1`, `NAME2`, ... until one is refused, at most so many.
    pub fn start(user: u32, server: SocketAddr, name: &str, most: usize) -> Self {
        let request = |n| alive2(format!("{name}{n}"), 4711).iter().map(|byte| format!("{byte:02x}")).collect();
        let requests: Vec<String> = (1..=most).map(request).collect();
        let server = [server.ip().to_string(), server.port().to_string()];
        let mut perl = Perl::start(user, REGISTER_ALL, server.into_iter().chain(requests));
        Self { size: perl.says().parse().expect("a number"), _perl: perl }
    }
}

/// Whether this user's client registers a name.
pub fn is_granted(user: u32, server: SocketAddr, name: &str) -> bool {
    Client::start(user, server, name, Then::Stay).is_granted()
}
