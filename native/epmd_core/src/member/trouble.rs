//! What keeps a member from the port and from its owner: whether it passes by itself, and whether it was told.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::time::Instant;

use super::settings::StartError;

/// How long what may pass by itself is given to pass: between the end of one owner and the start of the next, there is
/// nobody to answer. Whatever does not pass is named within two seconds, the last attempt included.
const TRANSIENT_FOR: Duration = Duration::from_millis(1_500);
/// How long an owner that ends may still take connections, and answer none.
const ENDS_WITHIN: Duration = Duration::from_millis(500);
/// What an owner under load gets for its answer, also at the end of that time.
const LAST_ATTEMPT: Duration = Duration::from_millis(400);

/// The attempts that failed since the last that did not.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    since: Option<Instant>,
    /// The last complaint, so that it is made once.
    told: Option<String>,
}

impl Trouble {
    /// When the next attempt has taken too long.
    pub(super) fn deadline(&self) -> Instant {
        let now = Instant::now();
        self.end().map_or(now + TRANSIENT_FOR, |end| end.max(now + LAST_ATTEMPT))
    }

    /// A pause before the next attempt, which is not put off beyond the time in which this may pass.
    pub(super) fn pause(&self, pause: Duration) -> Duration {
        self.end().map_or(pause, |end| pause.min(end - Instant::now()))
    }

    /// Whether it has lasted for longer than the end of an owner takes.
    pub(super) fn persists(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= ENDS_WITHIN)
    }

    /// When it is no more taken for something that passes, if that is still to come.
    fn end(&self) -> Option<Instant> {
        self.since.map(|since| since + TRANSIENT_FOR).filter(|end| *end > Instant::now())
    }

    /// An attempt failed. Whether that will not pass by itself.
    pub(super) fn lasts(&mut self, error: &StartError) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        !is_transient(error) || since.elapsed() >= TRANSIENT_FOR
    }

    /// Says what does not pass, once.
    pub(super) fn tell(&mut self, error: &StartError) {
        let complaint = error.to_string();
        if self.told.as_ref() != Some(&complaint) {
            tracing::error!("{complaint}; trying again");
            self.told = Some(complaint);
        }
    }
}

/// Whether an error may say that an owner is just going or coming.
fn is_transient(error: &StartError) -> bool {
    match error {
        StartError::Open(_) | StartError::Lent(_) => false,
        StartError::NoRegistrations { .. } => true,
        StartError::Held { error, .. } => error.kind() == ErrorKind::ConnectionRefused || ended_unanswered(error),
    }
}

/// Whether a connection ended without an answer.
pub(super) fn ended_unanswered(error: &std::io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
