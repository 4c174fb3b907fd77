//! Runs a script against a server and records what can be observed.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::differential::observation::{without_port_and_descriptors, Creations, Heard, Observation, Reply, Table};
use crate::differential::script::{Script, Step};
use epmd_tools::client::{self, End, PATIENCE};
use epmd_tools::request;

/// How long a connection must stay open and silent to count as kept open. The round trips after each step show that the
/// server has read everything before them. So this only covers what it does on its own afterwards. 150 ms is a hundred
/// times what any of its closes takes.
const QUIET: Duration = Duration::from_millis(150);

/// Runs the steps. `expected`, where it is known, says how long to wait for replies and closes.
pub(crate) fn run(script: &Script, server: SocketAddr, expected: Option<&Observation>) -> io::Result<Observation> {
    let mut session = Session { server, peers: BTreeMap::new() };
    let mut steps = script.steps.iter().peekable();
    while let Some(step) = steps.next() {
        session.take(step)?;
        // Whoever replies has read the request.
        let is_read = match (step, steps.peek()) {
            (Step::Register(..), _) => true,
            (Step::Send(asked, _), Some(Step::Reply(connection))) => asked == connection,
            _ => false,
        };
        if !is_read {
            session.let_the_server_catch_up();
        }
    }
    session.hear_the_rest(expected);
    let during = table(server)?;
    session.close_all();
    let after = table(server)?;
    Ok(Observation { connections: session.heard(script), during, after })
}

struct Session {
    server: SocketAddr,
    peers: BTreeMap<usize, Peer>,
}

/// One connection of a script.
struct Peer {
    /// None once the script has closed it.
    stream: Option<TcpStream>,
    heard: Vec<u8>,
    end: End,
}

impl Session {
    fn take(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Open(connection) => {
                self.peer(*connection)?;
            }
            Step::Send(connection, segment) => self.peer(*connection)?.send(segment),
            Step::Register(connection, alive2) => {
                let peer = self.peer(*connection)?;
                peer.send(alive2);
                peer.hear(Instant::now() + PATIENCE, 1);
            }
            Step::SendAndHalfClose(connection, segment) => {
                let peer = self.peer(*connection)?;
                // Corked, so that the data and the FIN arrive together.
                peer.send_corked_to_the_end(segment);
            }
            Step::HalfClose(connection) => client::half_close(self.peer(*connection)?.open()),
            Step::Close(connection) => client::close(self.peer(*connection)?.take_stream()),
            Step::Reset(connection) => client::reset(self.peer(*connection)?.take_stream()),
            Step::Reply(connection) => {
                self.peer(*connection)?.hear(Instant::now() + PATIENCE, 1);
            }
            Step::Closed(connection) => {
                self.peer(*connection)?.hear(Instant::now() + PATIENCE, usize::MAX);
            }
            Step::Pause(time) => thread::sleep(*time),
        }
        Ok(())
    }

    fn peer(&mut self, connection: usize) -> io::Result<&mut Peer> {
        use std::collections::btree_map::Entry;
        Ok(match self.peers.entry(connection) {
            Entry::Occupied(peer) => peer.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(Peer {
                stream: Some(client::connect(self.server)?),
                heard: Vec::new(),
                end: End::KeptOpen,
            }),
        })
    }

    /// Two round trips on other connections. Everything that had arrived before the first has been read when the second
    /// is answered, because both servers go round their event loop in between. One would not do: both may answer a new
    /// connection before they read from an older one.
    fn let_the_server_catch_up(&self) {
        for _ in 0..2 {
            // After a KILL nobody may be there.
            let _ = client::exchange(self.server, &request::names());
        }
    }

    fn hear_the_rest(&mut self, expected: Option<&Observation>) {
        if let Some(expected) = expected {
            for (connection, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.stream.is_some()) {
                let Some(heard) = expected.connections.get(connection) else {
                    continue;
                };
                let enough = match (heard.end, &heard.reply) {
                    (End::ClosedByServer, _) => usize::MAX,
                    (_, Reply::Nothing) => 0,
                    _ => 1,
                };
                peer.hear(Instant::now() + PATIENCE, enough);
            }
        }
        let quiet = Instant::now() + QUIET;
        for peer in self.peers.values_mut().filter(|peer| peer.stream.is_some()) {
            peer.hear(quiet, usize::MAX);
        }
    }

    fn close_all(&mut self) {
        for connection in self.peers.keys().copied().collect::<Vec<_>>() {
            let stream = self.peers.get_mut(&connection).and_then(|peer| peer.stream.take());
            if let Some(stream) = stream {
                client::close(stream);
                self.let_the_server_catch_up();
            }
        }
    }

    fn heard(self, script: &Script) -> BTreeMap<usize, Heard> {
        let port = self.server.port();
        let mut creations = Creations::default();
        let heard = self.peers.into_iter().map(|(connection, peer)| {
            let sent = script.sent(connection);
            let reply = Reply::read(&sent, &peer.heard, port, &mut creations);
            (connection, Heard { reply, end: peer.end })
        });
        heard.collect()
    }
}

impl Peer {
    fn open(&mut self) -> &mut TcpStream {
        self.stream.as_mut().expect("a script does nothing on a connection that it closed")
    }

    fn send(&mut self, segment: &[u8]) {
        // If the server has closed already, `end` will show that.
        let _ = self.open().write_all(segment);
    }

    fn send_corked_to_the_end(&mut self, segment: &[u8]) {
        let stream = self.open();
        rustix::net::sockopt::set_tcp_cork(&*stream, true).expect("a socket can be corked");
        let _ = stream.write_all(segment);
        client::half_close(stream);
    }

    fn hear(&mut self, deadline: Instant, enough: usize) {
        if self.end == End::KeptOpen {
            let stream = self.stream.as_ref().expect("an open connection");
            self.end = client::read_until(stream, &mut self.heard, deadline, enough);
        }
    }

    /// Reads what has arrived, and returns the stream to be closed.
    fn take_stream(&mut self) -> TcpStream {
        let mut stream = self.stream.take().expect("a script closes a connection once");
        if self.end == End::KeptOpen {
            self.end = End::ClosedByClient;
            stream.set_nonblocking(true).expect("a socket can be made non-blocking");
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut chunk) {
                self.heard.extend(&chunk[..length]);
            }
        }
        stream
    }
}

fn table(server: SocketAddr) -> io::Result<Table> {
    let ask = |request: Vec<u8>| -> io::Result<Vec<u8>> {
        let heard = client::exchange(server, &request)?;
        Ok(without_port_and_descriptors(&heard, server.port()))
    };
    match (ask(request::names()), ask(request::dump())) {
        (Ok(names), Ok(dump)) => Ok(Table::Listed { names, dump }),
        (Err(error), _) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Table::Gone),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}
