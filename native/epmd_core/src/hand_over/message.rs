//! The messages between an owner and its followers: pure functions on bytes.
//!
//! A message is two bytes of length, a tag and a body, all numbers big-endian. The highest bit of the tag says that a
//! descriptor comes with it.

use std::sync::Arc;

use super::body::{Body, Malformed};
use super::hello::Hello;
use crate::health::{Cluster, Liveness, Question, Readiness, Report};
use crate::node::NodeName;
use crate::protocol::{self, Request};
use crate::registry::log::{Counters, LogEntry};
use crate::registry::{replicated, Entry, Life, Past, Refusal, Series, Tombstone};

/// The longest message, without its length. A registration with the longest request and a hello with all its addresses
/// are shorter.
pub(crate) const MAX_MESSAGE: usize = 8 * 1024;
/// Where the user of a registration is not known. To the system, too, the number is nobody's (`chown(2)`).
const NO_USER: u32 = u32::MAX;
/// The bit of a tag that says that a descriptor comes with the message.
const WITH_DESCRIPTOR: u8 = 0x80;

/// The tags of the messages, by which the fuzz targets write them as well.
#[allow(missing_docs, unreachable_pub, reason = "public for the fuzz targets; documented at `Message`")]
pub mod tags {
    pub const HELLO: u8 = 1;
    pub const ALIVE: u8 = 2;
    pub const LISTENER: u8 = 3;
    pub const CONNECTION: u8 = 4;
    pub const STAND_BY: u8 = 5;
    pub const RECONNECT: u8 = 6;
    pub const TAKE_OVER: u8 = 7;
    pub const TAKEN_OVER: u8 = 8;
    pub const MISSING: u8 = 9;
    pub const EXAMINE: u8 = 10;
    pub const REPORT: u8 = 11;
    pub const BEGIN: u8 = 16;
    pub const RESUMED: u8 = 17;
    pub const COUNTERS: u8 = 18;
    pub const TOMBSTONE: u8 = 19;
    pub const REGISTERED: u8 = 20;
    pub const RETAINED: u8 = 21;
    pub const ENDED: u8 = 22;
    pub const IN_SYNC: u8 = 23;
    pub const SETTLED: u8 = 24;
    pub const REFUSED: u8 = 25;
}

/// A message on the channel, with who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Both, first: who the sender is.
    Hello(Hello),
    /// The follower, every few seconds.
    Alive,
    /// The owner: an entry of its table's log. A registration comes with its connection, for a standby.
    Log(LogEntry),
    /// The owner: a listener, with its descriptor.
    Listener {
        /// Whether the service manager holds it as well, so that it is never shut.
        lent: bool,
    },
    /// The owner: the connection of the registration with this number, which the follower was sent without it.
    Connection(u64),
    /// The owner: the follower has everything, and stands by.
    StandBy,
    /// The owner: connect again, since what it offers has changed.
    Reconnect,
    /// The owner, when it stops: take over.
    TakeOver,
    /// The standby, in reply: it serves now.
    TakenOver,
    /// The owner: is the follower's VM well?
    Examine(Question),
    /// The follower, in reply.
    Report(Report),
    /// The follower, with a connection: this registration is in no table that the owner has sent.
    Missing(Arc<Entry>),
}

