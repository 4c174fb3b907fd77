//! Access to the handover for the fuzz targets only.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use tokio::sync::watch;

pub use super::message::tags;

use super::message::{self, Message};
use super::{follow, Candidate, HandOver, OwnerLock};
use crate::limits::Limits;
use crate::node::NodeName;
use crate::registry::{Entry, Registry};

/// Decodes the first message in these bytes and encodes it again.
pub fn encoded_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (message, _) = message::frame(bytes).ok()??;
    let has_descriptor = Message::has_descriptor(message);
    Message::decode(message).ok().map(|message| message.encode_with(has_descriptor))
}

/// Locks a listener as another owner would, until what is returned is dropped.
pub fn lock(listener: &TcpListener) -> impl fmt::Debug {
    OwnerLock::try_on(&[listener]).expect("a lock").expect("it is free")
}

/// Follows whatever acts as the owner of this port on 127.0.0.1 until it can serve. Returns the entries of the table that
/// it then has. Never returns if it cannot serve.
pub async fn inherited(port: u16) -> Vec<Arc<Entry>> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let name = format!("standby{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let (registry, holdings) = (Registry::default(), Arc::default());
    // They live as long as the follower.
    let node = watch::Sender::new(NodeName::new(name.as_bytes()).ok());
    let settings = watch::Sender::new(HandOver::default());
    let _takeover = follow(Candidate {
        owner: Box::new(move || SocketAddr::new(loopback, port)),
        joined: Arc::default(),
        addresses: vec![loopback],
        node: node.subscribe(),
        settings: settings.subscribe(),
        limits: Box::new(Limits::default),
        registry: registry.clone(),
        holdings: Arc::clone(&holdings),
        stands_by: Arc::default(),
        obstacle: super::Obstacle::default(),
        health: crate::health::Health::default(),
    })
    .await;
    let restored = registry.promote(holdings.lock().take_connections(None), None);
    let entries = registry.entries();
    drop(restored);
    entries
}
