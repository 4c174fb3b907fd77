//! What was observed of a script, in a form in which two servers can be compared.

use std::collections::BTreeMap;

use epmd_tools::client::End;
use epmd_tools::request::Alive2;

/// Everything that can be observed of one run of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    pub connections: BTreeMap<usize, Heard>,
    /// The table at the end of the script, before its connections are closed.
    pub during: Table,
    /// The table after its connections were closed in order.
    pub after: Table,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub reply: Reply,
    pub end: End,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Nothing,
    Registration {
        /// `ALIVE2_X_RESP` rather than `ALIVE2_RESP`.
        wide: bool,
        result: u8,
        creation: Creation,
    },
    /// Any other reply, with the server's port and descriptor numbers replaced.
    Bytes(Vec<u8>),
}

/// A creation, relative to the last one of the same name, since the values come from clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Creation {
    /// The first of its name, in the range it may have.
    First,
    /// Greater than the last by this number.
    Next(u32),
    /// The same modulo 3, since at least one of the two had 16 bits, which only show that remainder.
    NextModulo3(u32),
    /// The value itself, of a refusal or out of range.
    Exactly(u32),
}

/// The replies to `NAMES_REQ` and `DUMP_REQ`, unless nobody serves the port any more.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Table {
    Listed { names: Vec<u8>, dump: Vec<u8> },
    Gone,
}

/// Remembers creations by name while the replies of a script are read in order.
#[derive(Default)]
pub(crate) struct Creations(BTreeMap<Vec<u8>, Issued>);

#[derive(Clone, Copy)]
enum Issued {
    Counter(u32),
    Remainder(u32),
}

impl Reply {
    pub(crate) fn read(sent: &[u8], heard: &[u8], port: u16, creations: &mut Creations) -> Self {
        let registration = match *heard {
            [] => return Self::Nothing,
            [b'v', result, a, b, c, d] => Some((true, result, u32::from_be_bytes([a, b, c, d]))),
            [b'y', result, a, b] => Some((false, result, u32::from(u16::from_be_bytes([a, b])))),
            _ => None,
        };
        match (registration, Alive2::parse(sent)) {
            (Some((wide, 0, value)), Some(request)) => {
                Self::Registration { wide, result: 0, creation: creations.relate(request.name, wide, value) }
            }
            (Some((wide, result, value)), _) => Self::Registration { wide, result, creation: Creation::Exactly(value) },
            (None, _) => Self::Bytes(without_port_and_descriptors(heard, port)),
        }
    }
}

impl Creations {
    fn relate(&mut self, name: Vec<u8>, wide: bool, value: u32) -> Creation {
        let in_range = if wide { value >= 4 } else { (1..=3).contains(&value) };
        if !in_range {
            return Creation::Exactly(value);
        }
        let issued = if wide { Issued::Counter(value) } else { Issued::Remainder(value - 1) };
        match (self.0.insert(name, issued), issued) {
            (None, _) => Creation::First,
            (Some(Issued::Counter(last)), Issued::Counter(this)) => Creation::Next(this.wrapping_sub(last)),
            (Some(last), this) => Creation::NextModulo3((this.remainder() + 3 - last.remainder()) % 3),
        }
    }
}

impl Issued {
    fn remainder(self) -> u32 {
        match self {
            Self::Counter(counter) => counter % 3,
            Self::Remainder(remainder) => remainder,
        }
    }
}

/// A reply that starts with the port the client dialled is a listing.
pub(crate) fn without_port_and_descriptors(heard: &[u8], port: u16) -> Vec<u8> {
    let Some(text) = heard.strip_prefix(&u32::from(port).to_be_bytes()[..]) else {
        return heard.to_vec();
    };
    let mut same = b"<port>".to_vec();
    let mut rest = text;
    const BEFORE: &[u8] = b", fd = ";
    while let Some(at) = rest.windows(BEFORE.len()).position(|window| window == BEFORE) {
        let (kept, number) = rest.split_at(at + BEFORE.len());
        same.extend(kept);
        same.push(b'#');
        rest = &number[number.iter().take_while(|byte| byte.is_ascii_digit()).count()..];
    }
    same.extend(rest);
    same
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => write!(formatter, "nothing"),
            Self::Registration { wide, result, creation } => {
                let response = if *wide { "ALIVE2_X_RESP" } else { "ALIVE2_RESP" };
                write!(formatter, "{response} result {result} creation {creation:?}")
            }
            Self::Bytes(bytes) => write!(formatter, "\"{}\"", short(bytes)),
        }
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listed { names, dump } => write!(formatter, "NAMES \"{}\" DUMP \"{}\"", short(names), short(dump)),
            Self::Gone => write!(formatter, "gone"),
        }
    }
}

/// Bytes in readable form, without the middle if they are long.
pub(crate) fn short(bytes: &[u8]) -> String {
    const SHOWN: usize = 160;
    if bytes.len() <= 2 * SHOWN {
        return bytes.escape_ascii().to_string();
    }
    let (start, end) = (&bytes[..SHOWN], &bytes[bytes.len() - SHOWN..]);
    let left_out = bytes.len() - 2 * SHOWN;
    format!("{}[... {left_out} bytes ...]{}", start.escape_ascii(), end.escape_ascii())
}
