//! The messages between an owner and its followers: pure functions on bytes.
//!
//! A message is two bytes of length, a tag and a body, all numbers big-endian. Some come with a descriptor. "(2)" marks
//! what version 2 of the format added.

use std::sync::Arc;

use super::body::{Body, Malformed};
use super::hello::Hello;
use super::tags;
use crate::node::{Node, NodeName};
use crate::protocol::{self, Request, MAX_REQUEST};
use crate::registry::follower::{Counters, Departure, Step};
use crate::registry::{Descriptor, Entry, Refusal};

/// The longest message, without its length: a registration with the longest request.
pub(crate) const MAX_MESSAGE: usize = ENTERED_HEAD + MAX_REQUEST;
/// The tag, number, creation and connection of a registration.
const ENTERED_HEAD: usize = 1 + 8 + 4 + 1;

/// A message on the channel, with who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Both, first: who the sender is.
    Hello(Hello),
    /// The standby, every few seconds.
    Alive,
    /// The owner: a listener, with its descriptor.
    Listener {
        /// Whether the service manager holds it as well, so that it is never shut. (2)
        lent: bool,
    },
    /// The owner: the counters of its table.
    Counters(Counters),
    /// The owner: a name that had left before the copy began.
    Departed(Departure),
    /// The owner: a registration.
    Entered(Entered),
    /// The owner: the end of the registration with this number.
    Left(u64),
    /// The owner: the copy is complete.
    Whole,
    /// The owner, when it stops: take over.
    TakeOver,
    /// The standby, in reply: it serves now.
    Taken,
    /// The owner, before its counters: the epoch of its table, and the number of the last refusal that it will not
    /// send. (2)
    Epoch { epoch: u64, refusals: u64 },
    /// The owner, after the epoch: up to this number the member's copy has the same registrations. (2)
    Resumed(u64),
    /// The owner: the registration with this number, which the copy has, still exists. (2)
    Kept {
        /// Its number.
        id: u64,
        /// Whether its connection is still open.
        connected: bool,
    },
    /// The owner: connect again, since what it offers has changed. (2)
    Reconnect,
    /// The owner: every node of the last owner's table that is still there has been sent. (2)
    Settled,
    /// The owner: a registration was refused. (2)
    Refused(Refusal),
}

/// A registration. Its descriptor comes with it if its connection is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entered {
    pub(crate) id: u64,
    pub(crate) creation: u32,
    pub(crate) connected: bool,
    pub(crate) node: Node,
}

impl Message {
    /// Whether a descriptor comes with it.
    pub(crate) fn has_descriptor(&self) -> bool {
        match self {
            Self::Listener { .. } => true,
            Self::Entered(entered) => entered.connected,
            _ => false,
        }
    }

