//! Access to the hand-over for the fuzz targets only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use tokio::sync::watch;

pub use super::tags;

use super::message::{self, Message};
use super::{stand_by, Candidate, HandOver, Rendezvous};
use crate::limits::Limits;
use crate::node::NodeName;
use crate::registry::{Entry, Registry};

/// Decodes the first message in these bytes and encodes it again.
pub fn encoded_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (message, _) = message::frame(bytes).ok()??;
    Message::decode(message).ok().map(|message| message.encode())
}

/// Stands by for whatever acts as the owner of this port on 127.0.0.1 until it takes over. Returns the entries of the
/// table that it then has. Never returns if it cannot take over.
pub async fn inherited(port: u16) -> Vec<Arc<Entry>> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let name = format!("standby{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let (handoff, _listeners) = stand_by(Candidate {
        rendezvous: &Rendezvous::of(SocketAddr::new(loopback, port)),
        addresses: &[loopback],
        node: NodeName::new(name.as_bytes()).ok(),
        settings: watch::Sender::new(HandOver::default()).subscribe(),
        limits: &Limits::default,
        whole: &watch::Sender::new(false),
    })
    .await;
    let registry = Registry::default();
    let (contents, restored) = handoff.replica.restore(&registry, None);
    registry.adopt(contents, Default::default(), 0);
    let entries = registry.entries();
    drop(restored);
    entries
}
