//! A follower is sent any messages by one owner after the other, and then serves.
//!
//! A simple model follows the same messages. When the follower serves, its table must equal the model's: every node of
//! the last table that was sent whole whose connection came with any of the tables, and those of earlier tables that it
//! lacks. To each owner the follower brings what that one's table lacks. One that has stood by serves in the end, whatever
//! it was sent afterwards.

#![no_main]

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream as StdUnixStream};
use std::time::Duration;

use epmd_core::fuzzing::{self, tags};
use epmd_core::{protocol, Node, NodeName};
use libfuzzer_sys::fuzz_target;
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// How long to wait for the follower to ask to be called again.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long to wait until it serves.
const SERVES_WITHIN: Duration = Duration::from_secs(5);

/// The hello of an owner at 127.0.0.1.
const OWNER: &[u8] = b"\x01epmd\0\x01\x01\x04\x7f\0\0\x01\0\0\x01\0";
/// Since when a node is registered, and how often it came and went before.
const LIFE: &[u8] = &[0; 20];
/// When it left.
const LEFT: &[u8] = &[0; 8];
const WITH_DESCRIPTOR: u8 = 0x80;

struct Sockets {
    runtime: Runtime,
    /// Where the owners are met, and what they pass.
    listener: TcpListener,
    /// Both ends of what passes for the connection of each node.
    connection: (TcpStream, TcpStream),
}

impl Sockets {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let node = TcpStream::connect(listener.local_addr().expect("its address")).expect("room in the backlog");
        let (connection, _) = listener.accept().expect("it has connected");
        listener.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, listener, connection: (connection, node) }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().expect("its address").port()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    name: String,
    creation: u32,
    port: u16,
}

/// A table that is being sent.
#[derive(Default)]
struct Incoming {
    registrations: u64,
    nodes: BTreeMap<u64, Known>,
    connected: Vec<u64>,
}

/// The model: what the follower should have.
#[derive(Default)]
struct Told {
    /// The last table that was sent whole, and its changes.
    nodes: BTreeMap<u64, Known>,
    registrations: u64,
    /// The connections that it holds, by the numbers of their registrations, and those that the last table lacked.
    held: BTreeMap<u64, Known>,
    missing: Vec<Known>,
    can_serve: bool,
    session: Session,
    /// It was sent arbitrary bytes, so the model no longer knows.
    is_unknown: bool,
}

/// The model of a session.
#[derive(Default)]
struct Session {
    has_begun: bool,
    incoming: Option<Incoming>,
    listeners: usize,
    is_in_sync: bool,
    stands_by: bool,
    is_ending: bool,
    /// What it should bring.
    brings: Vec<String>,
}

/// How a session goes on after a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoesOn,
    /// The follower meets the next owner, or this one again.
    MeetsAgain,
    /// It does so only after a long pause.
    Rests,
}

/// A table says this, or no table does.
fn valid(is_valid: bool) -> Then {
    if is_valid {
        Then::GoesOn
    } else {
        Then::MeetsAgain
    }
}

fn fits(nodes: &BTreeMap<u64, Known>, id: u64, name: &str) -> bool {
    nodes.keys().all(|other| *other < id) && nodes.values().all(|other| other.name != name)
}

impl Told {
    fn hold(&mut self, id: u64) {
        if let Some(known) = self.nodes.get(&id) {
            self.missing.retain(|missing| missing.name != known.name);
            self.held.insert(id, known.clone());
        }
    }

    fn registered(&mut self, id: u64, known: Known, is_connected: bool) -> Then {
        if let Some(incoming) = &mut self.session.incoming {
            let is_valid = id <= incoming.registrations && fits(&incoming.nodes, id, &known.name);
            if is_valid {
                incoming.nodes.insert(id, known);
                incoming.connected.extend(is_connected.then_some(id));
            }
            return valid(is_valid);
        }
        let is_valid = id > self.registrations && fits(&self.nodes, id, &known.name);
        if is_valid {
            self.nodes.insert(id, known);
            self.registrations = id;
            if is_connected {
                self.hold(id);
            }
        }
        valid(is_valid)
    }

    /// The table that was sent takes the place of the last one.
    fn in_sync(&mut self) -> Then {
        let Some(incoming) = self.session.incoming.take() else { return Then::MeetsAgain };
        (self.nodes, self.registrations) = (incoming.nodes, incoming.registrations);
        let held = std::mem::take(&mut self.held).into_values().chain(std::mem::take(&mut self.missing));
        for known in held {
            match self.nodes.iter().find(|(_, node)| node.name == known.name) {
                Some((id, node)) if node.creation == known.creation => drop(self.held.insert(*id, node.clone())),
                Some(_) => {}
                None => self.missing.push(known),
            }
        }
        incoming.connected.into_iter().for_each(|id| self.hold(id));
        self.session.is_in_sync = true;
        self.session.brings.extend(self.missing.iter().map(|missing| missing.name.clone()));
        Then::GoesOn
    }