    /// Encodes the message, length included.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => framed(tags::HELLO, |out| hello.encode(out)),
            Self::Alive => framed(tags::ALIVE, |_| {}),
            // Without the flag it is the message of version 1.
            Self::Listener { lent } => framed(tags::LISTENER, |out| out.extend(lent.then_some(1))),
            Self::Counters(Counters { registrations, leaves, floor }) => framed(tags::COUNTERS, |out| {
                out.extend(registrations.to_be_bytes());
                out.extend(leaves.to_be_bytes());
                out.extend(floor.to_be_bytes());
            }),
            Self::Departed(departure) => framed(tags::DEPARTED, |out| {
                out.extend(departure.number.to_be_bytes());
                out.extend(departure.creation.to_be_bytes());
                out.extend(departure.port.to_be_bytes());
                out.extend(departure.descriptor.to_be_bytes());
                out.extend(&departure.name);
            }),
            Self::Entered(Entered { id, creation, connected, node }) => {
                // A node is described by its ALIVE2_REQ, so that the receiver makes every check of a request.
                entered(*id, *creation, *connected, &protocol::alive2_request(node)[2..])
            }
            Self::Left(id) => framed(tags::LEFT, |out| out.extend(id.to_be_bytes())),
            Self::Whole => framed(tags::WHOLE, |_| {}),
            Self::TakeOver => framed(tags::TAKE_OVER, |_| {}),
            Self::Taken => framed(tags::TAKEN, |_| {}),
            Self::Epoch { epoch, refusals } => framed(tags::EPOCH, |out| {
                out.extend(epoch.to_be_bytes());
                out.extend(refusals.to_be_bytes());
            }),
            Self::Resumed(registrations) => framed(tags::RESUMED, |out| out.extend(registrations.to_be_bytes())),
            Self::Kept { id, connected } => framed(tags::KEPT, |out| {
                out.extend(id.to_be_bytes());
                out.push(u8::from(*connected));
            }),
            Self::Reconnect => framed(tags::RECONNECT, |_| {}),
            Self::Settled => framed(tags::SETTLED, |_| {}),
            Self::Refused(Refusal { number, name, reason }) => framed(tags::REFUSED, |out| {
                out.extend(number.to_be_bytes());
                out.extend((name.len() as u16).to_be_bytes());
                out.extend(name.as_bytes());
                out.extend(reason.as_bytes());
            }),
        }
    }

    /// Decodes a message without its length.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (tag, body) = bytes.split_first().ok_or(Malformed)?;
        let mut body = Body::new(body);
        let message = match *tag {
            tags::HELLO => Self::Hello(Hello::decode(&mut body)?),
            tags::ALIVE => Self::Alive,
            tags::LISTENER => Self::Listener { lent: !body.is_empty() && body.flag()? },
            tags::COUNTERS => Self::Counters(Counters {
                registrations: u64::from_be_bytes(body.take()?),
                leaves: u64::from_be_bytes(body.take()?),
                floor: u32::from_be_bytes(body.take()?),
            }),
            tags::DEPARTED => Self::Departed(Departure {
                number: u64::from_be_bytes(body.take()?),
                creation: u32::from_be_bytes(body.take()?),
                port: u16::from_be_bytes(body.take()?),
                descriptor: i32::from_be_bytes(body.take()?),
                name: NodeName::new(body.rest()).map_err(|_| Malformed)?.as_str().as_bytes().into(),
            }),
            tags::ENTERED => Self::Entered(Entered {
                id: u64::from_be_bytes(body.take()?),
                creation: u32::from_be_bytes(body.take()?),
                connected: body.flag()?,
                node: match Request::decode(body.rest()) {
                    Ok(Request::Alive2 { node: Ok(node), .. }) => node,
                    _ => return Err(Malformed),
                },
            }),
            tags::LEFT => Self::Left(u64::from_be_bytes(body.take()?)),
            tags::WHOLE => Self::Whole,
            tags::TAKE_OVER => Self::TakeOver,
            tags::TAKEN => Self::Taken,
            tags::EPOCH => {
                Self::Epoch { epoch: u64::from_be_bytes(body.take()?), refusals: u64::from_be_bytes(body.take()?) }
            }
            tags::RESUMED => Self::Resumed(u64::from_be_bytes(body.take()?)),
            tags::KEPT => Self::Kept { id: u64::from_be_bytes(body.take()?), connected: body.flag()? },
            tags::RECONNECT => Self::Reconnect,
            tags::SETTLED => Self::Settled,
            tags::REFUSED => {
                let number = u64::from_be_bytes(body.take()?);
                let length = usize::from(u16::from_be_bytes(body.take()?));
                let name = text(body.bytes(length)?)?;
                Self::Refused(Refusal { number, name, reason: text(body.rest())?.into() })
            }
            _ => return Err(Malformed),
        };
        if body.is_empty() {
            Ok(message)
        } else {
            Err(Malformed)
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.into()).map_err(|_| Malformed)
}

/// Encodes a step of the table. With `connections`, that of a registration goes with it.
pub(crate) fn step(step: Step, connections: bool) -> (Vec<u8>, Option<Arc<dyn Descriptor>>) {
    let connection = |entry: &Entry| entry.connection().filter(|_| connections);
    let message = match step {
        Step::Entered(entry) => {
            // One that has ended meanwhile is sent without a connection; its end follows.
            let connection = connection(&entry);
            let alive2 = entry.reply().to_alive2();
            return (entered(entry.id(), entry.creation(), connection.is_some(), &alive2), connection);
        }
        Step::Kept(entry) => Message::Kept { id: entry.id(), connected: connection(&entry).is_some() },
        Step::Epoch { epoch, refusals } => Message::Epoch { epoch, refusals },
        Step::Resumed(registrations) => Message::Resumed(registrations),
        Step::Counters(counters) => Message::Counters(counters),
        Step::Departed(departure) => Message::Departed(departure),
        Step::Left(id) => Message::Left(id),
        Step::Whole => Message::Whole,
        Step::Settled => Message::Settled,
        Step::Refused(refusal) => Message::Refused(refusal),
    };
    (message.encode(), None)
}

fn entered(id: u64, creation: u32, connected: bool, alive2: &[u8]) -> Vec<u8> {
    framed(tags::ENTERED, |out| {
        out.extend(id.to_be_bytes());
        out.extend(creation.to_be_bytes());
        out.push(u8::from(connected));
        out.extend(alive2);
    })
}

