//! The two exchanges that are measured, as bytes: a lookup (PORT_PLEASE2) and a registration (ALIVE2).
//!
//! Written out here and not taken from `epmd_core`, so that a mistake there cannot make its own replies look right.

const ALIVE2: u8 = 120;
const ALIVE2_X_RESP: u8 = 118;
const PORT_PLEASE2: u8 = 122;
const PORT2_RESP: u8 = 119;
/// What follows the port in a registration, and in the reply to its lookup: an Erlang node on TCP over IPv4 with
/// distribution versions 6 to 5.
const KIND_AND_VERSIONS: [u8; 6] = [77, 0, 0, 6, 0, 5];

/// A node of the benchmark. All names have the same length, so that all requests have the same size.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    name: String,
    port: u16,
}

impl Node {
    /// The `index`-th node of a kind. `kind` is a single letter.
    pub(crate) fn new(kind: char, index: usize) -> Self {
        let port = 1024 + (index % 60_000) as u16;
        Self { name: format!("bench_{kind}{index:05}"), port }
    }

    /// What a registration of this node sends.
    pub(crate) fn registration(&self) -> Vec<u8> {
        let mut body = vec![ALIVE2];
        self.describe(&mut body);
        framed(&body)
    }

    /// What a lookup of this node sends.
    pub(crate) fn look_up(&self) -> Vec<u8> {
        let mut body = vec![PORT_PLEASE2];
        body.extend(self.name.as_bytes());
        framed(&body)
    }

    /// The reply to a lookup of this node.
    pub(crate) fn found(&self) -> Vec<u8> {
        let mut reply = vec![PORT2_RESP, 0];
        self.describe(&mut reply);
        reply
    }

    /// The fields that a registration and the reply to a lookup share: port, kind, versions, name, no extra bytes.
    fn describe(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.port.to_be_bytes());
        bytes.extend(KIND_AND_VERSIONS);
        bytes.extend((self.name.len() as u16).to_be_bytes());
        bytes.extend(self.name.as_bytes());
        bytes.extend([0, 0]);
    }
}

/// The length of the reply to a registration: tag, result, creation.
pub(crate) const GRANTED_LENGTH: usize = 6;

/// Whether this reply grants a registration.
pub(crate) fn is_granted(reply: &[u8]) -> bool {
    reply.len() == GRANTED_LENGTH && reply.starts_with(&[ALIVE2_X_RESP, 0])
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u16).to_be_bytes(), body].concat()
}
