//! What the service manager gives to this process, by the rules of sd_listen_fds(3): listeners of a socket unit, and
//! what an earlier life of the service has left in its store.
//!
//! The variables are those that the process was started with, also where the VM has unset them for its children since.

mod filling;
mod item;
mod keeper;
mod left;
mod notifier;
mod restored;
mod store;
mod table;
mod witness;
mod young;

use std::env;
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fd::{BorrowedFd, OwnedFd, RawFd};
use socket2::SockRef;

use crate::address::{self, Wanted};
use crate::os;

pub(crate) use item::Item;
pub(crate) use keeper::{Keeper, StoreSender, StoreState};
use notifier::Notifier;
pub(crate) use restored::{Kept, Stored};
pub(crate) use store::remove;

/// A descriptor from the store, and its name.
type Named = (String, OwnedFd);

/// The first descriptor that is passed.
const FIRST: RawFd = 3;
/// What the names begin with of all that is kept in the store.
const STORED: &str = "epmd-";

/// What the service manager has passed to this process.
#[derive(Clone, Debug, Default)]
pub struct ServiceManager {
    /// Listeners on one port. They stay open for as long as the process lives: each life of a VM finds them again.
    sockets: Arc<Vec<OwnedFd>>,
    port: Option<u16>,
    /// The numbers of the descriptors that were passed for an EPMD.
    ours: Arc<[RawFd]>,
    /// What was in the store, until it is taken.
    stored: Arc<Mutex<Vec<Named>>>,
    /// Where the service manager hears what it shall store.
    notify: Option<OsString>,
}

/// A descriptor, by its number and its name.
type Passed = (RawFd, String);

impl ServiceManager {
    /// What was passed to this process for an EPMD: what is named `epmd`, or by a socket unit whose name ends in
    /// `epmd.socket`, or what listens on this `port`. The rest is somebody else's.
    ///
    /// # Errors
    ///
    /// A sentence that tells what was passed and cannot be used.
    pub fn from_environment(port: u16) -> Result<Self, String> {
        let (stored, passed): (Vec<_>, Vec<_>) = passed()?.into_iter().partition(|(_, name)| is_stored(name));
        let mut ours: Vec<_> = stored.iter().map(|(number, _)| *number).collect();
        let stored = taken(stored).map_err(|error| format!("what the store had cannot be taken: {error}"))?;
        let notify = notify_socket();
        // Only a later life of this process finds anything left, and nothing in the store; and only where there is one.
        let left = if notify.is_some() { left::take() } else { Ok(Vec::new()) };
        let left = left.map_err(|error| format!("what the last life left cannot be taken: {error}"))?;
        let stored = stored.into_iter().chain(left).collect();
        let mut sockets = Vec::new();
        let mut found = None;
        for (number, name) in passed {
            let look = |descriptor: BorrowedFd<'_>| {
                let bound = address::port_of(descriptor).filter(|_| address::is_listener(descriptor));
                if !is_named(&name) && bound != Some(port) {
                    return Ok(None);
                }
                os::close_on_exec(descriptor)?;
                Ok(Some((bound, descriptor.try_clone_to_owned()?)))
            };
            match os::look_at_passed(number, look) {
                Ok(None) => continue,
                Ok(Some((Some(bound), socket))) if found.is_none_or(|found| found == bound) => {
                    found = Some(bound);
                    ours.push(number);
                    sockets.push(socket);
                }
                Ok(Some((Some(bound), _))) => {
                    let first = found.unwrap_or_default();
                    return Err(format!("the socket units pass listeners on two ports, {first} and {bound}"));
                }
                Ok(Some((None, _))) => {
                    return Err(format!(
                        "the service manager passes {name:?} (descriptor {number}), which is not a TCP socket that \
                         listens: the socket unit needs ListenStream= with a port, and Accept=no"
                    ))
                }
                Err(error) if is_named(&name) => {
                    return Err(format!(
                        "the service manager says that it passes {name:?} as descriptor {number}, which is not there: \
                         {error}"
                    ))
                }
                Err(_) => {}
            }
        }
        let stored = Arc::new(Mutex::new(stored));
        Ok(Self { sockets: Arc::new(sockets), port: found, ours: ours.into(), stored, notify })
    }

    /// The numbers of the descriptors that were passed for an EPMD, also once they are taken. What has another number is
    /// somebody else's.
    pub fn ours(&self) -> &[RawFd] {
        &self.ours
    }

    /// The port of the listeners, if there are any.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The listeners, for one life of a server.
    pub(crate) fn listeners(&self) -> io::Result<Vec<TcpListener>> {
        let listener = |socket: &OwnedFd| {
            let listener = TcpListener::from(socket.try_clone()?);
            listener.set_nonblocking(true)?;
            os::defer_accept(&SockRef::from(&listener));
            Ok(listener)
        };
        self.sockets.iter().map(listener).collect()
    }

    /// What was in the store when this process started. It is there for the first who asks.
    pub(crate) fn take_stored(&self) -> Vec<Named> {
        std::mem::take(&mut self.stored.lock())
    }

    /// The way to tell the service manager something, if there is one.
    pub(crate) fn notifier(&self) -> Option<io::Result<Notifier>> {
        self.notify.as_deref().map(Notifier::open)
    }

    /// Where the listeners are reached, if there are any.
    ///
    /// # Errors
    ///
    /// A sentence, where the settings name another port or other addresses; no addresses says nothing.
    pub(crate) fn agree(&self, port: u16, addresses: &[IpAddr]) -> Result<Option<Wanted>, String> {
        let Some(lent) = self.port else { return Ok(None) };
        let listening: Vec<_> = self.sockets.iter().flat_map(address::addresses_of).collect();
        if port != lent {
            return Err(format!(
                "the socket unit listens on port {lent}, but the settings say {port}: give both the same port"
            ));
        }
        let named = Wanted::new(addresses, false);
        let is_listening = addresses.iter().all(|address| listening.contains(address));
        let is_named = listening.iter().all(|address| named.addresses().any(|named| named == *address));
        if addresses.is_empty() || (is_listening && is_named) {
            return Ok(Some(Wanted::exactly(&listening)));
        }
        let (listening, addresses) = (list(&listening), list(addresses));
        Err(format!(
            "the socket unit listens on {listening}, but the settings say {addresses}: leave the addresses to the unit"
        ))
    }
}

