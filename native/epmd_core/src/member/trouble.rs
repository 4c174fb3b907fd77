//! Failed attempts to bind or join: whether they may pass by themselves, and whether they were logged.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::time::Instant;

use super::settings::StartError;

/// How long an error that may pass is given to pass: nobody answers between the end of one owner and the start of the
/// next. After that it is reported with the next attempt, within two seconds.
const TRANSIENT_FOR: Duration = Duration::from_millis(1_500);
/// How long an owner that is ending may still accept connections without answering them.
const ENDS_WITHIN: Duration = Duration::from_millis(500);

/// The failed attempts since the last success.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    since: Option<Instant>,
    /// The last error logged, so that it is logged once.
    told: Option<String>,
}

impl Trouble {
    /// Shortens a pause, so that the next attempt still falls into the time in which the error may pass.
    pub(super) fn pause(&self, pause: Duration) -> Duration {
        let end = self.since.map(|since| since + TRANSIENT_FOR).filter(|end| *end > Instant::now());
        end.map_or(pause, |end| pause.min(end - Instant::now()))
    }

    /// Whether the failures have lasted longer than an owner takes to end.
    pub(super) fn persists(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= ENDS_WITHIN)
    }

    /// Records a failed attempt. Returns whether the error will not pass by itself.
    pub(super) fn lasts(&mut self, error: &StartError) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        !is_transient(error) || since.elapsed() >= TRANSIENT_FOR
    }

    /// Logs an error that does not pass, once.
    pub(super) fn tell(&mut self, error: &StartError) {
        let complaint = error.to_string();
        if self.told.as_ref() != Some(&complaint) {
            tracing::error!("{complaint}; trying again");
            self.told = Some(complaint);
        }
    }
}

/// Whether an error may only mean that an owner is ending or starting.
fn is_transient(error: &StartError) -> bool {
    match error {
        StartError::Open(_) | StartError::Lent(_) => false,
        StartError::NoRegistrations { .. } | StartError::Unanswered { .. } => true,
        StartError::Held { error, .. } => error.kind() == ErrorKind::ConnectionRefused || ended_unanswered(error),
    }
}

/// Whether the connection was closed without a reply.
pub(super) fn ended_unanswered(error: &std::io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
