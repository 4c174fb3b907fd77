//! What a member asks of whoever serves the port.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::settings::StartError;
use super::trouble::ended_unanswered;
use crate::node::Node;
use crate::protocol::{self, Alive2Reply, Malformed};

/// How long an answer may take. An EPMD that needs longer is as good as none.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);
/// A name that no node can have, asked for when there is no node of our own: nobody waits until one comes back.
const NOBODY: &str = "no node";

/// The connection that keeps a registration alive.
#[derive(Debug)]
pub(crate) struct Link(TcpStream);

impl Link {
    /// Our end's address.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.0.local_addr().ok()
    }

    /// Waits for the link's end, however it comes.
    pub(crate) async fn ended(&self) {
        let mut byte = [0];
        while self.0.readable().await.is_ok() {
            match self.0.try_read(&mut byte) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => break,
            }
        }
    }
}

/// How an owner answered who wants to join it.
#[derive(Debug)]
pub(crate) enum Joined {
    /// The node is registered while the link lasts, with this creation.
    Granted(Link, u32),
    /// The node is registered by the link that it came with.
    Kept(Link),
    /// The node's name is another's.
    Taken,
    /// It is not, and the node is refused all the same.
    Refused,
    /// There was no node to register.
    Alone,
}

/// Joins an owner: registers the node, if there is one, unless it still is by the link that it came with. Whether there
/// is an EPMD that only takes no registrations is found out if that is `doubted`: a new owner keeps who asks waiting.
pub(crate) async fn join(
    owner: SocketAddr,
    node: Option<&Node>,
    link: Option<Link>,
    doubted: bool,
) -> Result<Joined, StartError> {
    let held = |error| StartError::Held { address: owner, error };
    let Some(node) = node else {
        // There is nothing to register, but whoever answers must be an EPMD.
        return is_registered(owner, None).await.map(|_| Joined::Alone).map_err(held);
    };
    if let Some(link) = link {
        if is_registered(owner, Some(node.name.as_str())).await.map_err(held)? {
            return Ok(Joined::Kept(link));
        }
    }
    match register(owner, node).await {
        // A forwarder does that: for whoever is behind it, this host is another one.
        Err(error) if doubted && ended_unanswered(&error) && is_registered(owner, None).await.is_ok() => {
            Err(StartError::NoRegistrations { address: owner })
        }
        joined => joined.map_err(held),
    }
}

async fn register(owner: SocketAddr, node: &Node) -> io::Result<Joined> {
    let (stream, reply) = ask(owner, &protocol::alive2_request(node), protocol::decode_alive2_reply).await?;
    Ok(match reply {
        Alive2Reply::Granted(creation) => Joined::Granted(Link(stream), creation),
        // The reply has no reason.
        Alive2Reply::Refused if is_registered(owner, Some(node.name.as_str())).await.unwrap_or(true) => Joined::Taken,
        Alive2Reply::Refused => Joined::Refused,
    })
}

/// Looks a name up, or that of nobody: what matters is that the answer is an EPMD's.
pub(crate) async fn is_registered(owner: SocketAddr, name: Option<&str>) -> io::Result<bool> {
    let name = name.unwrap_or(NOBODY);
    let (_, found) = ask(owner, &protocol::port_please2_request(name), protocol::decode_port2_reply).await?;
    Ok(found)
}

async fn ask<T>(
    owner: SocketAddr,
    request: &[u8],
    decode: fn(&[u8]) -> Result<Option<T>, Malformed>,
) -> io::Result<(TcpStream, T)> {
    let conversation = async {
        let mut stream = TcpStream::connect(owner).await?;
        stream.write_all(request).await?;
        let mut reply = Vec::with_capacity(16);
        loop {
            if stream.read_buf(&mut reply).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match decode(&reply) {
                Ok(Some(reply)) => return Ok((stream, reply)),
                Ok(None) => {}
                Err(Malformed) => return Err(io::Error::new(ErrorKind::InvalidData, "it does not speak EPMD")),
            }
        }
    };
    timeout(PATIENCE, conversation).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}
