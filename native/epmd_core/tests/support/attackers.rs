//! Processes of another user that attack the hand-over, each a Perl program. They end with the test.
//!
//! They attack whatever they find in their network namespace, so a test that uses them needs one of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use super::client::eventually;
use super::users::{run_as, NOBODY};

/// What all of them begin with. `name` is a Unix address in the abstract namespace.
const BEGIN: &str = r#"
    use strict; use Socket qw(:all); use Errno qw(EAGAIN); $| = 1; $SIG{PIPE} = "IGNORE";
    sub name { pack("S a*", AF_UNIX, "\0$_[0]") }
    sub unix { socket(my $s, AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0) or die "socket: $!"; $s }
    sub tcp { socket(my $s, AF_INET, SOCK_STREAM, 0) or die "socket: $!"; $s }
"#;

/// Binds names, and never listens.
const HOLD: &str = r#"
    my @held = map { my $s = unix(); bind($s, name($_)) or die "$_: $!"; $s } @ARGV;
    print "ready\n"; sleep 600;
"#;

/// Connects to each name that begins like this, and closes, without end.
const FILL: &str = r#"
    my ($begin) = @ARGV;
    print "ready\n";
    while (1) {
        open(my $table, "<", "/proc/net/unix") or die "/proc/net/unix: $!";
        my %names = map { / \@(\Q$begin\E\S*)/ ? ($1 => 1) : () } <$table>;
        for my $name (keys %names) {
            for (1..200) { my $s = unix(); next if connect($s, name($name)); last if $! != EAGAIN }
        }
    }
"#;

/// Binds names and listens there as soon as they are free. Does so without end, and says what it has won.
const WIN_NAMES: &str = r#"
    my @free = map { [$_, unix()] } @ARGV;
    my @won;
    print "ready\n";
    while (@free) {
        my @left;
        for (@free) {
            my ($name, $socket) = @$_;
            if (!bind($socket, name($name))) { push @left, $_; next }
            listen($socket, 5); push @won, $socket; print "won $name\n";
        }
        @free = @left;
    }
    sleep 600;
"#;

/// The same with a port, at each of these addresses.
const WIN_PORT: &str = r#"
    my ($port, @hosts) = @ARGV;
    my @free = map { [$_, pack_sockaddr_in($port, inet_aton($_)), undef] } @hosts;
    my @won;
    print "ready\n";
    while (@free) {
        my @left;
        for (@free) {
            my ($host, $address, $socket) = @$_;
            if (!$socket) { $socket = $_->[2] = tcp(); setsockopt($socket, SOL_SOCKET, SO_REUSEADDR, 1) }
            if (!bind($socket, $address)) { push @left, $_; next }
            # Two may have bound it, of which one can listen.
            if (!listen($socket, 5)) { $_->[2] = undef; push @left, $_; next }
            push @won, $socket; print "won $host:$port\n";
        }
        @free = @left;
    }
    sleep 600;
"#;

/// Sends a request from one address and port to another address, and reads the reply. The kernel chooses the
/// source port, so it connects until that is the right one, or any if that is 0.
const SEND_FROM: &str = r#"
    use constant NO_PORT_YET => 24; # IP_BIND_ADDRESS_NO_PORT
    my ($host, $port, $source, $source_port, $request) = @ARGV;
    my $to = pack_sockaddr_in($port, inet_aton($host));
    for my $attempt (1..500_000) {
        my $s = tcp();
        setsockopt($s, IPPROTO_IP, NO_PORT_YET, 1) or die "setsockopt: $!";
        setsockopt($s, SOL_SOCKET, SO_LINGER, pack("ii", 1, 0));
        bind($s, pack_sockaddr_in(0, inet_aton($source))) or die "bind: $!";
        connect($s, $to) or die "connect: $!";
        next if $source_port && (unpack_sockaddr_in(getsockname($s)))[0] != $source_port;
        syswrite($s, pack("H*", $request));
        sysread($s, my $reply, 100);
        print unpack("H*", $reply // ""), "\n";
        sysread($s, $reply, 100);
        print "closed\n"; exit;
    }
    die "port $source_port was never chosen";
"#;

/// Attackers, and what they have said.
#[derive(Default)]
pub struct Attackers {
    children: Vec<Child>,
    said: Arc<Mutex<Vec<String>>>,
}

impl Attackers {
    /// One that binds these names and never listens: nobody else can bind them, or connect.
    pub fn that_hold(names: &[String]) -> Self {
        let mut attackers = Self::default();
        attackers.add(1, HOLD, names);
        attackers.are_ready();
        attackers
    }

    /// So many that keep the backlog full of each name that begins like this.
    pub fn that_fill(count: usize, names: &str) -> Self {
        let mut attackers = Self::default();
        attackers.add(count, FILL, &[names.into()]);
        attackers.are_ready();
        attackers
    }

    /// So many for these names, and so many for a port at these addresses, that take each as soon as it is free.
    pub fn that_win(count: usize, names: &[String], hosts: &[String], port: u16) -> Self {
        let mut attackers = Self::default();
        attackers.add(count, WIN_NAMES, names);
        attackers.add(count, WIN_PORT, &[&[port.to_string()], hosts].concat());
        attackers.are_ready();
        attackers
    }

    /// One that sends a request from this address and port, 0 for any, and waits until the connection is closed.
    pub fn that_sends_from(source: SocketAddr, server: SocketAddr, request: &[u8]) -> Self {
        let request: String = request.iter().map(|byte| format!("{byte:02x}")).collect();
        let [host, port] = [server.ip().to_string(), server.port().to_string()];
        let mut attackers = Self::default();
        attackers.add(1, SEND_FROM, &[host, port, source.ip().to_string(), source.port().to_string(), request]);
        attackers
    }

    /// What was won that begins like this.
    pub fn won(&self, begin: &str) -> Vec<String> {
        let said = self.said.lock().unwrap();
        said.iter()
            .filter_map(|line| line.strip_prefix("won "))
            .filter(|won| won.starts_with(begin))
            .map(str::to_owned)
            .collect()
    }

    /// How often one has said this.
    pub fn said(&self, line: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|said| *said == line).count()
    }

    fn add(&mut self, count: usize, program: &str, arguments: &[String]) {
        for _ in 0..count {
            let mut command = run_as(NOBODY, "perl");
            command.arg("-e").arg(format!("{BEGIN}{program}")).args(arguments);
            let mut child = command.stdout(Stdio::piped()).spawn().expect("perl");
            let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
            let said = Arc::clone(&self.said);
            thread::spawn(move || lines.map_while(Result::ok).for_each(|line| said.lock().unwrap().push(line)));
            self.children.push(child);
        }
    }

    fn are_ready(&self) {
        eventually("the attackers are ready", || self.said("ready") == self.children.len());
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
