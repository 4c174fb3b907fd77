//! Asks the kernel for a TCP socket of this network namespace by its addresses (sock_diag over netlink).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload, NLM_F_REQUEST};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_ESTABLISHED, TCP_LISTEN};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::SockDiagMessage;
use rustix::io::Errno;
use rustix::net::{netlink, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// More than the kernel says of a socket.
const REPLY: usize = 1024;
/// Instead of the number by which the kernel would know the socket.
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// A way to ask, for a moment.
#[derive(Debug)]
pub(super) struct Kernel(OwnedFd);

/// A socket, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    /// Who made it.
    pub(super) user: u32,
    /// Its number; 0 when no process has it any more.
    pub(super) inode: u32,
    state: u8,
}

impl Socket {
    pub(super) fn is_open(&self) -> bool {
        self.state == TCP_ESTABLISHED && self.inode != 0
    }
}

impl Kernel {
    pub(super) fn open() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?))
    }

    /// The socket with this address that is connected to that one.
    pub(super) fn find(&self, local: SocketAddr, remote: SocketAddr) -> Result<Option<Socket>, Errno> {
        send(&self.0, &request(local, remote), SendFlags::empty())?;
        let mut reply = [0; REPLY];
        // The kernel has answered when it has the question.
        let (length, _) = recv(&self.0, &mut reply, RecvFlags::empty())?;
        match NetlinkMessage::deserialize(&reply[..length]).map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response))) => {
                let found = response.header;
                let socket = Socket { user: found.uid, inode: found.inode, state: found.state };
                // Where it finds no such connection, it tells of who listens at the address.
                Ok((found.state != TCP_LISTEN).then_some(socket))
            }
            Ok(NetlinkPayload::Error(error)) => match Errno::from_raw_os_error(-error.raw_code()) {
                Errno::NOENT => Ok(None),
                error => Err(error),
            },
            _ => Err(Errno::BADMSG),
        }
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
