//! How a member gets the port: opens it, or uses listeners that the service manager has passed or stored.

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

    /// Listeners of a socket unit, or else from the store. Stored listeners that are not wanted any more are shut.
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

    /// Other processes may have these listeners as well. The one that claims the owner's name serves them.
    async fn claim(&self, wanted: &Wanted) -> Result<Option<Claim>, Owned> {
        let trusted = self.handle.hand_over.borrow().trusted.clone();
        rendezvous(wanted, self.settings.port).claim_unless_owned(&trusted).await
    }

    fn begin(&mut self, listeners: Listeners, claim: Option<Claim>) -> Event {
        self.startup = Some(Startup::Bound(listeners, claim));
        Event::Bound
    }

    /// Takes over the stored table if this member serves. Otherwise another process serves, and the store is emptied.
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
                // The listeners are stored anew under the same name.
                let names: Vec<_> = stored.names.into_iter().filter(|name| !serves || name != LISTENER).collect();
                if let Some(Ok(notifier)) = self.settings.service_manager.notifier() {
                    hand_over::remove(&notifier, &names).await;
                }
            }
        }
    }

    /// Opens these addresses, or finds the owner that has them.
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

    /// Changes the addresses of a member that does not serve. Returns what to do next, if anything.
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