/// Takes what was stored, in the first life of this process; in later ones there is nothing left. A first descriptor
/// that is closed in other programs tells them apart, so its number stays in use.
fn taken(stored: Vec<Passed>) -> io::Result<Vec<Named>> {
    let Some((first, _)) = stored.first() else { return Ok(Vec::new()) };
    if os::look_at_passed(*first, |descriptor| os::is_closed_on_exec(descriptor))? {
        return Ok(Vec::new());
    }
    let first = *first;
    let take = |(number, name)| {
        let descriptor = os::take_passed(number)?;
        let stored = descriptor.try_clone()?;
        if number == first {
            os::occupy(descriptor)?;
        }
        Ok((name, stored))
    };
    stored.into_iter().map(take).collect()
}

/// Where the service manager hears this process. What the service's own processes start is not heard, or taken for it.
fn notify_socket() -> Option<OsString> {
    let is_services_own = env::var("SYSTEMD_EXEC_PID").map_or(true, |pid| pid == std::process::id().to_string());
    env::var_os("NOTIFY_SOCKET").filter(|_| is_services_own)
}

fn is_stored(name: &str) -> bool {
    name.starts_with(STORED) && !is_named(name)
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn is_named(name: &str) -> bool {
    name == "epmd" || name.ends_with("epmd.socket")
}

/// All that was passed to this very process. What it has inherited from one that was, is not its own.
fn passed() -> Result<Vec<Passed>, String> {
    let variable = |name| env::var(name).ok();
    if variable("LISTEN_PID").and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = variable("LISTEN_FDS").unwrap_or_default();
    let count: RawFd =
        count.parse().map_err(|_| format!("LISTEN_FDS must be the number of passed descriptors, got {count:?}"))?;
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    Ok((FIRST..FIRST.saturating_add(count)).map(|number| (number, names.next().unwrap_or_default())).collect())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{ErrorKind, Write};
    use std::net::TcpStream;
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    #[test]
    fn connections_come_with_their_request_from_lent_listeners_too() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("it is bound");
        let manager = ServiceManager { sockets: Arc::new(vec![socket.into()]), ..ServiceManager::default() };
        let listener = manager.listeners().expect("a descriptor").remove(0);
        let mut peer = TcpStream::connect(address).expect("it listens");
        sleep(Duration::from_millis(100));
        assert!(listener.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        peer.write_all(b"request").expect("it is connected");
        listener.set_nonblocking(false).expect("a socket");
        assert!(listener.accept().is_ok());
    }
}