    /// What it serves with, the oldest first.
    fn inherited(&self) -> Vec<Known> {
        let connected: Vec<_> = self.nodes.iter().filter(|(id, _)| self.held.contains_key(id)).collect();
        let is_free = |missing: &&Known| connected.iter().all(|(_, node)| node.name != missing.name);
        let missing = self.missing.iter().filter(is_free);
        connected.iter().map(|(_, node)| *node).chain(missing).cloned().collect()
    }
}

/// What an owner says next.
struct Said {
    message: Vec<u8>,
    descriptor: Option<BorrowedFd<'static>>,
}

/// Takes the next message from the input, and applies it to the model.
fn say(input: &mut &[u8], told: &mut Told, sockets: &'static Sockets) -> Option<(Said, Then)> {
    let mut take = || input.split_off_first().copied();
    let message = |tag: u8, body: &[&[u8]]| [&[tag][..], &body.concat()].concat();
    let (listener, connection) = (sockets.listener.as_fd(), sockets.connection.0.as_fd());
    // Before its snapshot an owner says nothing of a table, and a snapshot has no changes.
    let is_change = told.session.has_begun && told.session.incoming.is_none();
    let too_soon = if told.session.has_begun { Then::MeetsAgain } else { Then::Rests };
    let mut descriptor = None;
    let (message, then) = match take()? % 16 {
        0 => {
            descriptor = Some(listener);
            told.session.listeners += usize::from(!told.session.stands_by);
            (message(tags::LISTENER, &[&[0]]), Then::GoesOn)
        }
        1 => {
            descriptor = Some(connection);
            (message(tags::LISTENER, &[&[0]]), Then::Rests)
        }
        2 => {
            let (registrations, deletions) = (u64::from(take()?), u64::from(take()?));
            let then = match &mut told.session.incoming {
                Some(incoming) => {
                    incoming.registrations = registrations;
                    Then::GoesOn
                }
                None => too_soon,
            };
            (message(tags::COUNTERS, &[&registrations.to_be_bytes(), &deletions.to_be_bytes(), &[0; 4]]), then)
        }
        3 => {
            let id = u64::from(take()?);
            descriptor = Some(connection);
            told.hold(id);
            (message(tags::CONNECTION, &[&id.to_be_bytes()]), Then::GoesOn)
        }
        4..=6 => {
            let (id, what, creation) = (u64::from(take()?), take()?, u32::from(take()?));
            let (name, is_connected) = (format!("node{}", what % 8), what & 64 != 0);
            let node = Node::erlang(NodeName::new(name.as_bytes()).expect("a name"), u16::from(what));
            let (alive2, user) = (&protocol::alive2_request(&node)[2..], u32::from(what));
            let known = Known { name, creation, port: u16::from(what) };
            descriptor = is_connected.then_some(connection);
            let has_begun = told.session.has_begun;
            let then = if has_begun { told.registered(id, known, is_connected) } else { Then::Rests };
            let (id, creation, user) = (id.to_be_bytes(), creation.to_be_bytes(), user.to_be_bytes());
            (message(tags::REGISTERED, &[&id, &creation, &user, LIFE, alive2]), then)
        }
        7 => {
            let id = u64::from(take()?);
            let is_valid = is_change && told.nodes.remove(&id).is_some();
            if is_valid {
                told.held.remove(&id);
            }
            (message(tags::ENDED, &[&id.to_be_bytes(), LEFT]), if is_valid { Then::GoesOn } else { too_soon })
        }
        8 => {
            let then = if told.session.has_begun { told.in_sync() } else { Then::Rests };
            (message(tags::IN_SYNC, &[]), then)
        }
        9 => {
            let may_stand_by = told.session.is_in_sync && told.session.listeners > 0;
            if may_stand_by {
                (told.can_serve, told.session.stands_by, told.session.listeners) = (true, true, 0);
            }
            (message(tags::STAND_BY, &[]), if may_stand_by { Then::GoesOn } else { Then::Rests })
        }
        10 => {
            told.session.is_ending = told.session.stands_by;
            let then = if told.session.stands_by { Then::MeetsAgain } else { Then::Rests };
            (message(tags::TAKE_OVER, &[]), then)
        }
        11 => {
            let epoch = u64::from(take()?);
            let is_first = !std::mem::replace(&mut told.session.has_begun, true);
            if is_first {
                told.session.incoming = Some(Incoming::default());
            }
            (message(tags::BEGIN, &[&epoch.to_be_bytes(), &[0; 8]]), valid(is_first))
        }
        12 => {
            let id = u64::from(take()?);
            let then = match (&mut told.session.incoming, told.nodes.get(&id)) {
                (None, _) => too_soon,
                (Some(incoming), Some(known)) if fits(&incoming.nodes, id, &known.name) => {
                    incoming.nodes.insert(id, known.clone());
                    Then::GoesOn
                }
                (Some(_), _) => Then::MeetsAgain,
            };
            (message(tags::RETAINED, &[&id.to_be_bytes()]), then)
        }
        13 => (message(tags::RECONNECT, &[]), Then::MeetsAgain),
        14 => {
            told.is_unknown = true;
            let length = usize::from(take()?).min(input.len());
            (input.split_off(..length)?.to_vec(), Then::GoesOn)
        }
        _ => {
            let then = if is_change { Then::GoesOn } else { too_soon };
            match take()? % 5 {
                4 => (message(tags::EXAMINE, &[&[take()? % 2]]), Then::GoesOn),
                0 => (message(tags::SETTLED, &[]), then),
                1 => {
                    let number = u64::from(take()?);
                    (message(tags::REFUSED, &[&number.to_be_bytes(), &[0, 4], b"node", b"why not"]), then)
                }
                2 => {
                    let last = u64::from(take()?);
                    let then = if told.session.incoming.is_some() { Then::GoesOn } else { too_soon };
                    (message(tags::RESUMED, &[&last.to_be_bytes()]), then)
                }
                // Only a follower says that.
                _ => (message(tags::ALIVE, &[]), Then::Rests),
            }
        }
    };
    Some((Said { message, descriptor }, then))
}

