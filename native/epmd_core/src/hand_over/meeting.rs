//! How a follower and its owner find each other.
//!
//! The follower listens on a Unix socket of its own, at an abstract name that nobody can know before, and tells the name
//! over the port (`MEET_REQ`) to whoever serves it. The owner calls back. So no name exists that another user could bind
//! first or fill, and both check each other's process ([`super::peer`]).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fd::OwnedFd;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio::try_join;

use super::channel::{self, Receiver, Sender};
use super::peer;
use super::settings::Trusted;
use crate::os::{self, UnixListener, UnixStream};
use crate::protocol::{self, MEETING};

/// How long the owner may take to answer, and to call. It normally takes less than a millisecond; one that has ended
/// meanwhile must not be waited for.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Calls that may wait. Strangers may call, too, once the name is in /proc/net/unix.
const BACKLOG: i32 = 4096;

/// A name at which a follower waits for a call.
pub(crate) type Name = [u8; 16];

/// Why a follower did not meet its owner.
#[derive(Debug)]
pub(crate) enum NotMet {
    /// Nobody answers, or not in time.
    Absent,
    /// The owner has said that it calls, and did not.
    NotCalled,
    /// Whoever has the port does not know of meetings, or wants none.
    NotAMember,
    /// The process that called is not trusted.
    Untrusted(io::Error),
    /// This process cannot listen.
    Failed(io::Error),
}

/// Meets the owner that serves the port at this address. Returns the channel and the owner's process, where that is
/// visible.
pub(crate) async fn meet(owner: SocketAddr, trusted: &Trusted) -> Result<(Sender, Receiver, Option<i32>), NotMet> {
    let name: Name = os::random().map_err(NotMet::Failed)?;
    let listener = listen(name).map_err(NotMet::Failed)?;
    let asked = async {
        let mut stream = TcpStream::connect(owner).await.map_err(|_| NotMet::Absent)?;
        stream.write_all(&protocol::meet_request(&name)).await.map_err(|_| NotMet::Absent)?;
        let mut reply = [0; MEETING.len()];
        match stream.read_exact(&mut reply).await {
            Ok(_) if reply == *MEETING => Ok(()),
            _ => Err(NotMet::NotAMember),
        }
    };
    let mut untrusted = None;
    let called = async {
        loop {
            let (stream, _) = listener.accept().await.map_err(NotMet::Failed)?;
            match peer::check(&stream, trusted) {
                Ok(process) => {
                    let (sender, receiver) = channel::open(stream);
                    return Ok((sender, receiver, process));
                }
                // Perhaps it was the owner. The next one is asked soon.
                Err(error) if error.kind() == ErrorKind::NotConnected => {}
                Err(error) => untrusted = Some(error),
            }
        }
    };
    let asked = async { timeout(TIMEOUT, asked).await.unwrap_or(Err(NotMet::Absent)) };
    // Not for each call: then others could make it wait without end.
    let called = timeout(2 * TIMEOUT, called);
    // At the same time, so that the calls of strangers do not fill the queue meanwhile.
    let ((), called) = try_join!(asked, async { Ok(called.await) })?;
    called.unwrap_or_else(|_| Err(untrusted.map_or(NotMet::NotCalled, NotMet::Untrusted)))
}

/// Calls the follower that waits at this name. The caller checks who it is.
pub(crate) async fn call(name: Name) -> io::Result<UnixStream> {
    os::connect(path(name)).await
}

/// Whether this process may meet others, as far as it can find out alone: calls itself.
pub(crate) async fn rehearse() -> io::Result<()> {
    let name = os::random()?;
    let _listener = listen(name)?;
    call(name).await.map(drop)
}

fn listen(name: Name) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path(name))?)?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(OwnedFd::from(socket).into())
}

/// Abstract: it belongs to the network namespace, as the port does.
fn path(name: Name) -> PathBuf {
    format!("\0embedded_epmd/{:032x}", u128::from_be_bytes(name)).into()
}
