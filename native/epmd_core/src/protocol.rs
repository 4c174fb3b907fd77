//! Requests and replies of the EPMD protocol: pure functions on bytes.
//!
//! The rules are those of "EPMD Protocol" in OTP's *Distribution Protocol* and, where that is silent, of its C daemon
//! (`erts/epmd/src/epmd_srv.c`).

use std::fmt;
use std::ops::RangeInclusive;

use crate::node::{self, InvalidName, Node, NodeName};

/// The longest request, without its two bytes of length.
pub const MAX_REQUEST: usize = 3057;
/// Room for one request and one stray byte, so that bytes behind a request are noticed.
pub const INBOX: usize = 2 + MAX_REQUEST + 1;

const ALIVE2_REQ: u8 = b'x';
const PORT_PLEASE2_REQ: u8 = b'z';
const NAMES_REQ: u8 = b'n';
const DUMP_REQ: u8 = b'd';
const KILL_REQ: u8 = b'k';
const STOP_REQ: u8 = b's';
/// Not of OTP's protocol: a VM asks another of this library to call it (`hand_over/meeting.rs`). To OTP's daemon it is
/// no request.
const MEET_REQ: &[u8] = b"membedded_epmd";
/// Not of OTP's protocol: a VM asks which port its node is to listen on (`registry/plan.rs`).
const PLAN_REQ: &[u8] = b"pembedded_epmd";
/// The most ports that a node can be planned in. Each of them may have to be tried.
pub const MAX_PLANNED: usize = 1000;
const PLAN_RESP: u8 = b'p';
const ALIVE2_RESP: u8 = b'y';
const ALIVE2_X_RESP: u8 = b'v';
const PORT2_RESP: u8 = b'w';

/// Bytes of an `ALIVE2_REQ` before its name.
const ALIVE2_HEADER: usize = 11;
/// The first distribution version with creations of 32 bits (OTP 23).
const WIDE_CREATION: u16 = 6;
/// The creation in a refusal. It has no meaning; OTP's daemon sends it.
const NO_CREATION: u32 = 99;

/// The reply to a lookup that finds nothing.
pub const NOT_FOUND: &[u8] = &[PORT2_RESP, 1];
/// The reply to a `KILL_REQ` that is granted.
pub const KILLED: &[u8] = b"OK";
/// The reply to a `KILL_REQ` while nodes are registered.
pub const NOT_KILLED: &[u8] = b"NO";
/// The reply to a `STOP_REQ` that ended a registration.
pub const STOPPED: &[u8] = b"STOPPED";
/// The reply to a `STOP_REQ` of an unknown name. OTP's daemon falls through to `STOPPED`; its clients read seven bytes.
pub const NOT_STOPPED: &[u8] = b"NOEXISTSTOPPED";

/// The reply to a `PLAN_REQ` of a node whose name is registered.
pub(crate) const NAME_REGISTERED: &[u8] = &[PLAN_RESP, 1, 0, 0, 0, 0];
/// The reply to a `MEET_REQ`: a call will come.
pub const MEETING: &[u8] = b"m";

/// A request, borrowing from the bytes it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Register a node. The request is valid even if the name is not: it is answered with a refusal.
    Alive2 {
        /// The node, or why it cannot be registered.
        node: Result<Node, InvalidNode>,
        /// Selects the form of the reply.
        highest_version: u16,
    },
    /// Look a node up by name.
    PortPlease2(&'a str),
    /// List the registered nodes.
    Names,
    /// List the registered nodes in detail, and the names that left.
    Dump,
    /// End the server.
    Kill,
    /// End the registration of a name.
    Stop(&'a [u8]),
    /// Call the VM that waits at this name.
    Meet([u8; 16]),
    /// Say which of these ports a node is to listen on.
    Plan(NodeName, RangeInclusive<u16>),
}

/// Why a node is refused although its request is well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidNode {
    /// Its name is not valid.
    Name(InvalidName),
    /// Its extra bytes are more than 1,020.
    ExtraTooLong,
}

impl fmt::Display for InvalidNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(reason) => write!(f, "its name is not valid: {reason}"),
            Self::ExtraTooLong => f.write_str("its extra bytes are more than 1,020"),
        }
    }
}

impl std::error::Error for InvalidNode {}

/// The bytes are no request or reply. A server closes the connection without a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes are not a message of EPMD")
    }
}

impl std::error::Error for Malformed {}

/// Where the first request in `bytes` ends, or `None` while more bytes are needed.
///
/// Bytes behind the request make it malformed, as in OTP's daemon: no second request can be smuggled behind a first.
pub fn frame(bytes: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let Some((length, body)) = bytes.split_first_chunk::<2>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes(*length));
    match body.len() {
        _ if !(1..=MAX_REQUEST).contains(&length) => Err(Malformed),
        have if have > length => Err(Malformed),
        have if have == length => Ok(Some(body)),
        _ => Ok(None),
    }
}

