//! Those who attack: processes of another user, each a Perl program, and false members and owners of any user. They end
//! with the test.
//!
//! [`Attackers`] of the handover attack whatever they find in their network namespace, so a test that uses them needs one
//! of its own.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::process::{Child, Stdio};
use std::sync::{mpsc, Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::rand::{getrandom, GetRandomFlags};

use super::users::{run_as, say, Perl, NOBODY};
use epmd_tools::client::{eventually_within, exchange, PATIENCE};
use epmd_tools::request::{framed, tagged, Alive2, ALIVE2, NAMES, PORT_PLEASE2};

/// What a member says over the port to be called at a name, without the name.
const MEET: &[u8] = b"membedded_epmd";
/// The reply: a call will come.
const MEETING: &[u8] = b"m";
/// How long programs may take until all of them attack, on a busy machine. The server promises nothing of it.
const READY: Duration = Duration::from_secs(60);

/// The first message of both sides, with what can be wrong in it.
#[derive(Clone, Copy, Debug)]
pub struct Hello {
    pub version: u16,
    pub address: [u8; 4],
    pub stands_by: bool,
}

impl Hello {
    /// One that is right.
    pub const RIGHT: Self = Self { version: 1, address: [127, 0, 0, 1], stands_by: true };

    pub fn framed(self) -> Vec<u8> {
        let Self { version, address, stands_by } = self;
        let [high, low] = version.to_be_bytes();
        // One address, no node, and no replica to resume.
        let fields = [&[high, low, 1, 4][..], &address, &[0, 0, u8::from(stands_by), 0]].concat();
        tagged(1, &[b"epmd", &fields[..]].concat())
    }
}

/// The abstract name that these bytes stand for.
pub fn meeting_place(name: [u8; 16]) -> String {
    format!("embedded_epmd/{:032x}", u128::from_be_bytes(name))
}

/// The request to be called there.
pub fn meet_request(name: [u8; 16]) -> Vec<u8> {
    framed(&[MEET, &name].concat())
}

/// A name that nobody else on the host has, as members make them.
fn new_name() -> [u8; 16] {
    let mut name = [0; 16];
    assert_eq!(getrandom(&mut name, GetRandomFlags::empty()), Ok(name.len()));
    name
}

/// Has the owner of this port call, as it calls members, and returns the channel.
pub fn called_by(server: SocketAddr) -> UnixStream {
    let name = new_name();
    let listener = UnixListener::bind_addr(&UnixAddr::from_abstract_name(meeting_place(name)).unwrap()).unwrap();
    assert_eq!(exchange(server, &meet_request(name)).unwrap(), MEETING);
    let (channel, _) = listener.accept().unwrap();
    channel.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    channel
}

/// What a process of this user hears that has the owner of this port call, and says what a member would say.
pub fn heard_when_called(user: u32, server: SocketAddr) -> String {
    let name = new_name();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let script = format!(
        r#"{BEGIN}
        socket(my $l, AF_UNIX, SOCK_STREAM, 0) or die; bind($l, name("{}")) or die "bind: $!"; listen($l, 5) or die;
        my $s = tcp(); connect($s, pack_sockaddr_in({}, inet_aton("{}"))) or die "connect: $!";
        syswrite($s, pack("H*", "{}")); sysread($s, my $reply, 100) or die "no reply";
        accept(my $c, $l) or die; syswrite($c, pack("H*", "{}"));
        my $n = sysread($c, my $b, 100); print defined $n ? "heard $n" : "reset";"#,
        meeting_place(name),
        server.port(),
        server.ip(),
        hex(&meet_request(name)),
        hex(&Hello::RIGHT.framed()),
    );
    say(user, &script)
}

/// One that has the port and answers as the owner would, also those that want to be called.
pub struct FalseOwner {
    pub address: SocketAddr,
    places: mpsc::Receiver<String>,
}

impl FalseOwner {
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (told, places) = mpsc::channel();
        thread::spawn(move || {
            // The connections of those that are registered stay open.
            let mut nodes = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                if answer(stream, &mut nodes, &told, address.port()).is_none() {
                    return;
                }
            }
        });
        Self { address, places }
    }

    /// Calls the next member that asks for it, by its abstract name. It waits there for 3 seconds, and then asks again: on
    /// a busy machine nobody may be there any more.
    pub fn reach<T>(&self, mut call: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let place = self.places.recv_timeout(left).expect("a member asks to be called, and waits");
            if let Some(reached) = call(&place) {
                return reached;
            }
        }
    }

    /// Calls the next member that asks for it, and returns the channel.
    pub fn call(&self) -> UnixStream {
        let channel = self.reach(|place| {
            let place = UnixAddr::from_abstract_name(place).expect("a name");
            match UnixStream::connect_addr(&place) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
                called => Some(called.expect("a socket")),
            }
        });
        channel.set_read_timeout(Some(PATIENCE)).expect("a socket");
        channel
    }
}

