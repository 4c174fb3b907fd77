//! One peer: its request, read within a deadline, and the reply.
//!
//! A request that has arrived when the connection is accepted is answered at once. Only a connection that has to wait
//! becomes a task.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream as StdStream};
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fd::AsFd;
use rustix::net::sockopt::{set_socket_linger, set_socket_send_buffer_size};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at, Instant};

use super::access::Origin;
use super::connections::Slot;
use super::listing::{Listing, Which};
use super::probe;
use super::shared::Shared;
use super::sources::Source;
use crate::metrics::Metrics;
use crate::node::{Node, NodeName};
use crate::os;
use crate::protocol::{self, Request, INBOX};
use crate::registry::{Entry, Holder, Known, NodeConnection, Past, Planned, Registration, Series, NAME_TAKEN};

/// How long to wait for a taken name before its new holder is refused: the end of a node that was just stopped may not
/// have been noticed yet. A live holder keeps its name.
const GRACE: Duration = Duration::from_millis(300);
/// How long a peer may take to read its last reply.
const LINGER: Duration = Duration::from_secs(1);
/// How many bytes of a listing the kernel takes for a peer that does not read.
const LISTING_AHEAD: usize = 64 * 1024;

/// The bytes of a request that have arrived.
#[derive(Debug)]
pub(crate) struct Inbox {
    bytes: Box<[u8]>,
    filled: usize,
}

/// The connection has ended, or what it sent is no request.
#[derive(Debug)]
struct Ended;

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; INBOX].into(), filled: 0 }
    }

    /// What has arrived so far.
    fn arrived(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Reads once. Returns the request when it is whole, `None` while it is not.
    fn read(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> Result<Option<&[u8]>, Ended> {
        let wanted = protocol::wanted(&self.bytes[..self.filled]);
        match read(&mut self.bytes[self.filled..self.filled + wanted]) {
            Ok(0) => return Err(Ended),
            Ok(read) => self.filled += read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(None),
            Err(_) => return Err(Ended),
        }
        protocol::frame(&self.bytes[..self.filled]).map_err(|_| Ended)
    }
}

/// What to do about a request.
enum Answer {
    /// Close without a reply.
    Nothing,
    Reply(Reply),
    /// Reply once the name is registered, or certainly is not.
    Await(Box<[u8]>),
    List(Which),
    /// A node, and the user who registers it.
    Register(Node, Option<u32>),
    Refuse {
        highest_version: u16,
    },
    /// Plan one of these ports for a node.
    Plan(NodeName, RangeInclusive<u16>),
}

enum Reply {
    Fixed(&'static [u8]),
    Found(Arc<Entry>),
}

impl Reply {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Found(entry) => entry.reply().as_bytes(),
        }
    }
}

/// What is left to do for a peer that could not be served at once.
enum Pending {
    Read(Inbox),
    /// Read the rest of a request over HTTP that begins so, and respond.
    Probe(Vec<u8>),
    Write {
        reply: Reply,
        written: usize,
    },
    Do(Answer),
}

/// Serves a peer at once if its request has arrived and the reply fits into its socket, else in a task.
pub(crate) fn serve(shared: &Arc<Shared>, stream: StdStream, peer: SocketAddr, inbox: &mut Inbox) {
    inbox.filled = 0;
    let pending = match inbox.read(|room| (&stream).read(room)) {
        Err(Ended) => match probe::begun(shared, inbox.arrived(), peer, &stream) {
            Some(head) => Pending::Probe(head),
            None => return,
        },
        Ok(None) => Pending::Read(std::mem::replace(inbox, Inbox::new())),
        Ok(Some(frame)) => match answer(shared, frame, peer, &stream) {
            Answer::Nothing => return,
            Answer::Reply(reply) => match (&stream).write(reply.as_bytes()) {
                Ok(written) if written == reply.as_bytes().len() => return,
                Ok(written) => Pending::Write { reply, written },
                Err(error) if error.kind() == ErrorKind::WouldBlock => Pending::Write { reply, written: 0 },
                Err(_) => return,
            },
            Answer::Register(node, user) => {
                if shared.registry.find(node.name.as_str().as_bytes()).is_none() {
                    return register(shared, stream, peer, &node, user);
                }
                Pending::Do(Answer::Register(node, user))
            }
            answer => Pending::Do(answer),
        },
    };
    let limits = shared.limits();
    let deadline = Instant::now() + limits.deadline;
    let user = || match &pending {
        Pending::Do(Answer::Register(_, user)) => *user,
        _ => shared.kernel.user_of(&stream).ok(),
    };
    let source = Source::of(Origin::from_connection(peer, &stream), user);
    shared.connections.spawn_waiting(source, &limits, |slot| {
        let shared = Arc::clone(shared);
        async move { run(&shared, stream, peer, pending, deadline, slot).await }
    });
    shared.refill_reserve();
}

