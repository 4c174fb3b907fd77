//! The replies to `NAMES_REQ` and `DUMP_REQ`: snapshots of the table, shared by clients that ask at the same time.

use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use crate::protocol;
use crate::registry::Registry;

/// Lines that are written before other tasks run.
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

/// The number of the table's changes, and the listing at that point as long as it is being sent.
#[derive(Debug, Default)]
struct Latest(Mutex<(u64, Weak<Vec<u8>>)>);

impl Listings {
    /// The listing of the table as it is now or later. Waits for one that is just being written.
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
        Listing::Dump => registry.tombstones(),
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