/// The first message in `bytes` without its length, and the bytes that it takes with it. `None` while bytes are
/// missing.
pub(crate) fn frame(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Malformed> {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if !(1..=MAX_MESSAGE).contains(&length) {
        return Err(Malformed);
    }
    Ok(rest.get(..length).map(|message| (message, 2 + length)))
}

fn framed(tag: u8, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    protocol::framed(|out| {
        out.push(tag);
        body(out);
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::hello::VERSION;
    use super::*;
    use crate::registry::follower::Position;

    fn name() -> impl Strategy<Value = NodeName> {
        vec(proptest::char::range('!', '\u{7e}'), 1..=255)
            .prop_map(|name| NodeName::new(String::from_iter(name).as_bytes()).expect("a valid name"))
    }

    fn hello() -> impl Strategy<Value = Message> {
        let position =
            any::<[u64; 3]>().prop_map(|[epoch, registrations, refusals]| Position { epoch, registrations, refusals });
        let resume = proptest::option::of(position);
        (1..=VERSION, vec(any::<IpAddr>(), 0..20), proptest::option::of(name()), any::<bool>(), resume).prop_map(
            |(version, addresses, node, stands_by, resume)| {
                let since_2 = version > 1;
                let (stands_by, resume) = (!since_2 || stands_by, resume.filter(|_| since_2));
                Message::Hello(Hello { version, addresses, node, stands_by, resume })
            },
        )
    }

    fn node() -> impl Strategy<Value = Node> {
        let numbers = (any::<u16>(), any::<u8>(), any::<u8>(), any::<u16>(), any::<u16>());
        (name(), numbers, vec(any::<u8>(), 0..=1020)).prop_map(|(name, numbers, extra)| {
            let (port, node_type, protocol, highest_version, lowest_version) = numbers;
            Node { name, port, node_type, protocol, highest_version, lowest_version, extra: extra.into() }
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        let counters = any::<(u64, u64, u32)>()
            .prop_map(|(registrations, leaves, floor)| Message::Counters(Counters { registrations, leaves, floor }));
        let departed =
            (name(), any::<(u64, u32, u16, i32)>()).prop_map(|(name, (number, creation, port, descriptor))| {
                let name = name.as_str().as_bytes().into();
                Message::Departed(Departure { number, name, creation, port, descriptor })
            });
        let entered = (any::<(u64, u32, bool)>(), node())
            .prop_map(|((id, creation, connected), node)| Message::Entered(Entered { id, creation, connected, node }));
        let refused = (any::<u64>(), proptest::option::of(name()), ".{0,60}").prop_map(|(number, name, reason)| {
            let name = name.map_or(String::new(), |name| name.as_str().into());
            Message::Refused(Refusal { number, name, reason: reason.into() })
        });
        prop_oneof![
            hello(),
            refused,
            counters,
            departed,
            entered,
            any::<u64>().prop_map(Message::Left),
            any::<(u64, u64)>().prop_map(|(epoch, refusals)| Message::Epoch { epoch, refusals }),
            any::<u64>().prop_map(Message::Resumed),
            any::<(u64, bool)>().prop_map(|(id, connected)| Message::Kept { id, connected }),
            prop::sample::select(vec![
                Message::Alive,
                Message::Listener { lent: false },
                Message::Listener { lent: true },
                Message::Whole,
                Message::TakeOver,
                Message::Taken,
                Message::Reconnect,
                Message::Settled
            ]),
        ]
    }

    proptest! {
        #[test]
        fn a_message_survives_encoding(message in message()) {
            let bytes = message.encode();
            let (body, length) = frame(&bytes).expect("well-formed").expect("whole");
            prop_assert_eq!(length, bytes.len());
            prop_assert_eq!(Message::decode(body), Ok(message));
            prop_assert_eq!(frame(&bytes[..bytes.len() - 1]), Ok(None));
        }

        #[test]
        fn decoding_any_bytes_never_panics(tag in 0u8..18, bytes in vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(&[&[tag][..], &bytes].concat());
            let _ = frame(&bytes);
        }

        #[test]
        fn bytes_behind_a_message_spoil_it(message in message()) {
            let open = matches!(
                message,
                Message::Hello(_) | Message::Departed(_) | Message::Entered(_) | Message::Refused(_) | Message::Listener { .. }
            );
            prop_assume!(!open);
            let mut bytes = message.encode();
            bytes.push(0);
            prop_assert_eq!(Message::decode(&bytes[2..]), Err(Malformed));
        }

        #[test]
        fn the_table_and_a_message_say_the_same_of_a_node(node in node(), id: u64, creation: u32, connected: bool) {
            let reply = crate::protocol::Port2Reply::new(&node);
            let said = entered(id, creation, connected, &reply.to_alive2());
            prop_assert_eq!(said, Message::Entered(Entered { id, creation, connected, node }).encode());
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(frame(&[0, 0]), Err(Malformed));
        assert_eq!(frame(&[0xff, 0xff]), Err(Malformed));
        assert_eq!(frame(&[0]), Ok(None));
    }
}
