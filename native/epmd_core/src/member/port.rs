//! How a member comes to the port: it opens it, or goes on with what the service manager has lent or kept.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use rustix::net::{shutdown, Shutdown};

use super::change_over::Event;
use super::handle::Move;
use super::serving::{Startup, Takeover};
use super::settings::StartError;
use super::{rendezvous, Member};
use crate::address::{self, addresses_of, Listeners, OpenError, Wanted};
use crate::hand_over::{self, Claim, Handoff, Kept, Owned, LISTENER};
use crate::reserve::Reserve;

impl Member {
    pub(super) async fn bind(&mut self) -> Event {
        let wanted = self.handle.wanted();
        let kept = self.kept.take();
        let bound = match self.passed_listeners(&wanted, kept.as_ref()) {
            Ok(None) => self.open(&wanted),
            Ok(Some(listeners)) => match self.claim(&wanted).await {
                Ok(claim) => Ok(self.begin(listeners, claim)),
                Err(Owned) => {
                    self.owner = Some(address::reachable(SocketAddr::new(wanted.first(), self.settings.port)));
                    Ok(Event::Taken)
                }
            },
            Err(error) => Err(OpenError { address: SocketAddr::new(wanted.first(), self.settings.port), error }),
        };
        if let Some(kept) = kept {
            self.resume_from_store(kept, bound.as_ref().is_ok_and(|event| *event == Event::Bound)).await;
        }
        bound.unwrap_or_else(|error| self.failed(StartError::Open(error)))
    }

    /// Listeners that this process has been passed, lent or kept. Those that are not wanted any more are shut, unless
    /// they are lent.
    fn passed_listeners(&self, wanted: &Wanted, kept: Option<&Kept>) -> io::Result<Option<Listeners>> {
        let port = self.settings.port;
        let lent = self.settings.service_manager.listeners()?;
        if !lent.is_empty() {
            return Ok(Some(Listeners::lent(lent, port)));
        }
        let is_wanted = |listener: &&TcpListener| {
            addresses_of(listener).iter().all(|address| wanted.addresses().any(|wanted| wanted == *address))
        };
        let (kept, others): (Vec<_>, Vec<_>) = kept.iter().flat_map(|kept| &kept.listeners).partition(is_wanted);
        for other in others {
            let _ = shutdown(other, Shutdown::Read);
        }
        let kept = kept.into_iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()?;
        Ok((!kept.is_empty()).then(|| Listeners::inherited(kept, wanted, port)))
    }

    /// Listeners that others have as well are served by whoever has the name of the owner.
    async fn claim(&self, wanted: &Wanted) -> Result<Option<Claim>, Owned> {
        let trusted = self.handle.hand_over.borrow().trusted.clone();
        rendezvous(wanted, self.settings.port).claim_unless_owned(&trusted).await
    }

    fn begin(&mut self, listeners: Listeners, claim: Option<Claim>) -> Event {
        self.startup = Some(Startup::Bound(listeners, claim));
        Event::Bound
    }

    /// Goes on with the table that was kept, if this member serves; else the store is emptied, and another serves.
    async fn resume_from_store(&mut self, kept: Kept, serves: bool) {
        let Kept { replica, stored, .. } = kept;
        match (self.startup.take(), replica) {
            (Some(Startup::Bound(listeners, claim)), Some(replica)) if serves => {
                tracing::info!(names = replica.len(), "going on with what the service manager kept");
                let handoff = Handoff { claim, replica, reserve: Reserve::new(), last_owner: None };
                self.startup = Some(Startup::Takeover(Box::new(Takeover::new(listeners, handoff, &self.handle, None))));
                self.stored = stored;
            }
            (startup, _) => {
                self.startup = startup;
                // What is served is kept anew, under the same names.
                let names: Vec<_> = stored.names.into_iter().filter(|name| !serves || name != LISTENER).collect();
                if let Some(Ok(notifier)) = self.settings.service_manager.notifier() {
                    hand_over::remove(&notifier, &names).await;
                }
            }
        }
    }

    /// Opens these addresses, or finds who has them.
    fn open(&mut self, wanted: &Wanted) -> Result<Event, OpenError> {
        match Listeners::open_all(wanted, self.settings.port) {
            Ok(listeners) => Ok(self.begin(listeners, None)),
            Err(error) if error.is_taken() => {
                self.owner = Some(error.holder());
                Ok(Event::Taken)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes another list of addresses for the one it has; what came of it, unless they cannot be listened on.
    pub(super) fn relocate(&mut self, Move { wanted, reply }: Move) -> Option<Event> {
        let opened = if wanted == *self.handle.wanted() {
            Ok(None)
        } else {
            address::check(&wanted, self.settings.port).and_then(|()| self.open(&wanted)).map(Some)
        };
        if let Ok(Some(_)) = opened {
            *self.handle.wanted.write() = Arc::new(wanted);
        }
        let (outcome, event) = match opened {
            Ok(event) => (Ok(()), event),
            Err(error) => (Err(error), None),
        };
        let _ = reply.send(outcome);
        event
    }
}