/// How many bytes to read next. Once the length is known, that is the rest of the request; before, all that fits into
/// [`INBOX`], so that bytes sent along with a request are noticed.
pub fn wanted(bytes: &[u8]) -> usize {
    match bytes.split_first_chunk::<2>() {
        Some((length, body)) => usize::from(u16::from_be_bytes(*length)).saturating_sub(body.len()),
        None => INBOX - bytes.len(),
    }
}

impl<'a> Request<'a> {
    /// Decodes what [`frame`] found.
    pub fn decode(frame: &'a [u8]) -> Result<Self, Malformed> {
        match *frame {
            [ALIVE2_REQ, ..] => decode_alive2(frame),
            [PORT_PLEASE2_REQ, ref name @ ..] => decode_name(name).map(Self::PortPlease2),
            [NAMES_REQ, ..] => Ok(Self::Names),
            [DUMP_REQ, ..] => Ok(Self::Dump),
            [KILL_REQ, ..] => Ok(Self::Kill),
            [STOP_REQ] => Err(Malformed),
            [STOP_REQ, ref rest @ ..] => Ok(Self::Stop(rest.split(|byte| *byte == 0).next().unwrap_or_default())),
            _ => {
                let meet = || Some(Self::Meet(frame.strip_prefix(MEET_REQ)?.try_into().ok()?));
                let plan = || decode_plan(frame.strip_prefix(PLAN_REQ)?);
                meet().or_else(plan).ok_or(Malformed)
            }
        }
    }
}

/// What is asked, for people.
impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive2 { node: Ok(node), .. } => write!(f, "register {}", node.name.as_str()),
            Self::Alive2 { node: Err(_), .. } => f.write_str("register a node that is not valid"),
            Self::PortPlease2(name) => write!(f, "look up {name:?}"),
            Self::Names => f.write_str("list the names"),
            Self::Dump => f.write_str("list the names, and those that left"),
            Self::Kill => f.write_str("end the server"),
            Self::Stop(name) => write!(f, "end the registration of {:?}", String::from_utf8_lossy(name)),
            Self::Meet(_) => f.write_str("follow the owner"),
            Self::Plan(name, ports) => write!(f, "plan a port of {ports:?} for {}", name.as_str()),
        }
    }
}

fn decode_alive2(frame: &[u8]) -> Result<Request<'static>, Malformed> {
    // OTP's daemon wants one byte more than the smallest well-formed request, which has an empty name.
    if frame.len() < ALIVE2_HEADER + 3 {
        return Err(Malformed);
    }
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let highest_version = word(5);
    let (name, rest) = split_field(&frame[9..])?;
    let (extra, _junk) = split_field(rest)?;
    if name.contains(&0) {
        return Err(Malformed);
    }
    let node = match NodeName::new(name) {
        Err(reason) => Err(InvalidNode::Name(reason)),
        Ok(_) if extra.len() > 1020 => Err(InvalidNode::ExtraTooLong),
        Ok(name) => Ok(Node {
            name,
            port: word(1),
            node_type: frame[3],
            protocol: frame[4],
            highest_version,
            lowest_version: word(7),
            extra: extra.into(),
        }),
    };
    Ok(Request::Alive2 { node, highest_version })
}

fn decode_plan(body: &[u8]) -> Option<Request<'static>> {
    let ([a, b, c, d], name) = body.split_first_chunk::<4>()?;
    let ports = u16::from_be_bytes([*a, *b])..=u16::from_be_bytes([*c, *d]);
    let name = NodeName::new(name).ok()?;
    let is_range = *ports.start() > 0 && (1..=MAX_PLANNED).contains(&ports.len());
    is_range.then_some(Request::Plan(name, ports))
}

fn split_field(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or(Malformed)?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(Malformed)
}

/// The name in a lookup. C clients send its terminating NUL, so one at the end is dropped.
fn decode_name(bytes: &[u8]) -> Result<&str, Malformed> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(name) if !name.is_empty() && !bytes.contains(&0) && node::fits(name) => Ok(name),
        _ => Err(Malformed),
    }
}

/// Encodes a registration, length included.
pub fn alive2_request(node: &Node) -> Vec<u8> {
    framed(|out| {
        out.push(ALIVE2_REQ);
        out.extend_from_slice(&node.port.to_be_bytes());
        out.extend_from_slice(&[node.node_type, node.protocol]);
        out.extend_from_slice(&node.highest_version.to_be_bytes());
        out.extend_from_slice(&node.lowest_version.to_be_bytes());
        push_field(out, node.name.as_str().as_bytes());
        push_field(out, &node.extra);
    })
}

