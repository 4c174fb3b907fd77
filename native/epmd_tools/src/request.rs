//! The requests of the protocol as bytes, well-formed or deliberately not.

pub const ALIVE2: u8 = b'x';
pub const PORT_PLEASE2: u8 = b'z';
pub const NAMES: u8 = b'n';
pub const DUMP: u8 = b'd';
pub const KILL: u8 = b'k';
pub const STOP: u8 = b's';

/// A body with its length before it.
pub fn framed(body: &[u8]) -> Vec<u8> {
    claiming(u16::try_from(body.len()).expect("a body fits its length field"), body)
}

/// A body with any length before it, right or wrong.
pub fn claiming(length: u16, body: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], body].concat()
}

pub fn alive2(name: impl AsRef<[u8]>, port: u16) -> Vec<u8> {
    Alive2::new(name, port).framed()
}

pub fn port_please2(name: impl AsRef<[u8]>) -> Vec<u8> {
    tagged(PORT_PLEASE2, name.as_ref())
}

pub fn names() -> Vec<u8> {
    framed(&[NAMES])
}

pub fn dump() -> Vec<u8> {
    framed(&[DUMP])
}

pub fn kill() -> Vec<u8> {
    framed(&[KILL])
}

pub fn stop(name: impl AsRef<[u8]>) -> Vec<u8> {
    tagged(STOP, name.as_ref())
}

/// A tag and what follows it, with the right length before them.
pub fn tagged(tag: u8, rest: &[u8]) -> Vec<u8> {
    framed(&[&[tag], rest].concat())
}

/// An `ALIVE2_REQ` whose fields can be wrong.
#[derive(Clone, Debug)]
pub struct Alive2 {
    pub port: u16,
    pub node_type: u8,
    pub protocol: u8,
    pub highest: u16,
    pub lowest: u16,
    /// The name's length field, if it is to be wrong.
    pub name_length: Option<u16>,
    pub name: Vec<u8>,
    /// The extra field's length field, if it is to be wrong.
    pub extra_length: Option<u16>,
    pub extra: Vec<u8>,
    /// Bytes behind the last field, inside the frame.
    pub trailing: Vec<u8>,
}

impl Alive2 {
    pub fn new(name: impl AsRef<[u8]>, port: u16) -> Self {
        Self {
            port,
            node_type: 77,
            protocol: 0,
            highest: 6,
            lowest: 5,
            name_length: None,
            name: name.as_ref().to_vec(),
            extra_length: None,
            extra: Vec::new(),
            trailing: Vec::new(),
        }
    }

    pub fn body(&self) -> Vec<u8> {
        let name_length = self.name_length.unwrap_or(self.name.len() as u16);
        let extra_length = self.extra_length.unwrap_or(self.extra.len() as u16);
        let mut body = vec![ALIVE2];
        body.extend(self.port.to_be_bytes());
        body.extend([self.node_type, self.protocol]);
        body.extend(self.highest.to_be_bytes());
        body.extend(self.lowest.to_be_bytes());
        body.extend(name_length.to_be_bytes());
        body.extend(&self.name);
        body.extend(extra_length.to_be_bytes());
        body.extend(&self.extra);
        body.extend(&self.trailing);
        body
    }

    pub fn framed(&self) -> Vec<u8> {
        framed(&self.body())
    }

    /// The reply to a lookup of this node.
    pub fn found(&self) -> Vec<u8> {
        let mut reply = vec![b'w', 0];
        reply.extend(self.port.to_be_bytes());
        reply.extend([self.node_type, self.protocol]);
        reply.extend(self.highest.to_be_bytes());
        reply.extend(self.lowest.to_be_bytes());
        reply.extend((self.name.len() as u16).to_be_bytes());
        reply.extend(&self.name);
        reply.extend((self.extra.len() as u16).to_be_bytes());
        reply.extend(&self.extra);
        reply
    }

    /// Parses a well-formed request, length included.
    pub fn parse(sent: &[u8]) -> Option<Self> {
        let length = u16_at(sent, 0)?;
        let body = sent.get(2..2 + usize::from(length))?;
        if body.first() != Some(&ALIVE2) {
            return None;
        }
        let name_length = usize::from(u16_at(body, 9)?);
        let name = body.get(11..11 + name_length)?.to_vec();
        let extra_length = usize::from(u16_at(body, 11 + name_length)?);
        let extra_at = 13 + name_length;
        Some(Self {
            port: u16_at(body, 1)?,
            node_type: body[3],
            protocol: body[4],
            highest: u16_at(body, 5)?,
            lowest: u16_at(body, 7)?,
            name_length: None,
            name,
            extra_length: None,
            extra: body.get(extra_at..extra_at + extra_length)?.to_vec(),
            trailing: body.get(extra_at + extra_length..)?.to_vec(),
        })
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([field[0], field[1]]))
}
