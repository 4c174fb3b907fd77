//! Applies the messages of an owner to a copy of its table.

use super::message::Message;
use crate::registry::replica::{Impossible, Replica};
use crate::registry::NodeConnection;

/// Applies a message to the copy. Returns false for a message that is not about the table.
pub(super) fn follow(
    copy: &mut Replica,
    message: Message,
    connection: Option<NodeConnection>,
) -> Result<bool, Impossible> {
    match message {
        Message::Epoch { epoch, refusals } => copy.began(epoch, refusals),
        Message::Resumed(registrations) => copy.resumed(registrations),
        Message::Kept { id, connected } => copy.kept(id, connected)?,
        Message::Counters(counters) => copy.counted(counters)?,
        Message::Departed(departure) => copy.departed(departure)?,
        Message::Entered(entered) => copy.entered(entered.id, entered.creation, &entered.node, connection)?,
        Message::Left(id) => copy.left(id)?,
        Message::Refused(refusal) => copy.refused(refusal),
        // Only for members that mirror the table.
        Message::Settled => {}
        Message::Whole => copy.completed(),
        _ => return Ok(false),
    }
    Ok(true)
}
