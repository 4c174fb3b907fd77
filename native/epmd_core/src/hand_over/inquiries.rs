//! Questions about the health of a follower's VM. However many wait for a report, the follower is asked once.

use std::collections::{BTreeMap, VecDeque};

use tokio::sync::oneshot;

use crate::health::{Question, Report};

/// What is asked of one follower, and who waits for its reports.
#[derive(Debug, Default)]
pub(super) struct Inquiries {
    unsent: VecDeque<Question>,
    waiting: BTreeMap<Question, Vec<oneshot::Sender<Report>>>,
}

impl Inquiries {
    /// Waits for the next report that answers this.
    pub(super) fn add(&mut self, question: Question) -> oneshot::Receiver<Report> {
        let (sender, receiver) = oneshot::channel();
        let waiting = self.waiting.entry(question).or_insert_with(|| {
            self.unsent.push_back(question);
            Vec::new()
        });
        // Those who have given up would add up while a follower hangs.
        waiting.retain(|sender| !sender.is_closed());
        waiting.push(sender);
        receiver
    }

    /// The next question to send.
    pub(super) fn next(&mut self) -> Option<Question> {
        self.unsent.pop_front()
    }

    /// Passes a report to those who wait for it. Returns whether it was asked for.
    pub(super) fn report(&mut self, report: Report) -> bool {
        if self.unsent.contains(&report.question()) {
            return false;
        }
        let Some(waiting) = self.waiting.remove(&report.question()) else { return false };
        for sender in waiting {
            // Who has given up does not hear it.
            let _ = sender.send(report);
        }
        true
    }
}