impl Message {
    /// Encodes a message without a descriptor, length included.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.encode_with(false)
    }

    /// Encodes the message, length included.
    pub(crate) fn encode_with(&self, has_descriptor: bool) -> Vec<u8> {
        protocol::framed(|out| {
            out.push(self.tag() | if has_descriptor { WITH_DESCRIPTOR } else { 0 });
            self.encode_body(out);
        })
    }

    fn tag(&self) -> u8 {
        match self {
            Self::Hello(_) => tags::HELLO,
            Self::Alive => tags::ALIVE,
            Self::Listener { .. } => tags::LISTENER,
            Self::Connection(_) => tags::CONNECTION,
            Self::StandBy => tags::STAND_BY,
            Self::Reconnect => tags::RECONNECT,
            Self::TakeOver => tags::TAKE_OVER,
            Self::TakenOver => tags::TAKEN_OVER,
            Self::Examine(_) => tags::EXAMINE,
            Self::Report(_) => tags::REPORT,
            Self::Missing(_) => tags::MISSING,
            Self::Log(entry) => match entry {
                LogEntry::Begin { .. } => tags::BEGIN,
                LogEntry::Resumed(_) => tags::RESUMED,
                LogEntry::Counters(_) => tags::COUNTERS,
                LogEntry::Tombstone(_) => tags::TOMBSTONE,
                LogEntry::Registered(_) => tags::REGISTERED,
                LogEntry::Retained(_) => tags::RETAINED,
                LogEntry::Ended(..) => tags::ENDED,
                LogEntry::InSync => tags::IN_SYNC,
                LogEntry::Settled => tags::SETTLED,
                LogEntry::Refused(_) => tags::REFUSED,
            },
        }
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => hello.encode(out),
            Self::Listener { lent } => out.push(u8::from(*lent)),
            Self::Alive | Self::StandBy | Self::Reconnect | Self::TakeOver | Self::TakenOver => {}
            Self::Examine(question) => out.push(*question as u8),
            Self::Report(report) => put_report(*report, out),
            Self::Missing(entry) | Self::Log(LogEntry::Registered(entry)) => {
                out.extend(entry.id().to_be_bytes());
                out.extend(entry.creation().to_be_bytes());
                out.extend(entry.user().unwrap_or(NO_USER).to_be_bytes());
                out.extend(entry.life().registered.to_be_bytes());
                put_series(entry.life().before, out);
                // A node is described by its ALIVE2_REQ, so that the receiver makes every check of a request.
                out.extend(entry.reply().to_alive2());
            }
            Self::Connection(number) | Self::Log(LogEntry::Resumed(number) | LogEntry::Retained(number)) => {
                out.extend(number.to_be_bytes());
            }
            Self::Log(LogEntry::Ended(number, left)) => {
                out.extend(number.to_be_bytes());
                out.extend(left.to_be_bytes());
            }
            Self::Log(LogEntry::Begin { epoch, refusals }) => {
                out.extend(epoch.to_be_bytes());
                out.extend(refusals.to_be_bytes());
            }
            Self::Log(LogEntry::Counters(Counters { registrations, deletions, min_creation })) => {
                out.extend(registrations.to_be_bytes());
                out.extend(deletions.to_be_bytes());
                out.extend(min_creation.to_be_bytes());
            }
            Self::Log(LogEntry::Tombstone(Tombstone { number, name, creation, port, descriptor, past })) => {
                out.extend(number.to_be_bytes());
                out.extend(creation.to_be_bytes());
                out.extend(port.to_be_bytes());
                out.extend(descriptor.to_be_bytes());
                out.extend(past.registered.to_be_bytes());
                out.extend(past.left.to_be_bytes());
                put_series(past.series, out);
                out.extend(name);
            }
            Self::Log(LogEntry::InSync | LogEntry::Settled) => {}
            Self::Log(LogEntry::Refused(Refusal { number, name, reason })) => {
                out.extend(number.to_be_bytes());
                out.extend((name.len() as u16).to_be_bytes());
                out.extend(name.as_bytes());
                out.extend(reason.as_bytes());
            }
        }
    }

    /// Whether the message in these bytes comes with a descriptor.
    pub(crate) fn has_descriptor(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|tag| tag & WITH_DESCRIPTOR != 0)
    }

    /// Decodes a message without its length.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (tag, body) = bytes.split_first().ok_or(Malformed)?;
        let mut body = Body::new(body);
        let message = match *tag & !WITH_DESCRIPTOR {
            tags::HELLO => Self::Hello(Hello::decode(&mut body)?),
            tags::ALIVE => Self::Alive,
            tags::LISTENER => Self::Listener { lent: body.flag()? },
            tags::CONNECTION => Self::Connection(body.number()?),
            tags::STAND_BY => Self::StandBy,
            tags::RECONNECT => Self::Reconnect,
            tags::TAKE_OVER => Self::TakeOver,
            tags::TAKEN_OVER => Self::TakenOver,
            tags::EXAMINE => Self::Examine(question(&mut body)?),
            tags::REPORT => Self::Report(report(&mut body)?),
            tags::MISSING => Self::Missing(entry(&mut body)?),
            tags::BEGIN => Self::Log(LogEntry::Begin { epoch: body.number()?, refusals: body.number()? }),
            tags::RESUMED => Self::Log(LogEntry::Resumed(body.number()?)),
            tags::COUNTERS => Self::Log(LogEntry::Counters(Counters {
                registrations: body.number()?,
                deletions: body.number()?,
                min_creation: u32::from_be_bytes(body.take()?),
            })),
            tags::TOMBSTONE => Self::Log(LogEntry::Tombstone(Tombstone {
                number: body.number()?,
                creation: u32::from_be_bytes(body.take()?),
                port: u16::from_be_bytes(body.take()?),
                descriptor: i32::from_be_bytes(body.take()?),
                past: Past { registered: body.number()?, left: body.number()?, series: series(&mut body)? },
                name: NodeName::new(body.rest()).map_err(|_| Malformed)?.as_str().as_bytes().into(),
            })),
            tags::REGISTERED => Self::Log(LogEntry::Registered(entry(&mut body)?)),
            tags::RETAINED => Self::Log(LogEntry::Retained(body.number()?)),
            tags::ENDED => Self::Log(LogEntry::Ended(body.number()?, body.number()?)),
            tags::IN_SYNC => Self::Log(LogEntry::InSync),
            tags::SETTLED => Self::Log(LogEntry::Settled),
            tags::REFUSED => {
                let number = body.number()?;
                let length = usize::from(u16::from_be_bytes(body.take()?));
                let name = text(body.bytes(length)?)?;
                Self::Log(LogEntry::Refused(Refusal { number, name, reason: text(body.rest())?.into() }))
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

fn entry(body: &mut Body<'_>) -> Result<Arc<Entry>, Malformed> {
    let (id, creation) = (body.number()?, u32::from_be_bytes(body.take()?));
    let user = Some(u32::from_be_bytes(body.take()?)).filter(|user| *user != NO_USER);
    let life = Life { registered: body.number()?, before: series(body)? };
    match Request::decode(body.rest()) {
        Ok(Request::Alive2 { node: Ok(node), .. }) => Ok(replicated(id, creation, user, life, &node)),
        _ => Err(Malformed),
    }
}

fn put_series(series: Series, out: &mut Vec<u8>) {
    out.extend(series.times.to_be_bytes());
    out.extend(series.since.to_be_bytes());
}

fn series(body: &mut Body<'_>) -> Result<Series, Malformed> {
    Ok(Series { times: u32::from_be_bytes(body.take()?), since: body.number()? })
}

fn question(body: &mut Body<'_>) -> Result<Question, Malformed> {
    choice(body, [Question::Live, Question::Ready])
}

fn put_report(report: Report, out: &mut Vec<u8>) {
    out.push(report.question() as u8);
    match report {
        Report::Live(liveness) => out.push(liveness as u8),
        Report::Ready(Readiness { is_told, cluster }) => {
            out.extend([u8::from(is_told), u8::from(cluster.is_some())]);
            if let Some(Cluster { expected, connected }) = cluster {
                out.extend(expected.to_be_bytes());
                out.extend(connected.to_be_bytes());
            }
        }
    }
}

fn report(body: &mut Body<'_>) -> Result<Report, Malformed> {
    Ok(match question(body)? {
        Question::Live => Report::Live(choice(body, [Liveness::Answers, Liveness::Silent, Liveness::NotRunning])?),
        Question::Ready => Report::Ready(Readiness {
            is_told: body.flag()?,
            cluster: if body.flag()? {
                let (expected, connected) = (u32::from_be_bytes(body.take()?), u32::from_be_bytes(body.take()?));
                Some(Cluster { expected, connected })
            } else {
                None
            },
        }),
    })
}

/// One of these values, by its number.
fn choice<T: Copy, const N: usize>(body: &mut Body<'_>, of: [T; N]) -> Result<T, Malformed> {
    let [number] = body.take()?;
    of.get(usize::from(number)).copied().ok_or(Malformed)
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.into()).map_err(|_| Malformed)
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::super::hello::{Resume, VERSION};
    use super::*;
    use crate::node::Node;
    use crate::registry::log::Position;

    fn name() -> impl Strategy<Value = NodeName> {
        vec(proptest::char::range('!', '\u{7e}'), 1..=255)
            .prop_map(|name| NodeName::new(String::from_iter(name).as_bytes()).expect("a valid name"))
    }

    fn hello() -> impl Strategy<Value = Message> {
        let resume = any::<([u64; 3], bool)>().prop_map(|([epoch, registrations, refusals], has_connections)| Resume {
            position: Position { epoch, registrations, refusals },
            has_connections,
        });
        (1..=VERSION, vec(any::<IpAddr>(), 0..20), option::of(name()), any::<bool>(), option::of(resume)).prop_map(
            |(version, addresses, node, stands_by, resume)| {
                Message::Hello(Hello { version, addresses, node, stands_by, resume })
            },
        )
    }

    fn series() -> impl Strategy<Value = Series> {
        any::<(u32, u64)>().prop_map(|(times, since)| Series { times, since })
    }

    fn entry() -> impl Strategy<Value = Arc<Entry>> {
        let numbers = (any::<u16>(), any::<u8>(), any::<u8>(), any::<u16>(), any::<u16>());
        let node = (name(), numbers, vec(any::<u8>(), 0..=1020)).prop_map(|(name, numbers, extra)| {
            let (port, node_type, protocol, highest_version, lowest_version) = numbers;
            Node { name, port, node_type, protocol, highest_version, lowest_version, extra: extra.into() }
        });
        let life = (any::<u64>(), series()).prop_map(|(registered, before)| Life { registered, before });
        (any::<u64>(), any::<u32>(), option::of(0..NO_USER), life, node)
            .prop_map(|(id, creation, user, life, node)| replicated(id, creation, user, life, &node))
    }

    fn report() -> impl Strategy<Value = Report> {
        let liveness = prop::sample::select(vec![Liveness::Answers, Liveness::Silent, Liveness::NotRunning]);
        let cluster = option::of(any::<(u32, u32)>().prop_map(|(expected, connected)| Cluster { expected, connected }));
        let readiness = (any::<bool>(), cluster).prop_map(|(is_told, cluster)| Readiness { is_told, cluster });
        prop_oneof![liveness.prop_map(Report::Live), readiness.prop_map(Report::Ready)]
    }

    fn message() -> impl Strategy<Value = Message> {
        let counters = any::<(u64, u64, u32)>().prop_map(|(registrations, deletions, min_creation)| {
            LogEntry::Counters(Counters { registrations, deletions, min_creation })
        });
        let past =
            (any::<[u64; 2]>(), series()).prop_map(|([registered, left], series)| Past { registered, left, series });
        let tombstone = (name(), any::<(u64, u32, u16, i32)>(), past).prop_map(
            |(name, (number, creation, port, descriptor), past)| {
                let name = name.as_str().as_bytes().into();
                LogEntry::Tombstone(Tombstone { number, name, creation, port, descriptor, past })
            },
        );
        let refused = (any::<u64>(), option::of(name()), ".{0,60}").prop_map(|(number, name, reason)| {
            let name = name.map_or(String::new(), |name| name.as_str().into());
            LogEntry::Refused(Refusal { number, name, reason: reason.into() })
        });
        let log = prop_oneof![
            refused,
            counters,
            tombstone,
            entry().prop_map(LogEntry::Registered),
            any::<(u64, u64)>().prop_map(|(number, left)| LogEntry::Ended(number, left)),
            any::<(u64, u64)>().prop_map(|(epoch, refusals)| LogEntry::Begin { epoch, refusals }),
            any::<u64>().prop_map(LogEntry::Resumed),
            any::<u64>().prop_map(LogEntry::Retained),
            prop::sample::select(vec![LogEntry::InSync, LogEntry::Settled]),
        ];
        prop_oneof![
            hello(),
            log.prop_map(Message::Log),
            entry().prop_map(Message::Missing),
            any::<u64>().prop_map(Message::Connection),
            prop::sample::select(vec![Question::Live, Question::Ready]).prop_map(Message::Examine),
            report().prop_map(Message::Report),
            any::<bool>().prop_map(|lent| Message::Listener { lent }),
            prop::sample::select(vec![
                Message::Alive,
                Message::StandBy,
                Message::Reconnect,
                Message::TakeOver,
                Message::TakenOver,
            ]),
        ]
    }

    proptest! {
        #[test]
        fn a_message_survives_encoding(message in message(), has_descriptor: bool) {
            let bytes = message.encode_with(has_descriptor);
            let (body, length) = frame(&bytes).expect("well-formed").expect("whole");
            prop_assert_eq!(length, bytes.len());
            prop_assert_eq!(Message::has_descriptor(body), has_descriptor);
            prop_assert_eq!(Message::decode(body), Ok(message));
            prop_assert_eq!(frame(&bytes[..bytes.len() - 1]), Ok(None));
        }

        #[test]
        fn decoding_any_bytes_never_panics(tag: u8, bytes in vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(&[&[tag][..], &bytes].concat());
            let _ = frame(&bytes);
        }

        #[test]
        fn bytes_behind_a_message_spoil_it(message in message()) {
            let open = matches!(
                message,
                Message::Missing(_)
                    | Message::Log(LogEntry::Tombstone(_) | LogEntry::Registered(_) | LogEntry::Refused(_))
            );
            prop_assume!(!open);
            let mut bytes = message.encode();
            bytes.push(0);
            prop_assert_eq!(Message::decode(&bytes[2..]), Err(Malformed));
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(frame(&[0, 0]), Err(Malformed));
        assert_eq!(frame(&[0xff, 0xff]), Err(Malformed));
        assert_eq!(frame(&[0]), Ok(None));
    }
}
