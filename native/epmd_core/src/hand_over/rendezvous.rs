//! Where followers find the owner: a Unix socket whose name only one process, the owner, can hold.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

use super::channel::{self, Receiver, Sender};
use super::settings::Trusted;
use crate::os;
use crate::users::own_user;

/// The accept queue: members that wait to be accepted.
const BACKLOG: i32 = 64;

/// The pause while the last holder of the names is ending.
const RELEASE_PAUSE: Duration = Duration::from_millis(5);

/// Another process is the owner.
#[derive(Debug)]
pub(crate) struct Owned;

/// The names of a rendezvous. They are abstract: they belong to the network namespace, as the port does. Only Linux has
/// such names, and a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// The same name for all users.
    Shared,
    /// A name for each user. Members of version 1 know only this one.
    OwnUser,
}

/// Where the owner of a port is found by the members of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rendezvous {
    owner: SocketAddr,
}

impl Rendezvous {
    /// The rendezvous for the owner of this address and port.
    pub(crate) fn of(owner: SocketAddr) -> Self {
        Self { owner }
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.owner.port()
    }

    fn path(&self, name: Name) -> PathBuf {
        let owner = self.owner;
        match name {
            Name::Shared => format!("\0embedded_epmd/{owner}").into(),
            Name::OwnUser => format!("\0embedded_epmd/{}/{owner}", own_user()).into(),
        }
    }

    /// Claims the names. At most one process has them, as long as it lives and keeps the claim.
    ///
    /// # Errors
    ///
    /// `AddrInUse` while another process has the shared name.
    pub(crate) fn claim(&self) -> io::Result<Claim> {
        self.claimant()?.claim(Name::Shared)
    }

    /// Claims the names, unless a trusted process has them: that process is the owner. Returns no claim if anything
    /// else is in the way: the listeners are passed between trusted processes only, so nothing else can be their owner.
    pub(crate) async fn claim_unless_owned(&self, trusted: &Trusted) -> Result<Option<Claim>, Owned> {
        loop {
            match self.claim() {
                Ok(claim) => return Ok(Some(claim)),
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(_) => return Ok(None),
            }
            match self.connect(trusted).await {
                Ok(_) => return Err(Owned),
                // The owner has just gone.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => sleep(RELEASE_PAUSE).await,
                Err(_) => return Ok(None),
            }
        }
    }

    /// Prepares a claim: gets everything it needs except the names.
    pub(crate) fn claimant(&self) -> io::Result<Claimant> {
        let socket = |name| -> io::Result<Unclaimed> {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            Ok(Unclaimed { path: self.path(name), socket: Some(socket) })
        };
        Ok(Claimant { shared: socket(Name::Shared)?, own_user: socket(Name::OwnUser)? })
    }

    /// Connects to the process that has claimed the names.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if that process is not trusted.
    pub(crate) async fn connect(&self, trusted: &Trusted) -> io::Result<(Sender, Receiver, Name)> {
        let (stream, name) = match UnixStream::connect(self.path(Name::Shared)).await {
            Ok(stream) => (stream, Name::Shared),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                let stream = UnixStream::connect(self.path(Name::OwnUser)).await?;
                // An owner that was just claiming its names has both by now; one of version 1 only ever has this one.
                match UnixStream::connect(self.path(Name::Shared)).await {
                    Ok(stream) => (stream, Name::Shared),
                    Err(_) => (stream, Name::OwnUser),
                }
            }
            Err(error) => return Err(error),
        };
        let (sender, receiver) = open(stream, name, trusted)?;
        Ok((sender, receiver, name))
    }
}

/// Opens the channel, if the process at the other end is trusted.
pub(crate) fn open(stream: UnixStream, name: Name, trusted: &Trusted) -> io::Result<(Sender, Receiver)> {
    let peer = stream.peer_cred()?;
    let user = peer.uid();
    let is_listed = || trusted.lists(user, peer.gid(), || os::peer_groups(stream.as_fd()));
    if user == own_user() || (name == Name::Shared && is_listed()) {
        return Ok(channel::open(stream));
    }
    let text = format!("the process at the other end belongs to the user {user}");
    Err(io::Error::new(ErrorKind::PermissionDenied, text))
}

/// A prepared claim. It succeeds even when the process has no descriptors left.
#[derive(Debug)]
pub(crate) struct Claimant {
    shared: Unclaimed,
    own_user: Unclaimed,
}

impl Claimant {
    /// Claims both names. Only the decisive one must succeed: the name at which the last owner was found.
    ///
    /// # Errors
    ///
    /// `AddrInUse` while another process has it; it can be tried again then.
    pub(crate) fn claim(&mut self, decisive: Name) -> io::Result<Claim> {
        let Self { shared, own_user } = self;
        Ok(match decisive {
            Name::Shared => Claim { shared: Some(shared.claim()?), own_user: own_user.claim().ok() },
            Name::OwnUser => Claim { own_user: Some(own_user.claim()?), shared: shared.claim().ok() },
        })
    }
}

#[derive(Debug)]
struct Unclaimed {
    path: PathBuf,
    /// `None` once it has the name.
    socket: Option<Socket>,
}

impl Unclaimed {
    fn claim(&mut self) -> io::Result<UnixListener> {
        let socket = self.socket.as_ref().ok_or(ErrorKind::NotConnected)?;
        socket.bind(&SockAddr::unix(&self.path)?)?;
        socket.listen(BACKLOG)?;
        let socket = self.socket.take().ok_or(ErrorKind::NotConnected)?;
        UnixListener::from_std(OwnedFd::from(socket).into())
    }
}

/// The names, held by this process.
#[derive(Debug)]
pub(crate) struct Claim {
    shared: Option<UnixListener>,
    own_user: Option<UnixListener>,
}

impl Claim {
    /// Waits for the next member that connects. Returns the name that it used, too.
    pub(crate) async fn accept(&self) -> io::Result<(UnixStream, Name)> {
        let accept = |listener| async move {
            match listener {
                Some(listener) => UnixListener::accept(listener).await.map(|(stream, _)| stream),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = accept(self.shared.as_ref()) => stream.map(|stream| (stream, Name::Shared)),
            stream = accept(self.own_user.as_ref()) => stream.map(|stream| (stream, Name::OwnUser)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use tokio::runtime::{Builder, Runtime};

    use super::*;

    #[test]
    fn an_owner_that_is_just_claiming_its_names_is_not_taken_for_one_of_the_first_version() {
        const ROUNDS: usize = 2_000;
        // Nobody serves this port.
        let rendezvous = Rendezvous::of(([127, 0, 0, 1], 1).into());
        let together = Barrier::new(2);
        let runtime = || -> Runtime { Builder::new_current_thread().enable_io().build().expect("a runtime") };
        thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = runtime();
                let _guard = runtime.enter();
                for _ in 0..ROUNDS {
                    together.wait();
                    let claim = rendezvous.claim().expect("nobody else has it");
                    together.wait();
                    drop(claim);
                }
            });
            let runtime = runtime();
            let connect = || loop {
                if let Ok((.., name)) = runtime.block_on(rendezvous.connect(&Trusted::default())) {
                    return name;
                }
            };
            let names = (0..ROUNDS).map(|_| {
                together.wait();
                let name = connect();
                together.wait();
                name
            });
            assert_eq!(names.filter(|name| *name == Name::OwnUser).count(), 0);
        });
    }
}
