//! The port of a node whose EPMD keeps no plan.

use epmd_core::registry::{self, Planned};
use epmd_core::NodeName;
use rustler::Binary;

/// The port of this range that a node is to listen on, and a port that was stepped over; 0 where there is none. `nodes`
/// are the ports of registered nodes, `left` names that left, with their ports.
#[rustler::nif(schedule = "DirtyIo")]
fn plan(
    name: &str,
    (first, last): (u16, u16),
    nodes: Vec<u16>,
    left: Vec<(Binary<'_>, u16)>,
) -> Result<(u16, u16), rustler::Error> {
    let name = NodeName::new(name.as_bytes()).map_err(|_| rustler::Error::BadArg)?;
    let left = left.iter().map(|(name, port)| (name.as_slice(), *port));
    let Planned { port, stepped_over } = registry::plan(&name, first..=last, &nodes, left);
    Ok((port.unwrap_or(0), stepped_over.unwrap_or(0)))
}
