//! The replies to `NAMES_REQ` and `DUMP_REQ`: snapshots of the table, shared by all who ask for the same one at a time.

use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use crate::protocol;
use crate::registry::Registry;

/// Lines that are written before other peers get a turn.
const LINES_AT_ONCE: usize = 512;

/// The two listings of a server.
#[derive(Debug, Default)]
pub(crate) struct Listings {
    names: Latest,
    dump: Latest,
}

/// Which listing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Listing {
    Names,
    Dump,
}

/// The latest listing, for as long as somebody sends it, and the state of the table that it shows.
#[derive(Debug, Default)]
struct Latest(Mutex<(u64, Weak<Vec<u8>>)>);

impl Listings {
    /// The listing as of now or later. Who asks for one that is being written waits for that.
    pub(crate) async fn get(&self, which: Listing, registry: &Registry, port: u16) -> Arc<Vec<u8>> {
        let latest = match which {
            Listing::Names => &self.names,
            Listing::Dump => &self.dump,
        };
        let mut latest = latest.0.lock().await;
        let changes = registry.changes();
        if let Some(listing) = latest.1.upgrade().filter(|_| latest.0 == changes) {
            return listing;
        }
        let listing = Arc::new(write(which, registry, port).await);
        *latest = (changes, Arc::downgrade(&listing));
        listing
    }
}

async fn write(which: Listing, registry: &Registry, port: u16) -> Vec<u8> {
    let departed = match which {
        Listing::Names => Vec::new(),
        Listing::Dump => registry.departed(),
    };
    let entries = registry.entries();
    let mut out = protocol::listing_head(port);
    for nodes in entries.chunks(LINES_AT_ONCE) {
        for node in nodes {
            match which {
                Listing::Names => protocol::push_names_line(&mut out, node.name(), node.port()),
                Listing::Dump => protocol::push_dump_line(&mut out, node.name(), node.port(), node.descriptor()),
            }
        }
        if nodes.len() == LINES_AT_ONCE {
            tokio::task::yield_now().await;
        }
    }
    for left in &departed {
        protocol::push_departed_line(&mut out, &left.name, left.port, left.descriptor);
    }
    out
}
