//! Validated node names, and the description of a node.

use std::fmt;

/// The longest name, in characters. OTP's daemon counts code points, not bytes (`MAXSYMLEN` in `epmd.h`).
const MAX_CHARACTERS: usize = 255;

/// The name of a node without its host: 1 to 255 characters of UTF-8, none of them white space or a control character.
///
/// OTP's daemon takes empty names, blanks and newlines. They forge lines in `NAMES` and in logs, so they are refused.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NodeName(Box<str>);

/// Why a name cannot be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidName {
    /// It has no characters.
    Empty,
    /// It has more than 255 characters.
    TooLong,
    /// It is not UTF-8.
    NotUtf8,
    /// It holds white space or a control character.
    Forbidden(char),
}

impl NodeName {
    /// Checks the bytes of a name.
    pub fn new(bytes: &[u8]) -> Result<Self, InvalidName> {
        let name = std::str::from_utf8(bytes).map_err(|_| InvalidName::NotUtf8)?;
        if name.is_empty() {
            return Err(InvalidName::Empty);
        }
        if !fits(name) {
            return Err(InvalidName::TooLong);
        }
        match name.chars().find(|c| c.is_whitespace() || c.is_control()) {
            Some(forbidden) => Err(InvalidName::Forbidden(forbidden)),
            None => Ok(Self(name.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a name is short enough to belong to a node.
pub(crate) fn fits(name: &str) -> bool {
    name.len() <= MAX_CHARACTERS || name.chars().count() <= MAX_CHARACTERS
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl std::error::Error for InvalidName {}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong => write!(f, "it has more than {MAX_CHARACTERS} characters"),
            Self::NotUtf8 => f.write_str("it is not UTF-8"),
            Self::Forbidden(c) => write!(f, "it holds {c:?}"),
        }
    }
}

/// A node as `ALIVE2_REQ` describes it and `PORT2_RESP` gives it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The name without the host.
    pub name: NodeName,
    /// The port of its distribution listener.
    pub port: u16,
    /// 77 for an Erlang node; 104 or 72 for a hidden (C) node. Kept as received.
    pub node_type: u8,
    /// 0 is TCP. Kept as received.
    pub protocol: u8,
    /// The highest distribution version; it selects the form of the reply to a registration.
    pub highest_version: u16,
    /// The lowest distribution version.
    pub lowest_version: u16,
    /// Extra bytes of the node, returned with its port.
    pub extra: Box<[u8]>,
}

impl Node {
    /// An ordinary Erlang node, described as OTP's `erl_epmd` does.
    pub fn erlang(name: NodeName, port: u16) -> Self {
        Self { name, port, node_type: 77, protocol: 0, highest_version: 6, lowest_version: 5, extra: [].into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_measured_in_characters() {
        assert!(NodeName::new("ü".repeat(255).as_bytes()).is_ok());
        assert_eq!(NodeName::new("ü".repeat(256).as_bytes()), Err(InvalidName::TooLong));
        assert!(NodeName::new("x".repeat(255).as_bytes()).is_ok());
        assert_eq!(NodeName::new("x".repeat(256).as_bytes()), Err(InvalidName::TooLong));
    }

    #[test]
    fn names_that_forge_lines_are_refused() {
        assert_eq!(NodeName::new(b""), Err(InvalidName::Empty));
        assert_eq!(NodeName::new(b"a\nname b at port 1"), Err(InvalidName::Forbidden('\n')));
        assert_eq!(NodeName::new(b"a b"), Err(InvalidName::Forbidden(' ')));
        assert_eq!(NodeName::new(b"\x1b[2J"), Err(InvalidName::Forbidden('\u{1b}')));
        assert_eq!(NodeName::new(b"\xff"), Err(InvalidName::NotUtf8));
    }
}
