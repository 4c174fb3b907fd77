//! Answers probes: about this VM, about one that follows it, and with this server's counters.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use tokio::time::timeout;

use super::exposition::{exposition, Numbers};
use super::handle::Handle;
use crate::hand_over::Links;
use crate::health::{Question, Report, PATIENCE};
use crate::node::NodeName;
use crate::server::{Asked, Examine, Response, Status};

/// Knows this VM and those that follow it.
#[derive(Clone)]
pub(super) struct Examiner {
    handle: Handle,
    followers: Links,
}

impl Examiner {
    pub(super) fn new(handle: Handle, followers: Links) -> Self {
        Self { handle, followers }
    }

    async fn respond(self, asked: Asked) -> Response {
        match asked {
            Asked::Metrics => Response::metrics(exposition(&self.numbers())),
            Asked::Health(question, None) => response(self.handle.health.report(question).await),
            Asked::Health(question, Some(name)) => self.respond_about(question, &name).await,
        }
    }

    async fn respond_about(&self, question: Question, name: &NodeName) -> Response {
        if self.handle.registry.find(name.as_str().as_bytes()).is_none() {
            return Response::not_found("no node of this name is registered");
        }
        if self.handle.node.borrow().as_ref() == Some(name) {
            return response(self.handle.health.report(question).await);
        }
        let Some(report) = self.followers.ask(name, question) else {
            return Response::not_found(
                "the VM of this node cannot be asked: it does not follow the owner of the port (see :hand_over)",
            );
        };
        match timeout(PATIENCE, report).await {
            Ok(Ok(report)) => response(report),
            Ok(Err(_)) => unavailable("the VM has just ended, or connects again"),
            Err(_) => unavailable(format!("the VM did not answer within {} ms", PATIENCE.as_millis())),
        }
    }

    fn numbers(&self) -> Numbers<'_> {
        let status = self.handle.status();
        Numbers {
            metrics: self.handle.metrics(),
            open: self.handle.open_connections(),
            names: self.handle.names(),
            role: status.role,
            role_changes: status.changes,
            standbys: status.standbys.len(),
            readiness: self.handle.health.readiness(),
            uptime: self.handle.uptime(),
        }
    }
}

impl Examine for Examiner {
    fn examine(&self, asked: Asked) -> Pin<Box<dyn Future<Output = Response> + Send>> {
        Box::pin(self.clone().respond(asked))
    }
}

/// The derived one would put the text forms of all that a member has into the library: 140 KB that nobody reads.
impl fmt::Debug for Examiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Examiner").finish_non_exhaustive()
    }
}

fn response(report: Report) -> Response {
    Response::text(if report.is_well() { Status::Ok } else { Status::Unavailable }, report.to_string())
}

fn unavailable(line: impl Into<String>) -> Response {
    Response::text(Status::Unavailable, line)
}