async fn run(shared: &Shared, stream: StdStream, peer: SocketAddr, pending: Pending, deadline: Instant, slot: Slot) {
    let Ok(mut stream) = TcpStream::from_std(stream) else { return };
    let node = timeout_at(deadline, converse(shared, &mut stream, peer, pending)).await;
    // A registered node is not a waiting connection.
    drop(slot);
    if let (Ok(Some((node, user))), Ok(stream)) = (node, stream.into_std()) {
        register(shared, stream, peer, &node, user);
    }
}

/// Reads the request if need be, and replies. Returns a node that is to be registered, and its user.
async fn converse(
    shared: &Shared,
    stream: &mut TcpStream,
    peer: SocketAddr,
    pending: Pending,
) -> Option<(Node, Option<u32>)> {
    let answer = match pending {
        Pending::Do(answer) => answer,
        Pending::Write { reply, written } => {
            stream.write_all(&reply.as_bytes()[written..]).await.ok()?;
            return None;
        }
        Pending::Probe(head) => {
            respond(shared, stream, head, peer).await;
            return None;
        }
        Pending::Read(mut inbox) => loop {
            stream.readable().await.ok()?;
            match inbox.read(|room| stream.try_read(room)) {
                Err(Ended) => {
                    let head = probe::begun(shared, inbox.arrived(), peer, &*stream)?;
                    respond(shared, stream, head, peer).await;
                    return None;
                }
                Ok(None) => {}
                Ok(Some(frame)) => break answer(shared, frame, peer, &*stream),
            }
        },
    };
    match answer {
        Answer::Nothing => None,
        Answer::Reply(reply) => {
            stream.write_all(reply.as_bytes()).await.ok()?;
            None
        }
        Answer::Await(name) => {
            let reply = looked_up(shared.metrics(), peer, &name, shared.registry.find_when_settled(&name).await);
            stream.write_all(reply.as_bytes()).await.ok()?;
            None
        }
        Answer::List(listing) => {
            list(shared, stream, listing).await.ok()?;
            None
        }
        Answer::Refuse { highest_version } => {
            refuse(stream, highest_version).await;
            None
        }
        Answer::Plan(name, ports) => {
            let reply = planned(shared, peer, &name, ports).await;
            stream.write_all(&reply).await.ok()?;
            None
        }
        Answer::Register(node, user) => {
            if is_free(shared, &node.name).await {
                return Some((node, user));
            }
            tell_refused(shared, peer, &node, NAME_TAKEN);
            refuse(stream, node.highest_version).await;
            None
        }
    }
}