/// Encodes a lookup, length included.
pub fn port_please2_request(name: &str) -> Vec<u8> {
    framed(|out| {
        out.push(PORT_PLEASE2_REQ);
        out.extend_from_slice(name.as_bytes());
    })
}

/// Encodes the request to be called at this name, length included.
pub(crate) fn meet_request(name: &[u8; 16]) -> Vec<u8> {
    framed(|out| {
        out.extend_from_slice(MEET_REQ);
        out.extend_from_slice(name);
    })
}

/// Encodes the question which of these ports a node is to listen on, length included.
pub fn plan_request(name: &str, ports: RangeInclusive<u16>) -> Vec<u8> {
    framed(|out| {
        out.extend_from_slice(PLAN_REQ);
        out.extend_from_slice(&ports.start().to_be_bytes());
        out.extend_from_slice(&ports.end().to_be_bytes());
        out.extend_from_slice(name.as_bytes());
    })
}

/// The reply to a `PLAN_REQ`: the port, and a port that was stepped over, 0 where there is none.
pub(crate) fn plan_reply(port: u16, stepped_over: u16) -> Vec<u8> {
    let ([a, b], [c, d]) = (port.to_be_bytes(), stepped_over.to_be_bytes());
    vec![PLAN_RESP, 0, a, b, c, d]
}

/// A body with its two bytes of length before it.
pub(crate) fn framed(body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0, 0];
    body(&mut out);
    let length = (out.len() - 2) as u16;
    out[..2].copy_from_slice(&length.to_be_bytes());
    out
}

fn push_field(out: &mut Vec<u8>, field: &[u8]) {
    out.extend_from_slice(&(field.len() as u16).to_be_bytes());
    out.extend_from_slice(field);
}

/// The reply to a registration: granted with a creation, or refused.
///
/// Its form depends on the request's highest version alone: six bytes with a creation of 32 bits from version 6 on,
/// four bytes with a creation of 1 to 3 before.
pub fn alive2_reply(highest_version: u16, creation: Option<u32>) -> Vec<u8> {
    let result = u8::from(creation.is_none());
    if highest_version >= WIDE_CREATION {
        let [a, b, c, d] = creation.unwrap_or(NO_CREATION).to_be_bytes();
        vec![ALIVE2_X_RESP, result, a, b, c, d]
    } else {
        let creation = creation.map_or(NO_CREATION, |creation| creation % 3 + 1);
        let [.., c, d] = creation.to_be_bytes();
        vec![ALIVE2_RESP, result, c, d]
    }
}

/// The reply to a registration, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alive2Reply {
    /// Registered, with this creation.
    Granted(u32),
    /// The node was not registered. The reply has no reason.
    Refused,
}

/// Decodes the reply to a registration; `None` while bytes are missing.
pub fn decode_alive2_reply(bytes: &[u8]) -> Result<Option<Alive2Reply>, Malformed> {
    let (result, creation) = match *bytes {
        [ALIVE2_X_RESP, result, a, b, c, d] => (result, u32::from_be_bytes([a, b, c, d])),
        [ALIVE2_RESP, result, c, d] => (result, u32::from(u16::from_be_bytes([c, d]))),
        [ALIVE2_X_RESP, ..] if bytes.len() < 6 => return Ok(None),
        [ALIVE2_RESP, ..] if bytes.len() < 4 => return Ok(None),
        [] => return Ok(None),
        _ => return Err(Malformed),
    };
    Ok(Some(if result == 0 { Alive2Reply::Granted(creation) } else { Alive2Reply::Refused }))
}

/// The reply to a lookup that finds its node, ready to be sent. The registry keeps a node in this form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port2Reply(Box<[u8]>);

impl Port2Reply {
    /// Encodes a node.
    pub fn new(node: &Node) -> Self {
        let mut out = Vec::with_capacity(14 + node.name.as_str().len() + node.extra.len());
        out.extend_from_slice(&[PORT2_RESP, 0]);
        out.extend_from_slice(&node.port.to_be_bytes());
        out.extend_from_slice(&[node.node_type, node.protocol]);
        out.extend_from_slice(&node.highest_version.to_be_bytes());
        out.extend_from_slice(&node.lowest_version.to_be_bytes());
        push_field(&mut out, node.name.as_str().as_bytes());
        push_field(&mut out, &node.extra);
        Self(out.into())
    }

    /// The reply.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The `ALIVE2_REQ`, without its length, that this node would register with.
    pub(crate) fn to_alive2(&self) -> Vec<u8> {
        // Behind the tag (and the result of the reply), both have the same fields.
        [&[ALIVE2_REQ], &self.0[2..]].concat()
    }

