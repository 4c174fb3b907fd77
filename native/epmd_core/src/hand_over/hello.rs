//! The first message of both sides: who the sender is, and which version of the format it speaks.
//!
//! Each side sends the highest version that it knows, and whoever knows a higher one speaks the other's. So of a later
//! version's hello the fields of this one count, and what follows them is left out. What is written before anybody reads
//! it, as the service manager's store, is read only if its version is known.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::body::{Body, Malformed};
use crate::address::LOOPBACKS;
use crate::node::NodeName;
use crate::registry::log::Position;

/// The highest version of the format.
pub(crate) const VERSION: u16 = 1;
/// How long the other side may take to send its hello.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that does not begin with this is no member.
const MAGIC: &[u8; 4] = b"epmd";

/// The most addresses of a hello. With these it is shorter than the longest message.
const MAX_ADDRESSES: usize = 255;

/// Who the sender is. Only members that expose the same addresses stand by for each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version: u16,
    /// Where the member listens when it serves.
    pub(crate) addresses: Vec<IpAddr>,
    /// The member's node, if it has one.
    pub(crate) node: Option<NodeName>,
    /// Whether it wants to stand by. If not, it only has a replica of the table.
    pub(crate) stands_by: bool,
    /// The replica that it already has, of this table or of the one before.
    pub(crate) resume: Option<Resume>,
}

/// What a follower has of an earlier session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resume {
    /// How far its replica has come.
    pub(crate) position: Position,
    /// Whether it holds the connections of all registrations in the replica.
    pub(crate) has_connections: bool,
}

/// A member that stands by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    /// Its node's name, if it told one.
    pub node: Option<NodeName>,
    /// Its process id, where the system reports it.
    pub pid: Option<i32>,
}

impl fmt::Display for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.node.as_ref().map_or("a VM", NodeName::as_str))?;
        self.pid.map_or(Ok(()), |pid| write!(f, ", process {pid}"))
    }
}

impl Hello {
    /// A hello of the version of this program.
    pub(crate) fn new(mut addresses: Vec<IpAddr>, node: Option<NodeName>) -> Self {
        if addresses.len() > MAX_ADDRESSES {
            tracing::warn!(
                addresses = addresses.len(),
                "only the first {MAX_ADDRESSES} addresses are compared with other VMs"
            );
            addresses.truncate(MAX_ADDRESSES);
        }
        Self { version: VERSION, addresses, node, stands_by: true, resume: None }
    }

    /// Whether the sender of this hello and the sender of `other` can stand by for each other. The error says why not.
    pub(crate) fn fits(&self, other: &Self) -> Result<(), String> {
        if self.exposed() != other.exposed() {
            let (theirs, ours) = (&self.addresses, &other.addresses);
            return Err(format!("its addresses are {theirs:?}, and those of this VM {ours:?}"));
        }
        Ok(())
    }

    /// The addresses on which two members must agree. The loopbacks where nodes register are left out: they expose
    /// nothing, and each member listens on those that its own nodes need.
    fn exposed(&self) -> BTreeSet<IpAddr> {
        self.addresses.iter().copied().filter(|address| !LOOPBACKS.contains(address)).collect()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(MAGIC);
        out.extend(self.version.to_be_bytes());
        out.push(self.addresses.len() as u8);
        for address in &self.addresses {
            match address {
                IpAddr::V4(ip) => {
                    out.push(4);
                    out.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(6);
                    out.extend(ip.octets());
                }
            }
        }
        let node = self.node.as_ref().map_or("", NodeName::as_str).as_bytes();
        out.extend((node.len() as u16).to_be_bytes());
        out.extend(node);
        out.push(u8::from(self.stands_by));
        out.push(u8::from(self.resume.is_some()));
        if let Some(Resume { position, has_connections }) = self.resume {
            for number in [position.epoch, position.registrations, position.refusals] {
                out.extend(number.to_be_bytes());
            }
            out.push(u8::from(has_connections));
        }
    }

    pub(super) fn decode(body: &mut Body<'_>) -> Result<Self, Malformed> {
        if body.take()? != *MAGIC {
            return Err(Malformed);
        }
        let version = u16::from_be_bytes(body.take()?);
        if version == 0 {
            return Err(Malformed);
        }
        let [count] = body.take()?;
        let addresses = (0..count).map(|_| body.address()).collect::<Result<_, _>>()?;
        let length = usize::from(u16::from_be_bytes(body.take()?));
        let node = match body.bytes(length)? {
            [] => None,
            name => Some(NodeName::new(name).map_err(|_| Malformed)?),
        };
        let stands_by = body.flag()?;
        let resume = if body.flag()? {
            let (epoch, registrations, refusals) = (body.number()?, body.number()?, body.number()?);
            let position = Position { epoch, registrations, refusals };
            Some(Resume { position, has_connections: body.flag()? })
        } else {
            None
        };
        if version > VERSION {
            body.rest();
        }
        Ok(Self { version, addresses, node, stands_by, resume })
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Message, MAX_MESSAGE};
    use super::*;

    fn hello() -> Hello {
        let node = Some(NodeName::new(b"node").expect("a valid name"));
        let position = Position { epoch: 7, registrations: 11, refusals: 13 };
        let resume = Some(Resume { position, has_connections: true });
        Hello { resume, ..Hello::new(vec![[127, 0, 0, 1].into()], node) }
    }

    #[test]
    fn a_later_version_is_understood_as_far_as_ours_goes() {
        let says_more = |version| {
            let hello = Message::Hello(Hello { version, ..hello() }).encode();
            Message::decode(&[&hello[2..], b"whatever that version says"].concat())
        };
        assert_eq!(says_more(VERSION + 1), Ok(Message::Hello(Hello { version: VERSION + 1, ..hello() })));
        assert_eq!(says_more(VERSION), Err(Malformed), "this version says no more");
        assert_eq!(says_more(0), Err(Malformed), "there is no such version");
        assert_eq!(Message::decode(b"\x01GET / HTTP/1.1"), Err(Malformed));
    }

    #[test]
    fn a_host_with_many_addresses_says_hello_all_the_same() {
        let addresses = (0..600u16).map(|n| IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, n])).collect();
        let bytes = Message::Hello(Hello::new(addresses, None)).encode();
        assert!(bytes.len() <= 2 + MAX_MESSAGE);
        let Ok(Message::Hello(said)) = Message::decode(&bytes[2..]) else { panic!("it is no hello") };
        assert_eq!(said.addresses.len(), MAX_ADDRESSES);
    }
}
