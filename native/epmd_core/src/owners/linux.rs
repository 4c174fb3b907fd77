//! Asks Linux whose a connection is (sock_diag over netlink): for the sockets of both ends, by their addresses.
//!
//! The other one must be open: of one that was closed the kernel does not know the user any more, and says 0. Ours must be
//! this very connection, and is asked for last: so what was said is of it, and not of one that had the same addresses
//! before, or has them in another network namespace.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload, NLM_F_REQUEST};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_ESTABLISHED, TCP_LISTEN};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::SockDiagMessage;
use parking_lot::Mutex;
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::net::{
    getpeername, getsockname, netlink, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};

use super::unknown::Unknown;
use crate::users::is_unmapped;

/// More than the kernel says of a socket.
const REPLY: usize = 1024;
/// Instead of the number by which the kernel would know the socket.
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// A way to ask the kernel. It stays open, since opening it costs as much as both questions.
#[derive(Debug)]
pub(crate) struct Kernel(Mutex<Option<OwnedFd>>);

impl Kernel {
    /// Opens it, if that is allowed here.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(open().ok()))
    }

    /// The user at the other end of a connection. Does not wait.
    pub(crate) fn user_of(&self, connection: impl AsFd) -> Result<u32, Unknown> {
        let (own, peer) = ends(&connection).ok_or(Unknown::Closed)?;
        let inode = fstat(&connection).map_err(Unknown::Unasked)?.st_ino;
        let (theirs, ours) = self.find(own, peer).map_err(Unknown::Unasked)?;
        judge(theirs, ours, inode)
    }

    /// The sockets of the other end and of ours, in this order.
    fn find(&self, own: SocketAddr, peer: SocketAddr) -> Result<(Option<Socket>, Option<Socket>), Errno> {
        let mut socket = self.0.lock();
        let asked = match socket.take() {
            Some(socket) => socket,
            None => open()?,
        };
        let found = (find(&asked, peer, own)?, find(&asked, own, peer)?);
        // After an error it is not used again: a late reply would be taken for that to the next question.
        *socket = Some(asked);
        Ok(found)
    }
}

fn judge(theirs: Option<Socket>, ours: Option<Socket>, inode: u64) -> Result<u32, Unknown> {
    match (theirs, ours) {
        (_, None) => Err(Unknown::NotHere),
        (_, Some(ours)) if u64::from(ours.inode) != inode => Err(Unknown::NotHere),
        (None, _) => Err(Unknown::Elsewhere),
        (Some(theirs), Some(ours)) if !theirs.is_open() || !ours.is_open() => Err(Unknown::Closed),
        (Some(theirs), _) if is_unmapped(theirs.user) => Err(Unknown::Unmapped),
        (Some(theirs), _) => Ok(theirs.user),
    }
}

/// The addresses of our end and of the other one.
fn ends(connection: impl AsFd) -> Option<(SocketAddr, SocketAddr)> {
    let own = getsockname(&connection).ok()?.try_into().ok()?;
    Some((own, getpeername(&connection).ok()??.try_into().ok()?))
}

/// A socket, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    /// Who made it.
    user: u32,
    /// Its number; 0 when no process has it any more.
    inode: u32,
    state: u8,
}

impl Socket {
    fn is_open(&self) -> bool {
        self.state == TCP_ESTABLISHED && self.inode != 0
    }
}

fn open() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))
}

/// The socket with this address that is connected to that one.
fn find(kernel: &OwnedFd, local: SocketAddr, remote: SocketAddr) -> Result<Option<Socket>, Errno> {
    send(kernel, &request(local, remote), SendFlags::empty())?;
    let mut reply = [0; REPLY];
    // The kernel has answered when it has the question.
    let (length, _) = recv(kernel, &mut reply, RecvFlags::empty())?;
    match NetlinkMessage::deserialize(&reply[..length]).map(|message| message.payload) {
        Ok(NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response))) => {
            let found = response.header;
            let socket = Socket { user: found.uid, inode: found.inode, state: found.state };
            // Where it finds no such connection, it tells of who listens at the address.
            Ok((found.state != TCP_LISTEN).then_some(socket))
        }
        Ok(NetlinkPayload::Error(error)) => match Errno::from_io_error(&error.to_io()) {
            Some(Errno::NOENT) => Ok(None),
            error => Err(error.unwrap_or(Errno::BADMSG)),
        },
        _ => Err(Errno::BADMSG),
    }
}

fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    // A connection over IPv4 has addresses of IPv4, whatever its sockets call them.
    let (source_address, destination_address) = (local.ip().to_canonical(), remote.ip().to_canonical());
    let socket_id = SocketId {
        source_port: local.port(),
        destination_port: remote.port(),
        source_address,
        destination_address,
        interface_id: interface(local),
        cookie: ANY_COOKIE,
    };
    let question = InetRequest {
        family: if source_address.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(question).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Sockets with an address of one link only are bound to its interface.
fn interface(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}
