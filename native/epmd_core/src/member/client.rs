//! The requests of a member to the owner of the port.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::settings::StartError;
use super::trouble::ended_unanswered;
use crate::node::Node;
use crate::os::{self, AsyncFd};
use crate::protocol::{self, Alive2Reply, Malformed};

/// How long a reply may take. On a host that boots, an owner may wait for a processor for a second or two, and a VM
/// that gives up does not boot. A slower EPMD is of no use.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(4);
/// A name that no node can have, for lookups that only test for an EPMD. A new owner delays the reply to a lookup of
/// a valid name that is missing, since the node may still register again.
const ABSENT_NAME: &str = "no node";

/// The connection that keeps a registration alive.
#[derive(Debug)]
pub(crate) struct Link(AsyncFd<StdStream>);

impl Link {
    /// Both of its ends: this member's, and its owner's.
    pub(crate) fn ends(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        let stream = self.0.get_ref();
        Ok((stream.local_addr()?, stream.peer_addr()?))
    }

    /// Waits for the link's end, however it comes.
    pub(crate) async fn ended(&self) {
        os::ended(&self.0).await;
    }
}

/// The owner's answer to a member that joins.
#[derive(Debug)]
pub(crate) enum Joined {
    /// The node is registered with this creation, as long as the link lasts.
    Granted(Link, u32),
    /// The node is still registered by its earlier link.
    Kept(Link),
    /// The node's name is another's.
    Taken,
    /// It is not, and the node is refused all the same.
    Refused,
    /// There was no node to register.
    Alone,
}

/// Joins an owner: registers the node, if there is one, unless its earlier `link` still keeps it registered. If the
/// owner closes the connection without a reply, and `doubted` says that attempts have failed for a while, a lookup
/// finds out whether it is an EPMD that takes no registrations.
pub(crate) async fn join(
    owner: SocketAddr,
    node: Option<&Node>,
    link: Option<Link>,
    doubted: bool,
) -> Result<Joined, StartError> {
    let held = |error| StartError::Held { address: owner, error };
    let Some(node) = node else {
        // There is nothing to register, but the owner must be an EPMD.
        return is_registered(owner, None).await.map(|_| Joined::Alone).map_err(held);
    };
    if let Some(link) = link {
        if is_registered(owner, Some(node.name.as_str())).await.map_err(held)? {
            return Ok(Joined::Kept(link));
        }
    }
    match register(owner, node).await {
        // A port forwarder behaves like this: to the EPMD behind it, we are another host.
        Err(error) if doubted && ended_unanswered(&error) && is_registered(owner, None).await.is_ok() => {
            Err(StartError::NoRegistrations { address: owner })
        }
        joined => joined.map_err(held),
    }
}

async fn register(owner: SocketAddr, node: &Node) -> io::Result<Joined> {
    let (stream, reply) = ask(owner, &protocol::alive2_request(node), protocol::decode_alive2_reply).await?;
    Ok(match reply {
        Alive2Reply::Granted(creation) => Joined::Granted(Link(os::watch(stream.into_std()?)?), creation),
        // The reply has no reason.
        Alive2Reply::Refused if is_registered(owner, Some(node.name.as_str())).await.unwrap_or(true) => Joined::Taken,
        Alive2Reply::Refused => Joined::Refused,
    })
}

/// Looks a name up. Without a name, it only tests that an EPMD answers.
pub(crate) async fn is_registered(owner: SocketAddr, name: Option<&str>) -> io::Result<bool> {
    let name = name.unwrap_or(ABSENT_NAME);
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
    timeout(TIMEOUT, conversation).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}
