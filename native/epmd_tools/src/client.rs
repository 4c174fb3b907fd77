//! Clients: plain sockets with time-outs, so that no test hangs.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::{ports, request};

/// How long to wait for anything that must happen.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The state of a connection after a client has read everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server closed it, with a FIN or a reset.
    ClosedByServer,
    KeptOpen,
    /// The script closed it before the server did.
    ClosedByClient,
}

/// An address on 127.0.0.1 whose port nobody uses.
pub fn free_address() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ports::free())
}

pub fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    connected(socket(server)?, server)
}

/// Connects from a chosen source address.
pub fn connect_from(source: IpAddr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(server)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    connected(socket, server)
}

fn socket(server: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(server), Type::STREAM, None)
}

fn connected(socket: Socket, server: SocketAddr) -> io::Result<TcpStream> {
    socket.set_read_timeout(Some(PATIENCE))?;
    // This bounds connecting as well.
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_tcp_nodelay(true)?;
    socket.connect(&server.into())?;
    Ok(socket.into())
}

/// Closes with a FIN at once. Dropping the socket is not enough: a child process that another thread is just starting
/// may hold a copy of it.
pub fn close(stream: TcpStream) {
    // Fails if the server has closed already.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Closes with a reset at once, even if another process holds a copy. SO_LINGER 0 would only do so with the last copy.
pub fn reset(stream: TcpStream) {
    let _ = rustix::net::connect_unspec(&stream);
}

/// Sends one request on a new connection, and reads until the server closes.
pub fn exchange(server: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    converse(connect(server)?, request)
}

/// Sends one request on this connection, and reads until the server closes or resets it.
pub fn converse(mut stream: TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    // A server that refuses before it has read everything resets; what it sent before can still be read.
    let _ = stream.write_all(request);
    let mut heard = Vec::new();
    match read_until(&stream, &mut heard, Instant::now() + PATIENCE, usize::MAX) {
        End::ClosedByServer => {
            // The server closes first, so without a reset each of 100,000 round trips would leave a socket in
            // TIME_WAIT.
            reset(stream);
            Ok(heard)
        }
        _ => Err(io::Error::new(
            ErrorKind::TimedOut,
            format!("not closed after {PATIENCE:?}, {} bytes read", heard.len()),
        )),
    }
}

/// Reads until the server closes, `enough` bytes are here, or the deadline has passed.
pub fn read_until(mut stream: &TcpStream, heard: &mut Vec<u8>, deadline: Instant, enough: usize) -> End {
    let mut chunk = [0; 65536];
    while heard.len() < enough {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).expect("a time-out can be set");
        match stream.read(&mut chunk) {
            Ok(0) => return End::ClosedByServer,
            Ok(length) => heard.extend(&chunk[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if Instant::now() >= deadline {
                    return End::KeptOpen;
                }
            }
            Err(_) => return End::ClosedByServer,
        }
    }
    End::KeptOpen
}

/// Whether the server has closed this connection. Does not wait.
pub fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket can be made non-blocking");
    let peeked = stream.peek(&mut [0; 1]);
    stream.set_nonblocking(false).expect("a socket can be made blocking");
    match peeked {
        Ok(length) => length == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Registers, and returns the connection that holds the name, or the server's other reply.
pub fn register(server: SocketAddr, name: impl AsRef<[u8]>, port: u16) -> Result<TcpStream, String> {
    register_on(connect(server).map_err(|error| error.to_string())?, &request::alive2(name, port))
}

pub fn register_on(mut stream: TcpStream, alive2: &[u8]) -> Result<TcpStream, String> {
    stream.write_all(alive2).map_err(|error| error.to_string())?;
    let mut reply = [0; 6];
    stream.read_exact(&mut reply).map_err(|error| error.to_string())?;
    match reply {
        [b'v', 0, ..] => Ok(stream),
        refusal => Err(format!("refused: {}", refusal.escape_ascii())),
    }
}

/// The reply to `NAMES_REQ`, without the port before it.
pub fn listing(server: SocketAddr) -> io::Result<String> {
    let reply = exchange(server, &request::names())?;
    let text = reply.get(4..).ok_or_else(|| io::Error::other(format!("no listing: {reply:?}")))?;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Half-closes. A connection that is closed already needs none.
pub fn half_close(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
}

/// Waits for a condition. Panics with `what` if it never holds.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, condition);
}

/// The same, for what is due later than at once.
#[track_caller]
pub fn eventually_within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    loop {
        let looked = Instant::now();
        if condition() {
            return;
        }
        assert!(started.elapsed() < patience, "not within {patience:?}: {what}");
        // The later it comes and the longer it takes to look, the less often.
        let pause = (started.elapsed() / 50).clamp(Duration::from_millis(2), Duration::from_millis(50));
        // The last look is due at the end of the patience.
        let left = patience.saturating_sub(started.elapsed());
        thread::sleep(pause.max(4 * looked.elapsed()).min(left));
    }
}