fn answer(shared: &Shared, frame: &[u8], peer: SocketAddr, connection: impl AsFd) -> Answer {
    let metrics = shared.metrics();
    let Ok(request) = Request::decode(frame) else {
        metrics.malformed.count();
        tracing::debug!(%peer, "not a request");
        return Answer::Nothing;
    };
    let origin = Origin::from_connection(peer, connection.as_fd());
    let policy = &shared.settings.read().policy;
    if let Some(reason) = policy.refuses(&request, origin) {
        metrics.not_permitted.count();
        if matches!(request, Request::Names) && !policy.remote_names {
            shared.listing_refused.call_once(|| {
                tracing::warn!(%peer, "another host may not list the nodes of this one, unless remote_names is set");
            });
        }
        tracing::debug!(%peer, %request, %reason, "not permitted");
        return Answer::Nothing;
    }
    if !matches!(request, Request::PortPlease2(_) | Request::Alive2 { .. }) {
        tracing::trace!(%peer, %request, "request");
    }
    match request {
        Request::PortPlease2(name) => match shared.registry.look_up(name.as_bytes()) {
            Known::Registered(entry) => Answer::Reply(looked_up(metrics, peer, name.as_bytes(), Some(entry))),
            Known::Unsettled if NodeName::new(name.as_bytes()).is_ok() => {
                tracing::trace!(%peer, ?name, "lookup waits, since nodes of the last owner may register again");
                Answer::Await(name.as_bytes().into())
            }
            Known::Missing | Known::Unsettled => Answer::Reply(looked_up(metrics, peer, name.as_bytes(), None)),
        },
        Request::Alive2 { node: Ok(node), highest_version } => {
            let user = shared.kernel.user_of(connection.as_fd());
            match policy.reserved_names.admit(&node.name, user) {
                Ok(()) => Answer::Register(node, user.ok()),
                Err(not_theirs) => {
                    tell_refused(shared, peer, &node, not_theirs.to_string());
                    Answer::Refuse { highest_version }
                }
            }
        }
        Request::Alive2 { node: Err(reason), highest_version } => {
            metrics.refused.count();
            shared.registry.refuse("", "the request is not valid");
            tracing::warn!(%peer, ?reason, "registration refused");
            Answer::Refuse { highest_version }
        }
        Request::Names => {
            metrics.names.count();
            Answer::List(Which::Names)
        }
        Request::Dump => {
            metrics.dump.count();
            Answer::List(Which::Dump)
        }
        Request::Kill => {
            metrics.kill.count();
            if policy.relaxed {
                shared.registry.stop_all();
            }
            let killed = policy.relaxed || shared.registry.is_empty();
            Answer::Reply(Reply::Fixed(if killed { protocol::KILLED } else { protocol::NOT_KILLED }))
        }
        Request::Meet(name) if shared.meet(name) => Answer::Reply(Reply::Fixed(protocol::MEETING)),
        Request::Meet(_) => Answer::Nothing,
        Request::Plan(name, ports) => Answer::Plan(name, ports),
        Request::Stop(name) => {
            metrics.stop.count();
            let stopped = shared.registry.stop(name);
            Answer::Reply(Reply::Fixed(if stopped { protocol::STOPPED } else { protocol::NOT_STOPPED }))
        }
    }
}

fn looked_up(metrics: &Metrics, peer: SocketAddr, name: &[u8], found: Option<Arc<Entry>>) -> Reply {
    match found {
        Some(entry) => {
            metrics.found.count();
            tracing::trace!(%peer, name = %String::from_utf8_lossy(name), port = entry.port(), "lookup: found");
            Reply::Found(entry)
        }
        None => {
            metrics.not_found.count();
            tracing::trace!(%peer, name = ?String::from_utf8_lossy(name), "lookup: no such name is registered");
            Reply::Fixed(protocol::NOT_FOUND)
        }
    }
}

/// The reply to a node that asks for its port.
async fn planned(shared: &Shared, peer: SocketAddr, name: &NodeName, ports: RangeInclusive<u16>) -> Vec<u8> {
    if !is_free(shared, name).await {
        return protocol::NAME_REGISTERED.into();
    }
    let Planned { port, stepped_over } = shared.registry.plan(name, ports);
    tracing::debug!(%peer, name = name.as_str(), ?port, ?stepped_over, "port planned");
    protocol::plan_reply(port.unwrap_or(0), stepped_over.unwrap_or(0))
}

fn tell_refused(shared: &Shared, peer: SocketAddr, node: &Node, reason: impl Into<Cow<'static, str>>) {
    let (name, reason) = (node.name.as_str(), reason.into());
    shared.metrics().refused.count();
    tracing::warn!(%peer, %name, reason = &*reason, "registration refused");
    shared.registry.refuse(name, reason);
}

/// Whether a name is free, or becomes free within [`GRACE`].
async fn is_free(shared: &Shared, name: &NodeName) -> bool {
    let name = name.as_str().as_bytes();
    if let Some(holder) = shared.registry.find(name) {
        // Meanwhile the holder's task notices if its connection has ended.
        let _ = timeout(GRACE, shared.registry.ended(&holder)).await;
    }
    shared.registry.find(name).is_none()
}

