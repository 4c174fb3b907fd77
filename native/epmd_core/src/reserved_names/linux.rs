//! Asks Linux whose a connection is (sock_diag over netlink): for the sockets of both ends, by their addresses.
//!
//! The other one must be open: of one that was closed the kernel does not know the user any more, and says 0. Ours must be
//! this very connection, and is asked for last: so what was said is of it, and not of one that had the same addresses
//! before, or has them in another network namespace.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::net::{
    getpeername, getsockname, netlink, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};

use super::unknown::Unknown;
use crate::users::is_unmapped;

/// From linux/sock_diag.h and net/tcp_states.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCP_ESTABLISHED: u8 = 1;
const TCP_LISTEN: u8 = 10;
/// The length of `nlmsghdr`, and with `inet_diag_req_v2`.
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;
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
    answer(&reply[..length])
}

/// What the kernel says, `nlmsghdr` and `inet_diag_msg` or an error (sock_diag(7), netlink(7)).
fn answer(reply: &[u8]) -> Result<Option<Socket>, Errno> {
    let bytes = |from: usize| reply.get(from..from + 4)?.try_into().ok();
    let number = |from| bytes(from).map(u32::from_ne_bytes).ok_or(Errno::BADMSG);
    let kind = reply.get(4..6).ok_or(Errno::BADMSG)?;
    if kind == (libc::NLMSG_ERROR as u16).to_ne_bytes() {
        let error = (number(HEADER)? as i32).wrapping_neg();
        return match error {
            libc::ENOENT => Ok(None),
            1..=4095 => Err(Errno::from_raw_os_error(error)),
            _ => Err(Errno::BADMSG),
        };
    }
    if kind != SOCK_DIAG_BY_FAMILY.to_ne_bytes() {
        return Err(Errno::BADMSG);
    }
    let state = *reply.get(HEADER + 1).ok_or(Errno::BADMSG)?;
    let socket = Socket { user: number(HEADER + 64)?, inode: number(HEADER + 68)?, state };
    // Where it finds no such connection, it tells of who listens at the address.
    Ok((state != TCP_LISTEN).then_some(socket))
}

/// The question, `nlmsghdr` and `inet_diag_req_v2`.
fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    // A connection over IPv4 has addresses of IPv4, whatever its sockets call them.
    let (source_address, destination_address) = (local.ip().to_canonical(), remote.ip().to_canonical());
    let family = if source_address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut bytes = Vec::with_capacity(REQUEST);
    bytes.extend((REQUEST as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // A sequence number and a port number, neither of which matters here.
    bytes.extend([0; 8]);
    // No extensions, and every state.
    bytes.extend([family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend([0xff; 4]);
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    bytes.extend(octets(source_address));
    bytes.extend(octets(destination_address));
    bytes.extend(interface(local).to_ne_bytes());
    bytes.extend(ANY_COOKIE);
    bytes
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// Sockets with an address of one link only are bound to its interface.
fn interface(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn whatever_comes_in_place_of_a_socket_is_an_error() {
        let mut message = [0; 72];
        message[1] = TCP_ESTABLISHED;
        message[64..68].copy_from_slice(&1000_u32.to_ne_bytes());
        message[68..72].copy_from_slice(&77_u32.to_ne_bytes());
        let whole = reply(SOCK_DIAG_BY_FAMILY, &message);
        assert_eq!(answer(&whole), Ok(Some(Socket { user: 1000, inode: 77, state: TCP_ESTABLISHED })));
        for length in 0..whole.len() {
            assert_eq!(answer(&whole[..length]), Err(Errno::BADMSG), "{length} bytes");
        }
        message[1] = TCP_LISTEN;
        assert_eq!(answer(&reply(SOCK_DIAG_BY_FAMILY, &message)), Ok(None));
        assert_eq!(answer(&reply(SOCK_DIAG_BY_FAMILY + 1, &message)), Err(Errno::BADMSG));
        let error = |error: i32| answer(&reply(libc::NLMSG_ERROR as u16, &error.to_ne_bytes()));
        assert_eq!(error(-libc::ENOENT), Ok(None));
        assert_eq!(error(-libc::EPERM), Err(Errno::PERM));
        assert_eq!([error(0), error(7), error(i32::MIN)], [Err(Errno::BADMSG); 3]);
    }
}
