//! Any bytes, in any pieces, over a connection that ends in any way, to a complete server.
//!
//! The first byte says how the connection ends and where the pieces are cut. Afterwards the server must still find a
//! node that was registered before, over a connection of its own, and that node's connection must still be open.

#![no_main]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use epmd_core::protocol::{self, Port2Reply};
use epmd_core::registry::Registry;
use epmd_core::{Limits, Listeners, Node, NodeName, Policy};
use libfuzzer_sys::fuzz_target;
use socket2::SockRef;

struct Target {
    address: SocketAddr,
    anchor: TcpStream,
    node: Node,
}

fn start() -> Target {
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let listeners = Listeners::open(&[loopback], 0).expect("a free port");
    let address = SocketAddr::new(loopback, listeners.port);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // Probes over HTTP are read as well.
        let policy = Policy { health: true, ..Policy::default() };
        let limits = Limits { deadline: Duration::from_millis(200), ..Limits::default() };
        let ended = runtime.block_on(epmd_core::serve(listeners, Registry::default(), policy, limits));
        panic!("the server ended: {ended:?}");
    });
    let node = Node::erlang(NodeName::new(b"anchor").expect("a name"), 4711);
    let mut anchor = TcpStream::connect(address).expect("a server");
    anchor.write_all(&protocol::alive2_request(&node)).expect("a server");
    anchor.read_exact(&mut [0; 6]).expect("a reply");
    anchor.set_nonblocking(true).expect("a socket");
    Target { address, anchor, node }
}

fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<Target> = OnceLock::new();
    let target = TARGET.get_or_init(start);
    let Some((mode, bytes)) = bytes.split_first() else { return };

    let mut stream = connect(target.address);
    // Each bit adds a cut: after the first, second or third byte, or in the middle.
    let cuts = [(4, 1), (8, 2), (16, 3), (32, bytes.len() / 2)].into_iter().filter(|(bit, _)| mode & bit != 0);
    let mut sent = 0;
    for at in cuts.map(|(_, at)| at).chain([bytes.len()]).filter(|at| *at <= bytes.len()) {
        if at > sent {
            // The server may have closed already.
            let _ = stream.write_all(&bytes[sent..at]);
            thread::yield_now();
            sent = at;
        }
    }
    match mode & 3 {
        0 => {
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
        1 => SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket"),
        2 => {
            stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
            let _ = stream.read(&mut [0; 16]);
        }
        _ => {}
    }
    drop(stream);

    let mut asking = connect(target.address);
    asking.write_all(&protocol::port_please2_request("anchor")).expect("the server takes a request");
    let mut reply = Vec::new();
    asking.read_to_end(&mut reply).expect("the server replies and closes");
    assert_eq!(reply, Port2Reply::new(&target.node).as_bytes());
    let open = (&target.anchor).read(&mut [0]);
    assert!(matches!(&open, Err(error) if error.kind() == ErrorKind::WouldBlock), "the anchor heard {open:?}");
});

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a server");
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a socket");
    stream
}
