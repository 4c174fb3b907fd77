//! The first message of both sides: who the sender is, and which version of the format it speaks.
//!
//! Each side sends the highest version that it knows, and both go on with the lower of the two. Members of version 1 do
//! not negotiate; they are known by the name at which they meet (see [`Name`](super::rendezvous::Name)).

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::body::{Body, Malformed};
use crate::address::LOOPBACKS;
use crate::node::NodeName;
use crate::registry::follower::Position;

/// The highest version of the format.
pub(crate) const VERSION: u16 = 2;
/// The version that does not negotiate. It knows a single standby and no other followers.
pub(crate) const FIRST_VERSION: u16 = 1;
/// How long the other side may take to send its hello.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that does not begin with this is no member.
const MAGIC: &[u8; 4] = b"epmd";

/// Who the sender is. Only members that expose the same addresses stand by for each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version: u16,
    /// Where the member listens when it serves.
    pub(crate) addresses: Vec<IpAddr>,
    /// The member's node, if it has one.
    pub(crate) node: Option<NodeName>,
    /// Whether it wants to stand by. If not, it only mirrors the table. (2)
    pub(crate) stands_by: bool,
    /// The position of the copy that it already has, of this table or of the one before. (2)
    pub(crate) resume: Option<Position>,
}

/// A member that stands by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    /// Its node's name, if it has one.
    pub node: Option<NodeName>,
    /// Its process id, where the system reports it.
    pub pid: Option<i32>,
}

impl fmt::Display for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.node.as_ref().map_or("a VM without a node", NodeName::as_str))?;
        self.pid.map_or(Ok(()), |pid| write!(f, ", process {pid}"))
    }
}

impl Hello {
    /// The version that both sides use from here on.
    pub(crate) fn common_version(&self, other: &Self) -> u16 {
        self.version.min(other.version)
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

    /// Whether the sender may take over a listener on this address.
    pub(super) fn may_listen_on(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) || LOOPBACKS.contains(&address)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(MAGIC);
        out.extend(self.version.to_be_bytes());
        // The count is one byte. Hosts have fewer addresses.
        let addresses = &self.addresses[..self.addresses.len().min(usize::from(u8::MAX))];
        out.push(addresses.len() as u8);
        for address in addresses {
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
        if self.version == FIRST_VERSION {
            out.extend(node);
            return;
        }
        out.extend((node.len() as u16).to_be_bytes());
        out.extend(node);
        out.push(u8::from(self.stands_by));
        out.push(u8::from(self.resume.is_some()));
        if let Some(Position { epoch, registrations, refusals }) = self.resume {
            for number in [epoch, registrations, refusals] {
                out.extend(number.to_be_bytes());
            }
        }
    }

    pub(super) fn decode(body: &mut Body<'_>) -> Result<Self, Malformed> {
        if body.take()? != *MAGIC {
            return Err(Malformed);
        }
        let version = u16::from_be_bytes(body.take()?);
        if version < FIRST_VERSION {
            return Err(Malformed);
        }
        let [count] = body.take()?;
        let addresses = (0..count).map(|_| body.address()).collect::<Result<_, _>>()?;
        let node = |name: &[u8]| match name {
            [] => Ok(None),
            name => NodeName::new(name).map(Some).map_err(|_| Malformed),
        };
        if version == FIRST_VERSION {
            return Ok(Self { version, addresses, node: node(body.rest())?, stands_by: true, resume: None });
        }
        let length = usize::from(u16::from_be_bytes(body.take()?));
        let node = node(body.bytes(length)?)?;
        let stands_by = body.flag()?;
        let resume = if body.flag()? {
            let mut number = || body.take().map(u64::from_be_bytes);
            Some(Position { epoch: number()?, registrations: number()?, refusals: number()? })
        } else {
            None
        };
        // A later version may append fields.
        body.rest();
        Ok(Self { version, addresses, node, stands_by, resume })
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Message;
    use super::*;

    fn hello(version: u16) -> Hello {
        let node = Some(NodeName::new(b"node").expect("a valid name"));
        let resume = Some(Position { epoch: 7, registrations: 11, refusals: 13 });
        Hello { version, addresses: vec![[127, 0, 0, 1].into()], node, stands_by: true, resume }
    }

    #[test]
    fn the_first_version_is_said_as_it_always_was() {
        let said = Message::Hello(hello(FIRST_VERSION)).encode();
        assert_eq!(said, b"\x00\x11\x01epmd\x00\x01\x01\x04\x7f\x00\x00\x01node");
    }

    #[test]
    fn a_later_version_is_understood_as_far_as_ours_goes() {
        let mut bytes = Message::Hello(hello(VERSION)).encode();
        bytes[8] += 1;
        bytes.extend(b"whatever that version says");
        assert_eq!(Message::decode(&bytes[2..]), Ok(Message::Hello(hello(VERSION + 1))));
        assert_eq!(hello(VERSION + 1).common_version(&hello(VERSION)), VERSION);
        assert_eq!(Message::decode(b"\x01GET / HTTP/1.1"), Err(Malformed));
    }
}