    /// The node's name.
    pub fn name(&self) -> &[u8] {
        &self.0[12..12 + usize::from(self.word(10))]
    }

    /// The node's port.
    pub fn port(&self) -> u16 {
        self.word(2)
    }

    /// The node's highest and lowest distribution version.
    pub fn versions(&self) -> (u16, u16) {
        (self.word(6), self.word(8))
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }
}

/// Decodes from the start of a reply to a lookup whether the name was found; `None` while bytes are missing.
pub fn decode_port2_reply(bytes: &[u8]) -> Result<Option<bool>, Malformed> {
    match *bytes {
        [PORT2_RESP, result, ..] => Ok(Some(result == 0)),
        [PORT2_RESP] | [] => Ok(None),
        _ => Err(Malformed),
    }
}

/// The head of the replies to `NAMES_REQ` and `DUMP_REQ`: the port that clients dialled.
pub fn listing_head(port: u16) -> Vec<u8> {
    u32::from(port).to_be_bytes().to_vec()
}

/// Appends a node's line in the reply to `NAMES_REQ`.
pub fn push_names_line(out: &mut Vec<u8>, name: &[u8], port: u16) {
    out.extend_from_slice(b"name ");
    out.extend_from_slice(name);
    out.extend_from_slice(format!(" at port {port}\n").as_bytes());
}

/// Appends a registered node's line in the reply to `DUMP_REQ`.
pub fn push_dump_line(out: &mut Vec<u8>, name: &[u8], port: u16, descriptor: i32) {
    out.extend_from_slice(b"active name     <");
    out.extend_from_slice(name);
    out.extend_from_slice(format!("> at port {port}, fd = {descriptor}\n\0").as_bytes());
}

/// Appends the line of a node that left in the reply to `DUMP_REQ`.
pub fn push_departed_line(out: &mut Vec<u8>, name: &[u8], port: u16, descriptor: i32) {
    out.extend_from_slice(b"old/unused name <");
    out.extend_from_slice(name);
    out.extend_from_slice(format!(">, port = {port}, fd = {descriptor} \n\0").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let name = NodeName::new("прод".as_bytes()).expect("a valid name");
        Node { extra: b"\0extra".as_slice().into(), ..Node::erlang(name, 4711) }
    }

    #[test]
    fn a_registration_survives_encoding() {
        let bytes = alive2_request(&node());
        let frame = frame(&bytes).expect("well-formed").expect("whole");
        assert_eq!(Request::decode(frame), Ok(Request::Alive2 { node: Ok(node()), highest_version: 6 }));
    }

    #[test]
    fn bytes_behind_a_request_spoil_it() {
        let mut bytes = port_please2_request("a");
        assert!(matches!(frame(&bytes), Ok(Some(_))));
        bytes.push(0);
        assert_eq!(frame(&bytes), Err(Malformed));
        assert_eq!(frame(&bytes[..3]), Ok(None));
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(frame(&[0, 0]), Err(Malformed));
        assert_eq!(frame(&[0x0b, 0xf2]), Err(Malformed));
        assert_eq!(frame(&[0x0b, 0xf1]), Ok(None));
    }

    #[test]
    fn the_highest_version_selects_the_form_of_the_reply() {
        assert_eq!(alive2_reply(6, Some(7)), [118, 0, 0, 0, 0, 7]);
        assert_eq!(alive2_reply(6, None), [118, 1, 0, 0, 0, 99]);
        assert_eq!(alive2_reply(5, Some(7)), [121, 0, 0, 2]);
        assert_eq!(alive2_reply(5, None), [121, 1, 0, 99]);
    }

    #[test]
    fn a_look_up_tolerates_one_nul_at_the_end() {
        assert_eq!(Request::decode(b"za\0"), Ok(Request::PortPlease2("a")));
        assert_eq!(Request::decode(b"za\0\0"), Err(Malformed));
        assert_eq!(Request::decode(b"z"), Err(Malformed));
        assert_eq!(Request::decode(b"z\xff"), Err(Malformed));
        assert!(Request::decode(format!("z{}", "ü".repeat(255)).as_bytes()).is_ok());
        assert_eq!(Request::decode(format!("z{}", "ü".repeat(256)).as_bytes()), Err(Malformed));
    }

    #[test]
    fn a_found_node_is_told_with_all_it_registered() {
        let reply = Port2Reply::new(&node());
        assert_eq!(reply.name(), "прод".as_bytes());
        assert_eq!(reply.port(), 4711);
        assert_eq!(reply.versions(), (6, 5));
        assert_eq!(&reply.as_bytes()[..2], [119, 0]);
        assert!(reply.as_bytes().ends_with(b"\0\x06\0extra"));
    }
}
