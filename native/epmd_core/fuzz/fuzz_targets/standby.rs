//! A standby that is told anything, by one owner after the other, and then inherits.
//!
//! What it was told is kept here as well, much simpler. The table of the standby that serves must be the same: every
//! node that has a connection and has not left, with its creation and port. A standby that was told nothing wrong must
//! serve.

#![no_main]

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdUnixListener};
use std::time::Duration;

use epmd_core::{fuzzing, protocol, Node, NodeName};
use libfuzzer_sys::fuzz_target;
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// After how long a standby that has not come again does not.
const PATIENCE: Duration = Duration::from_millis(20);

const HELLO: &[u8] = b"\x01epmd\0\x02\x01\x04\x7f\0\0\x01\0\0\x01\0";
const LISTENER: u8 = 3;
const COUNTERS: u8 = 4;
const DEPARTED: u8 = 5;
const ENTERED: u8 = 6;
const LEFT: u8 = 7;
const WHOLE: u8 = 8;
const TAKE_OVER: u8 = 9;
const EPOCH: u8 = 11;
const RESUMED: u8 = 12;
const KEPT: u8 = 13;
const RECONNECT: u8 = 14;
const SETTLED: u8 = 15;
const REFUSED: u8 = 16;

struct Sockets {
    runtime: Runtime,
    port: u16,
    listener: TcpListener,
    connection: TcpStream,
}

impl Sockets {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let connection = TcpStream::connect(address).expect("room in the backlog");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, port: address.port(), listener, connection }
    }

    fn rendezvous(&self) -> UnixListener {
        let name = format!("embedded_epmd/127.0.0.1:{}", self.port);
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        let listener = StdUnixListener::bind_addr(&address).expect("the last standby has gone");
        listener.set_nonblocking(true).expect("a socket");
        UnixListener::from_std(listener).expect("a socket")
    }
}

/// What the standby was told.
#[derive(Default)]
struct Told {
    nodes: BTreeMap<u64, Known>,
    unconfirmed: BTreeMap<u64, Known>,
    listens: bool,
    whole: bool,
    /// Something that may have been wrong.
    doubtful: bool,
    /// Something that may have been anything.
    unknown: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    name: String,
    creation: u32,
    port: u16,
    connected: bool,
}

impl Told {
    fn enter(&mut self, id: u64, node: Known) {
        let is_new = self.nodes.keys().all(|other| *other < id) && self.nodes.values().all(|other| other.name != node.name);
        self.doubtful |= !is_new;
        self.nodes.insert(id, node);
    }

    /// Another owner, or the same again.
    fn reconnect(&mut self) {
        if !self.whole {
            self.nodes.clear();
            self.unconfirmed.clear();
        }
        (self.listens, self.whole) = (false, false);
    }

    fn connected(&self) -> Vec<(&str, u32, u16)> {
        let connected = self.nodes.values().filter(|node| node.connected);
        connected.map(|node| (node.name.as_str(), node.creation, node.port)).collect()
    }
}