/// Answers one request. `None` if nobody wants to know of members any more.
fn answer(
    mut stream: TcpStream,
    nodes: &mut Vec<(Alive2, TcpStream)>,
    told: &mpsc::Sender<String>,
    port: u16,
) -> Option<()> {
    let mut length = [0; 2];
    if stream.read_exact(&mut length).is_err() {
        return Some(());
    }
    let mut body = vec![0; usize::from(u16::from_be_bytes(length))];
    if stream.read_exact(&mut body).is_err() {
        return Some(());
    }
    // It may have gone.
    let _ = match body.split_first() {
        Some((&ALIVE2, _)) => {
            let granted = stream.write_all(&[b'v', 0, 0, 0, 0, 7]);
            nodes.extend(Alive2::parse(&framed(&body)).map(|node| (node, stream)));
            granted
        }
        Some((&PORT_PLEASE2, name)) => {
            let found = nodes.iter().find(|(node, _)| node.name == name);
            stream.write_all(&found.map_or(vec![b'w', 1], |(node, _)| node.found()))
        }
        Some((&NAMES, _)) => stream.write_all(&u32::from(port).to_be_bytes()),
        _ => {
            if let Some(Ok(name)) = body.strip_prefix(MEET).map(<[u8; 16]>::try_from) {
                told.send(meeting_place(name)).ok()?;
                stream.write_all(MEETING)
            } else {
                Ok(())
            }
        }
    };
    Some(())
}

/// A process of a user that calls members. It runs before it is told whom: a member waits for a few seconds only, in which
/// a busy machine may not have started it.
pub struct Caller(Perl);

impl Caller {
    pub fn start(user: u32) -> Self {
        let script = format!(
            r#"{BEGIN}
            print "ready\n";
            while (<STDIN>) {{
                my ($what, $place) = split;
                socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
                connect($s, name($place)) or do {{ print "refused\n"; next }};
                my $n = $what eq "hear" ? sysread($s, my $b, 100) : 0;
                print defined $n ? "$n\n" : "reset\n";
            }}"#
        );
        let mut perl = Perl::start(user, &script, []);
        assert_eq!(perl.says(), "ready");
        Self(perl)
    }

    /// Calls a member, if it waits there, and ends the connection at once.
    pub fn call_and_end(&mut self, place: &str) -> Option<()> {
        self.call("end", place).map(|said| assert_eq!(said, "0"))
    }

    /// Calls a member, if it waits there. Returns how many bytes it says first, 0 at the end of the connection, or that it
    /// resets it.
    pub fn call_and_hear(&mut self, place: &str) -> Option<String> {
        self.call("hear", place)
    }

    fn call(&mut self, what: &str, place: &str) -> Option<String> {
        self.0.tell(&format!("{what} {place}"));
        Some(self.0.says()).filter(|said| said != "refused")
    }
}