/// Registers a node whose name is free, and tells it.
fn register(shared: &Shared, stream: StdStream, peer: SocketAddr, node: &Node, user: Option<u32>) {
    if shared.registry.is_closed() {
        return;
    }
    if let Some(reason) = shared.lacks_room_for(&node.name, user) {
        return tell_refused(shared, peer, node, reason);
    }
    // The reserve is for lookups; a node would keep a descriptor of it. So another connection gives way.
    if !shared.reserve.is_whole() && !shared.connections.close_waiting(Duration::ZERO) {
        return tell_refused(shared, peer, node, "out of descriptors");
    }
    let Ok(connection) = os::watch(stream).map(Arc::new) else { return };
    let holder = Holder::Connection(Arc::downgrade(&connection) as Weak<_>);
    let Ok(registration) = shared.registry.register(node, user, holder) else { return };
    shared.metrics().granted.count();
    tracing::debug!(%peer, name = %node.name.as_str(), port = node.port, "registered");
    if confirm(&registration, &connection) {
        shared.connections.spawn_registered(shared.limits().descriptors(), |slot| hold(connection, registration, slot));
    }
}

/// Tells a node that it is registered. Returns whether the reply is sent.
pub(crate) fn confirm(registration: &Registration, connection: &NodeConnection) -> bool {
    let (highest_version, _) = registration.entry().reply().versions();
    let reply = protocol::alive2_reply(highest_version, Some(registration.creation()));
    connection.get_ref().write(&reply).is_ok_and(|written| written == reply.len())
}

/// Sends a listing. One that is not sent to its end, for whatever reason, ends with a reset: so that nobody takes a part
/// for the whole, and the kernel keeps nothing for a peer that does not read.
async fn list(shared: &Shared, stream: &mut TcpStream, which: Which) -> io::Result<()> {
    set_socket_send_buffer_size(&stream, LISTING_AHEAD)?;
    set_socket_linger(&stream, Some(Duration::ZERO))?;
    let (mut listing, mut part) = (Listing::new(which), Vec::new());
    while listing.write(&mut part, &shared.registry, shared.port) {
        stream.write_all(&part).await?;
        // Others have their turn.
        tokio::task::yield_now().await;
    }
    Ok(set_socket_linger(&stream, None)?)
}

async fn refuse(stream: &mut TcpStream, highest_version: u16) {
    finish(stream, &protocol::alive2_reply(highest_version, None)).await;
}

async fn respond(shared: &Shared, stream: &mut TcpStream, head: Vec<u8>, peer: SocketAddr) {
    if let Ok(response) = probe::answer(shared, stream, head, peer).await {
        finish(stream, &response.encode()).await;
    }
}

/// Sends a last reply, and waits until it has been read: closing earlier, with bytes of the peer unread, would discard it.
async fn finish(stream: &mut TcpStream, reply: &[u8]) {
    if stream.write_all(reply).await.is_ok() && stream.shutdown().await.is_ok() {
        let _ = timeout(LINGER, ended(stream)).await;
    }
}

/// Holds a registration until its connection ends. Any byte received ends it too, as in OTP's daemon.
pub(crate) async fn hold(connection: NodeConnection, registration: Registration, _slot: Slot) {
    let was_closed = tokio::select! {
        () = os::ended(&connection) => true,
        () = registration.ended() => false,
    };
    let entry = Arc::clone(registration.entry());
    if let Some(past) = registration.end().filter(|_| was_closed) {
        tell_ended(&entry, past);
    }
    // Closing alone would not end the connection while a standby has a copy.
    let _ = connection.get_ref().shutdown(Shutdown::Both);
}

/// Logs the end of a registration; with a warning if the name comes and goes.
fn tell_ended(entry: &Entry, past: Past) {
    let name = String::from_utf8_lossy(entry.name());
    let lasted = past.lasted() as f64 / 1000.0;
    let Series { times, since } = past.series;
    // The 2nd time, the 4th, the 8th: a loop that goes on for hours must not fill the log.
    if times > 1 && times.is_power_of_two() {
        let within = past.left.saturating_sub(since).div_ceil(1000);
        tracing::warn!(
            %name, lasted = %format_args!("{lasted:.1} s"), times, within = %format_args!("{within} s"),
            "a node was unregistered right after it had registered, again: look at its log and its erl_crash.dump"
        );
    } else {
        tracing::debug!(%name, lasted = %format_args!("{lasted:.1} s"), times, "unregistered");
    }
}

/// Waits for the end of a connection, and discards what it receives.
async fn ended(stream: &TcpStream) {
    let mut bytes = [0; 64];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(1..) => {}
            _ => break,
        }
    }
}