/// What an owner says next.
enum Said {
    Message(Vec<u8>),
    With(Vec<u8>, BorrowedFd<'static>),
    Nothing,
}

/// Takes the next message from the input, and keeps what it tells.
fn say(input: &mut &[u8], told: &mut Told, sockets: &'static Sockets) -> Option<Said> {
    let mut take = || input.split_off_first().copied();
    let message = |tag: u8, body: &[&[u8]]| Said::Message([&[tag][..], &body.concat()].concat());
    Some(match take()? % 16 {
        0 => {
            told.listens = true;
            Said::With(vec![LISTENER], sockets.listener.as_fd())
        }
        1 => {
            told.doubtful = true;
            Said::With(vec![LISTENER], sockets.connection.as_fd())
        }
        2 => {
            told.doubtful = true;
            let (registrations, leaves, floor) = (u64::from(take()?), u64::from(take()?), u32::from(take()?));
            message(COUNTERS, &[&registrations.to_be_bytes(), &leaves.to_be_bytes(), &floor.to_be_bytes()])
        }
        3 => {
            told.doubtful = true;
            let (number, name) = (u64::from(take()?), format!("node{}", take()? % 8));
            message(DEPARTED, &[&number.to_be_bytes(), &[0; 10], name.as_bytes()])
        }
        4..=6 => {
            let (id, what, creation) = (u64::from(take()?), take()?, u32::from(take()?));
            let (name, connected) = (format!("node{}", what % 8), what & 64 != 0);
            let node = Node::erlang(NodeName::new(name.as_bytes()).expect("a name"), u16::from(what));
            let alive2 = &protocol::alive2_request(&node)[2..];
            told.enter(id, Known { name, creation, port: u16::from(what), connected });
            let body = [&[ENTERED][..], &id.to_be_bytes(), &creation.to_be_bytes(), &[u8::from(connected)], alive2].concat();
            if connected {
                Said::With(body, sockets.connection.as_fd())
            } else {
                Said::Message(body)
            }
        }
        7 => {
            let id = u64::from(take()?);
            told.doubtful |= told.nodes.remove(&id).is_none();
            message(LEFT, &[&id.to_be_bytes()])
        }
        8 => {
            told.doubtful |= !told.listens;
            told.whole = true;
            told.unconfirmed.clear();
            message(WHOLE, &[])
        }
        9 => {
            told.doubtful |= !told.whole;
            // Nothing more is heard.
            *input = &[];
            message(TAKE_OVER, &[])
        }
        10 => {
            let (epoch, refusals) = (u64::from(take()?), u64::from(take()?));
            told.unconfirmed = std::mem::take(&mut told.nodes);
            message(EPOCH, &[&epoch.to_be_bytes(), &refusals.to_be_bytes()])
        }
        11 => {
            let last = u64::from(take()?);
            told.unconfirmed.retain(|id, _| *id <= last);
            message(RESUMED, &[&last.to_be_bytes()])
        }
        12 => {
            let (id, connected) = (u64::from(take()?), take()? & 1 == 1);
            match told.unconfirmed.remove(&id) {
                Some(node) => told.enter(id, Known { connected: connected && node.connected, ..node }),
                None => told.doubtful = true,
            }
            message(KEPT, &[&id.to_be_bytes(), &[u8::from(connected)]])
        }
        13 => message(RECONNECT, &[]),
        14 => {
            (told.doubtful, told.unknown) = (true, true);
            let length = usize::from(take()?).min(input.len());
            Said::Message(input.split_off(..length)?.to_vec())
        }
        _ => match take()? % 4 {
            0 => message(SETTLED, &[]),
            1 => {
                let number = u64::from(take()?).wrapping_sub(8);
                message(REFUSED, &[&number.to_be_bytes(), &[0, 4], b"node", b"why not"])
            }
            _ => Said::Nothing,
        },
    })
}

/// Has a standby come, and tells it what the input says; ends when it has gone without going on for the owner.
async fn own(mut input: &[u8], told: &mut Told, sockets: &'static Sockets, rendezvous: UnixListener) {
    loop {
        let Ok(Ok((mut stream, _))) = timeout(PATIENCE, rendezvous.accept()).await else { return };
        send(&mut stream, HELLO, None).await;
        let mut reconnects = false;
        while let Some(said) = say(&mut input, told, sockets) {
            match said {
                Said::Message(message) => {
                    reconnects = message == [RECONNECT];
                    send(&mut stream, &message, None).await;
                }
                Said::With(message, descriptor) => send(&mut stream, &message, Some(descriptor)).await,
                Said::Nothing => {}
            }
            if reconnects {
                break;
            }
        }
        if !reconnects {
            drop(rendezvous);
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
            return;
        }
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
        told.reconnect();
    }
}

/// Sends a message behind its length. The standby may have closed already.
async fn send(stream: &mut UnixStream, message: &[u8], descriptor: Option<BorrowedFd<'_>>) {
    let bytes = [&(message.len() as u16).to_be_bytes()[..], message].concat();
    if let Some(descriptor) = descriptor {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        with.push(SendAncillaryMessage::ScmRights(&descriptors));
        let _ = stream.writable().await;
        let _ = sendmsg(&*stream, &[IoSlice::new(&bytes)], &mut with, SendFlags::NOSIGNAL);
    } else {
        let _ = stream.write_all(&bytes).await;
    }
}

fuzz_target!(|bytes: &[u8]| {
    thread_local!(static SOCKETS: &'static Sockets = Box::leak(Box::new(Sockets::new())));
    let sockets = SOCKETS.with(|sockets| *sockets);
    let mut told = Told::default();
    let inherited = sockets.runtime.block_on(async {
        let rendezvous = sockets.rendezvous();
        tokio::select! {
            biased;
            entries = fuzzing::inherited(sockets.port) => Some(entries),
            () = own(bytes, &mut told, sockets, rendezvous) => None,
        }
    });
    match inherited {
        Some(_) if told.unknown => {}
        Some(entries) => {
            assert!(told.whole, "it serves, and was never whole");
            let mut found: Vec<_> = entries
                .iter()
                .map(|entry| (std::str::from_utf8(entry.name()).expect("a name"), entry.creation(), entry.port()))
                .collect();
            found.reverse();
            assert_eq!(found, told.connected());
        }
        None => assert!(told.doubtful || !told.whole, "it was told nothing wrong, and does not serve"),
    }
});
