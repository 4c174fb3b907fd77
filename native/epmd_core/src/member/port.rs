//! How a member gets the port: opens it, or uses listeners that the service manager has passed or stored.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::change_over::Event;
use super::handle::Move;
use super::serving::{Origin, Startup};
use super::settings::StartError;
use super::Member;
use crate::address::{self, addresses_of, Listeners, OpenError, Wanted};
use crate::hand_over::OwnerLock;
use crate::os;
use crate::service_manager::{self, Item, Kept};

impl Member {
    pub(super) async fn bind(&mut self) -> Event {
        let wanted = self.handle.wanted();
        let mut kept = self.kept.take();
        let (passed, unwanted) = match self.passed_listeners(&wanted, kept.as_mut()) {
            Ok(passed) => passed,
            Err(error) => {
                let address = SocketAddr::new(wanted.first(), self.settings.port);
                return self.failed(StartError::Open(OpenError { address, error }));
            }
        };
        let bound = match passed {
            // Other processes may have these listeners as well.
            Some(listeners) => Ok(self.begin(listeners, &wanted)),
            None => self.open(&wanted),
        };
        let serves = bound.as_ref().is_ok_and(|event| *event == Event::Bound);
        if serves {
            // Nobody serves them any more.
            for listener in unwanted {
                let _ = os::end_listener(listener);
            }
        }
        if let Some(kept) = kept {
            self.resume_from_store(kept, serves).await;
        }
        bound.unwrap_or_else(|error| self.failed(StartError::Open(error)))
    }

    /// Listeners of a socket unit, or else from the store; and stored listeners that are not wanted any more.
    fn passed_listeners(
        &self,
        wanted: &Wanted,
        kept: Option<&mut Kept>,
    ) -> io::Result<(Option<Listeners>, Vec<TcpListener>)> {
        let port = self.settings.port;
        let lent = self.settings.service_manager.listeners()?;
        if !lent.is_empty() {
            return Ok((Some(Listeners::lent(lent, port)), Vec::new()));
        }
        let is_wanted = |listener: &TcpListener| {
            addresses_of(listener).iter().all(|address| wanted.addresses().any(|wanted| wanted == *address))
        };
        // They are moved, not copied: to close a copy would end the lock.
        let kept = kept.map(|kept| std::mem::take(&mut kept.listeners)).unwrap_or_default();
        let (kept, unwanted): (Vec<_>, Vec<_>) = kept.into_iter().partition(is_wanted);
        Ok(((!kept.is_empty()).then(|| Listeners::inherited(kept, wanted, port)), unwanted))
    }

    /// Begins to serve these listeners, unless another process does.
    fn begin(&mut self, listeners: Listeners, wanted: &Wanted) -> Event {
        let lock = match os::can_end_listeners().then(|| OwnerLock::try_on(&listeners.sockets)) {
            Some(Ok(None)) => {
                // The first one wanted may not exist here.
                let first = listeners.addresses().first().copied().unwrap_or(wanted.first());
                self.owner = Some(address::reachable(SocketAddr::new(first, self.settings.port)));
                self.refused = None;
                return Event::Taken;
            }
            Some(Ok(lock)) => lock,
            Some(Err(error)) => {
                tracing::warn!(%error, "nobody can stand by for this owner: listeners cannot be locked on this system");
                None
            }
            None => None,
        };
        self.startup = Some(Startup::new(listeners, lock, Origin::Bound));
        Event::Bound
    }

    /// Takes over the stored table if this member serves. Otherwise another process serves, and the store is emptied.
    async fn resume_from_store(&mut self, mut kept: Kept, serves: bool) {
        if serves && kept.restore(&self.handle.registry, &mut self.holdings.lock()) {
            tracing::info!(names = self.handle.registry.len(), "going on with what the service manager kept");
            if let Some(startup) = &mut self.startup {
                startup.origin = Origin::Restored;
            }
            self.stored = kept.stored;
            return;
        }
        // The listeners are stored anew under the same name.
        let items: Vec<_> = kept.stored.items.into_iter().filter(|item| !serves || *item != Item::Listener).collect();
        if let Some(Ok(notifier)) = self.settings.service_manager.notifier() {
            service_manager::remove(&notifier, items).await;
        }
    }

    /// Opens these addresses, or finds the owner that has them.
    fn open(&mut self, wanted: &Wanted) -> Result<Event, OpenError> {
        match Listeners::open_all(wanted, self.settings.port) {
            Ok(listeners) => Ok(self.begin(listeners, wanted)),
            Err(error) if error.is_taken() => {
                self.owner = Some(error.holder());
                self.refused = Some(error.address);
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
            *self.handle.wanted.write() = std::sync::Arc::new(wanted);
        }
        let (outcome, event) = match opened {
            Ok(event) => (Ok(()), event),
            Err(error) => (Err(error), None),
        };
        let _ = reply.send(outcome);
        event
    }
}
