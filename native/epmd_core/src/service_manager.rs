//! What the service manager gives to this process, by the rules of sd_listen_fds(3): listeners of a socket unit.
//!
//! The variables are those that the process was started with, also where the VM has unset them for its children since.

use std::env;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::io::{fcntl_setfd, FdFlags};

use crate::address::{self, Listeners, Wanted};
use crate::os;

/// The first descriptor that is passed.
const FIRST: RawFd = 3;

/// What the service manager has passed to this process.
#[derive(Clone, Debug, Default)]
pub struct ServiceManager {
    /// Listeners on one port. They stay open for as long as the process lives: each life of a VM finds them again.
    sockets: Arc<Vec<OwnedFd>>,
    port: Option<u16>,
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
    pub fn of_this_process(port: u16) -> Result<Self, String> {
        let mut sockets = Vec::new();
        let mut found = None;
        for (number, name) in passed()? {
            let look = |descriptor: BorrowedFd<'_>| {
                let bound = port_of(descriptor);
                if !is_named(&name) && bound != Some(port) {
                    return Ok(None);
                }
                fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
                Ok(Some((bound, descriptor.try_clone_to_owned()?)))
            };
            match os::look_at_passed(number, look) {
                Ok(None) => continue,
                Ok(Some((Some(bound), socket))) if found.is_none_or(|found| found == bound) => {
                    found = Some(bound);
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
        Ok(Self { sockets: Arc::new(sockets), port: found })
    }

    /// The port of the listeners, if there are any.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The listeners, for one life of a server.
    pub(crate) fn listeners(&self) -> io::Result<Option<Listeners>> {
        let Some(port) = self.port else { return Ok(None) };
        let listener = |socket: &OwnedFd| {
            let listener = TcpListener::from(socket.try_clone()?);
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listeners = self.sockets.iter().map(listener).collect::<io::Result<_>>()?;
        Ok(Some(Listeners::lent(listeners, port)))
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
        let named = Wanted::of(addresses, false);
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

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn is_named(name: &str) -> bool {
    name == "epmd" || name.ends_with("epmd.socket")
}

/// The port of a TCP socket that listens.
fn port_of(descriptor: BorrowedFd<'_>) -> Option<u16> {
    let bound = || socket2::SockRef::from(&descriptor).local_addr().ok()?.as_socket();
    bound().filter(|_| address::is_listener(descriptor)).map(|bound| bound.port())
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
