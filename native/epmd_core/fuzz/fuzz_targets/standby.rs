//! A standby is sent any messages by one owner after the other, and then takes over.
//!
//! A simple model follows the same messages. When the standby takes over, its table must equal the model's: every node
//! that has a connection and has not left, with its creation and port. A standby that was sent nothing wrong must take
//! over.

#![no_main]

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdUnixListener};
use std::time::Duration;

use epmd_core::fuzzing::{self, tags};
use epmd_core::{protocol, Node, NodeName};
use libfuzzer_sys::fuzz_target;
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// How long to wait for the standby to connect again.
const PATIENCE: Duration = Duration::from_millis(20);

/// The hello of an owner.
const OWNER: &[u8] = b"\x01epmd\0\x02\x01\x04\x7f\0\0\x01\0\0\x01\0";
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

/// The model: what the standby should have in its table.
#[derive(Default)]
struct Told {
    nodes: BTreeMap<u64, Known>,
    unconfirmed: BTreeMap<u64, Known>,
    listens: bool,
    whole: bool,
    /// It was sent something that may be wrong, so it may give up.
    doubtful: bool,
    /// It was sent arbitrary bytes, so the model no longer knows the table.
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
        let is_new =
            self.nodes.keys().all(|other| *other < id) && self.nodes.values().all(|other| other.name != node.name);
        self.doubtful |= !is_new;
        self.nodes.insert(id, node);
    }

    /// The standby connects again, to another owner or the same one.
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

/// Takes the next message from the input, and applies it to the model.
fn say(input: &mut &[u8], told: &mut Told, sockets: &'static Sockets) -> Option<Said> {
    let mut take = || input.split_off_first().copied();
    let message = |tag: u8, body: &[&[u8]]| Said::Message([&[tag][..], &body.concat()].concat());
    Some(match take()? % 16 {
        0 => {
            told.listens = true;
            Said::With(vec![tags::LISTENER], sockets.listener.as_fd())
        }
        1 => {
            told.doubtful = true;
            Said::With(vec![tags::LISTENER], sockets.connection.as_fd())
        }
        2 => {
            told.doubtful = true;
            let (registrations, leaves, floor) = (u64::from(take()?), u64::from(take()?), u32::from(take()?));
            message(tags::COUNTERS, &[&registrations.to_be_bytes(), &leaves.to_be_bytes(), &floor.to_be_bytes()])
        }
        3 => {
            told.doubtful = true;
            let (number, name) = (u64::from(take()?), format!("node{}", take()? % 8));
            message(tags::DEPARTED, &[&number.to_be_bytes(), &[0; 10], name.as_bytes()])
        }
        4..=6 => {
            let (id, what, creation) = (u64::from(take()?), take()?, u32::from(take()?));
            let (name, connected) = (format!("node{}", what % 8), what & 64 != 0);
            let node = Node::erlang(NodeName::new(name.as_bytes()).expect("a name"), u16::from(what));
            let alive2 = &protocol::alive2_request(&node)[2..];
            told.enter(id, Known { name, creation, port: u16::from(what), connected });
            let body =
                [&[tags::ENTERED][..], &id.to_be_bytes(), &creation.to_be_bytes(), &[u8::from(connected)], alive2]
                    .concat();
            if connected {
                Said::With(body, sockets.connection.as_fd())
            } else {
                Said::Message(body)
            }
        }
        7 => {
            let id = u64::from(take()?);
            told.doubtful |= told.nodes.remove(&id).is_none();
            message(tags::LEFT, &[&id.to_be_bytes()])
        }
        8 => {
            told.doubtful |= !told.listens;
            told.whole = true;
            told.unconfirmed.clear();
            message(tags::WHOLE, &[])
        }
        9 => {
            told.doubtful |= !told.whole;
            // The standby reads nothing more.
            *input = &[];
            message(tags::TAKE_OVER, &[])
        }
        10 => {
            let (epoch, refusals) = (u64::from(take()?), u64::from(take()?));
            told.unconfirmed = std::mem::take(&mut told.nodes);
            message(tags::EPOCH, &[&epoch.to_be_bytes(), &refusals.to_be_bytes()])
        }
        11 => {
            let last = u64::from(take()?);
            told.unconfirmed.retain(|id, _| *id <= last);
            message(tags::RESUMED, &[&last.to_be_bytes()])
        }
        12 => {
            let (id, connected) = (u64::from(take()?), take()? & 1 == 1);
            match told.unconfirmed.remove(&id) {
                Some(node) => told.enter(id, Known { connected: connected && node.connected, ..node }),
                None => told.doubtful = true,
            }
            message(tags::KEPT, &[&id.to_be_bytes(), &[u8::from(connected)]])
        }
        13 => message(tags::RECONNECT, &[]),
        14 => {
            (told.doubtful, told.unknown) = (true, true);
            let length = usize::from(take()?).min(input.len());
            Said::Message(input.split_off(..length)?.to_vec())
        }
        _ => match take()? % 4 {
            0 => message(tags::SETTLED, &[]),
            1 => {
                let number = u64::from(take()?).wrapping_sub(8);
                message(tags::REFUSED, &[&number.to_be_bytes(), &[0, 4], b"node", b"why not"])
            }
            _ => Said::Nothing,
        },
    })
}

/// Acts as the owner: accepts the standby, and sends it the messages in the input. Returns when the standby has gone
/// without taking over.
async fn own(mut input: &[u8], told: &mut Told, sockets: &'static Sockets, rendezvous: UnixListener) {
    loop {
        let Ok(Ok((mut stream, _))) = timeout(PATIENCE, rendezvous.accept()).await else { return };
        send(&mut stream, OWNER, None).await;
        let mut reconnects = false;
        while let Some(said) = say(&mut input, told, sockets) {
            match said {
                Said::Message(message) => {
                    reconnects = message == [tags::RECONNECT];
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

/// Sends a message with its length before it. The standby may have closed already.
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