/// What all of them begin with. `name` is a Unix address in the abstract namespace.
const BEGIN: &str = r#"
    use strict; use Socket qw(:all); use Errno qw(EAGAIN); $| = 1; $SIG{PIPE} = "IGNORE";
    sub name { pack("S a*", AF_UNIX, "\0$_[0]") }
    sub unix { socket(my $s, AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0) or die "socket: $!"; $s }
    sub tcp { socket(my $s, AF_INET, SOCK_STREAM, 0) or die "socket: $!"; $s }
    sub come_and_go {
        my ($host, $port, $name) = @_;
        my $s = tcp();
        # Nothing stays in TIME_WAIT.
        setsockopt($s, SOL_SOCKET, SO_LINGER, pack("ii", 1, 0));
        connect($s, pack_sockaddr_in($port, inet_aton($host))) or die "connect: $!";
        syswrite($s, pack("n/a*", pack("CnCCnnn/a*n", 120, 4711, 77, 0, 6, 5, $name, 0)));
        sysread($s, my $reply, 6);
    }
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
/// source port, from a range of one since Linux 6.3. Before, it connects until that is the right one. 0 is any.
const SEND_FROM: &str = r#"
    use constant { NO_PORT_YET => 24, PORT_RANGE => 51 }; # IP_BIND_ADDRESS_NO_PORT, IP_LOCAL_PORT_RANGE
    my ($host, $port, $source, $source_port, $request) = @ARGV;
    my $to = pack_sockaddr_in($port, inet_aton($host));
    for my $attempt (1..500_000) {
        my $s = tcp();
        setsockopt($s, IPPROTO_IP, NO_PORT_YET, 1) or die "setsockopt: $!";
        setsockopt($s, IPPROTO_IP, PORT_RANGE, pack("L", $source_port << 16 | $source_port));
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

/// Asks for something at so many connections, begins to read the reply at each, and never reads the rest. Before each, a
/// name comes and goes.
const READ_NOTHING: &str = r#"
    my ($host, $port, $count, $request) = @ARGV;
    my @deaf;
    for my $n (1..$count) {
        come_and_go($host, $port, "passing$n");
        my $s = tcp();
        setsockopt($s, SOL_SOCKET, SO_RCVBUF, 4096);
        connect($s, pack_sockaddr_in($port, inet_aton($host))) or die "connect: $!";
        syswrite($s, pack("H*", $request));
        sysread($s, my $reply, 1);
        push @deaf, $s;
    }
    print "ready\n"; sleep 600;
"#;

/// Registers so many names, each of which ends at once.
const COME_AND_GO: &str = r#"
    my ($host, $port, $count) = @ARGV;
    come_and_go($host, $port, "passing$_") for 1..$count;
    print "ready\n"; sleep 600;
"#;

/// Connects from each of these sources in turn, some 1,500 times a second without end, and sends nothing but a first byte.
/// Leaves so many open.
const WAIT: &str = r#"
    my ($host, $port, $open, @sources) = @ARGV;
    my $ipv6 = $host =~ /:/;
    sub at { $ipv6 ? pack_sockaddr_in6($_[1], inet_pton(AF_INET6, $_[0])) : pack_sockaddr_in($_[1], inet_aton($_[0])) }
    my ($n, @waiting) = (0);
    while (1) {
        socket(my $s, $ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0) or die "socket: $!";
        # Nothing stays in TIME_WAIT.
        setsockopt($s, SOL_SOCKET, SO_LINGER, pack("ii", 1, 0));
        bind($s, at($sources[$n % @sources], 0)) or die "bind: $!";
        connect($s, at($host, $port)) or next;
        syswrite($s, "\0");
        push @waiting, $s;
        shift @waiting if @waiting > $open;
        print "ready\n" if ++$n == $open;
        select(undef, undef, undef, 0.0006);
    }
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

    /// One that asks for this at so many connections, each time of another state of the table, and does not read what it is
    /// sent.
    pub fn that_do_not_read(count: usize, server: SocketAddr, request: &[u8]) -> Self {
        let request: String = request.iter().map(|byte| format!("{byte:02x}")).collect();
        Self::of_server(READ_NOTHING, server, &[count.to_string(), request])
    }

    /// One that registers so many names, which end at once. It is ready when it has done so.
    pub fn that_come_and_go(count: usize, server: SocketAddr) -> Self {
        Self::of_server(COME_AND_GO, server, &[count.to_string()])
    }

    /// One that connects from these addresses in turn, again and again, and never sends its request. So many of its
    /// connections are open at a time.
    pub fn that_wait(open: usize, sources: impl IntoIterator<Item = IpAddr>, server: SocketAddr) -> Self {
        let sources = sources.into_iter().map(|source| source.to_string());
        Self::of_server(WAIT, server, &[open.to_string()].into_iter().chain(sources).collect::<Vec<_>>())
    }

    fn of_server(program: &str, server: SocketAddr, arguments: &[String]) -> Self {
        let mut attackers = Self::default();
        let server = [server.ip().to_string(), server.port().to_string()];
        attackers.add(1, program, &[&server, arguments].concat());
        attackers.are_ready();
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
        eventually_within(READY, "the attackers are ready", || self.said("ready") == self.children.len());
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
