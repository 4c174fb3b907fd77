//! The replies to `NAMES_REQ` and `DUMP_REQ`, written part by part while their client reads: whoever reads slowly, or not
//! at all, has one part in memory and no copy of the table.
//!
//! So a listing is of no single moment. A node that is registered all along is in it once, since nodes are walked by the
//! numbers of their registrations, and later ones have higher numbers.

use crate::protocol;
use crate::registry::Registry;

/// The length from which a part is sent. Its last line may exceed it.
const PART: usize = 16 * 1024;
/// How many lines are taken from the table at once.
const LINES_AT_ONCE: usize = 128;

/// Which listing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    Names,
    Dump,
}

/// A listing, and how far it is written.
#[derive(Debug)]
pub(crate) struct Listing {
    which: Which,
    next: Next,
}

/// What is to be written next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Head,
    /// The newest node whose registration has a smaller number than this.
    Node(u64),
    /// The name that left first of those whose departure has a higher number than this.
    Departed(u64),
    Nothing,
}

impl Listing {
    pub(crate) fn new(which: Which) -> Self {
        Self { which, next: Next::Head }
    }

    /// Replaces the last part by the next one. False if there is none.
    pub(crate) fn write(&mut self, part: &mut Vec<u8>, registry: &Registry, port: u16) -> bool {
        part.clear();
        while part.len() < PART {
            self.next = match self.next {
                Next::Head => {
                    part.extend(protocol::listing_head(port));
                    Next::Node(u64::MAX)
                }
                Next::Node(before) => self.write_nodes(part, registry, before),
                Next::Departed(after) => write_departed(part, registry, after),
                Next::Nothing => break,
            };
        }
        !part.is_empty()
    }

    fn write_nodes(&self, part: &mut Vec<u8>, registry: &Registry, before: u64) -> Next {
        let mut last = None;
        for node in registry.entries_before(before, LINES_AT_ONCE) {
            match self.which {
                Which::Names => protocol::push_names_line(part, node.name(), node.port()),
                Which::Dump => protocol::push_dump_line(part, node.name(), node.port(), node.descriptor()),
            }
            last = Some(node.id());
            if part.len() >= PART {
                break;
            }
        }
        match (last, self.which) {
            (Some(last), _) => Next::Node(last),
            (None, Which::Dump) => Next::Departed(0),
            (None, Which::Names) => Next::Nothing,
        }
    }
}

fn write_departed(part: &mut Vec<u8>, registry: &Registry, after: u64) -> Next {
    let mut last = None;
    for left in registry.tombstones_after(after, LINES_AT_ONCE) {
        protocol::push_departed_line(part, &left.name, left.port, left.descriptor);
        last = Some(left.number);
        if part.len() >= PART {
            break;
        }
    }
    last.map_or(Next::Nothing, Next::Departed)
}