/// Acts as one owner after the other, each of which sends messages of the input. Returns when the follower should have
/// served, or cannot.
async fn own(mut input: &[u8], told: &mut Told, sockets: &'static Sockets) {
    let listener = sockets.listener.try_clone().expect("a descriptor");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    // As long as another has the lock, the follower follows.
    let mut lock = Some(fuzzing::lock(&sockets.listener));
    loop {
        told.session = Session::default();
        let Ok(mut stream) = timeout(PATIENCE, meet(&listener)).await else { break };
        send(&mut stream, Said { message: OWNER.to_vec(), descriptor: None }).await;
        let (mut then, mut is_last) = (Then::GoesOn, true);
        while then == Then::GoesOn {
            let Some((said, next)) = say(&mut input, told, sockets) else { break };
            send(&mut stream, said).await;
            then = next;
            is_last = then != Then::MeetsAgain;
        }
        if is_last {
            lock = None;
        }
        let _ = stream.shutdown().await;
        let mut heard = Vec::new();
        // One that was asked to take over keeps the channel, to say that it has.
        let _ = timeout(if told.session.is_ending { PATIENCE / 10 } else { PATIENCE }, stream.read_to_end(&mut heard))
            .await;
        if told.is_unknown {
            break;
        }
        assert_eq!(brought(&heard), told.session.brings);
        if is_last {
            break;
        }
    }
    drop(lock);
    tokio::time::sleep(if told.can_serve && !told.is_unknown { SERVES_WITHIN } else { PATIENCE / 20 }).await;
}

/// Answers whatever is asked until a member is to be called, and calls it.
async fn meet(listener: &tokio::net::TcpListener) -> UnixStream {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let mut asked = [0; 2 + 14 + 16];
        if stream.read_exact(&mut asked).await.is_err() || stream.write_all(protocol::MEETING).await.is_err() {
            continue;
        }
        let name = asked[16..].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let address = SocketAddr::from_abstract_name(format!("embedded_epmd/{name}")).expect("a name");
        if let Ok(stream) = StdUnixStream::connect_addr(&address) {
            stream.set_nonblocking(true).expect("a socket");
            return UnixStream::from_std(stream).expect("a socket");
        }
    }
}

/// The names of the registrations that a follower has brought.
fn brought(mut heard: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    while let Some((length, rest)) = heard.split_first_chunk::<2>() {
        let (message, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
        heard = rest;
        if message[0] & !WITH_DESCRIPTOR == tags::MISSING {
            assert!(message[0] & WITH_DESCRIPTOR != 0, "it comes with its connection");
            let alive2 = &message[17 + LIFE.len()..];
            let name = &alive2[11..][..usize::from(u16::from_be_bytes([alive2[9], alive2[10]]))];
            names.push(String::from_utf8(name.to_vec()).expect("a name"));
        }
    }
    names
}

/// Sends a message with its length before it. The follower may have closed already.
async fn send(stream: &mut UnixStream, Said { mut message, descriptor }: Said) {
    if let (Some(_), Some(tag)) = (descriptor, message.first_mut()) {
        *tag |= WITH_DESCRIPTOR;
    }
    let bytes = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
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
        tokio::select! {
            biased;
            entries = fuzzing::inherited(sockets.port()) => Some(entries),
            () = own(bytes, &mut told, sockets) => None,
        }
    });
    match inherited {
        _ if told.is_unknown => {}
        Some(entries) => {
            assert!(told.can_serve, "it serves, and never stood by");
            let name = |name: &[u8]| String::from_utf8(name.to_vec()).expect("a name");
            let found = entries.iter().rev().map(|entry| Known {
                name: name(entry.name()),
                creation: entry.creation(),
                port: entry.port(),
            });
            assert_eq!(found.collect::<Vec<_>>(), told.inherited());
        }
        None => assert!(!told.can_serve, "it stood by, and does not serve"),
    }
});
