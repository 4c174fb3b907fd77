//! One process among those of a host that can serve the port: it serves, or joins whoever does, and changes over.
//!
//! Whoever binds the port serves it. The others register their node there, over a link that is kept; when the link
//! ends, however it ends, each tries to bind at once and joins the winner otherwise. The table of the new owner fills
//! with the registrations that arrive.
//!
//! One of those that have joined stands by ([`crate::hand_over`]): it has a copy of the table and of the connections,
//! so that no link ends with the owner. Then nobody but the standby notices, and it serves.

mod change_over;
mod client;
mod handle;
mod local;
mod serving;
mod settings;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::MutexGuard;
use tokio::time::{sleep, Instant};

use crate::address::Listeners;
use crate::backoff::Backoff;
use crate::hand_over::{self, Candidate, Rendezvous};
use crate::journal::Change;
use crate::role::Role;
use change_over::{Event, State};
use client::{Joined, Link};
use local::LocalNode;
use serving::{Startup, Takeover};

pub use handle::{Answer, Handle, RegisterError, Snapshot, Status};
pub use settings::{Settings, StartError};

/// How often a member that has joined makes sure that the owner answers.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long a start may look for the port or its owner, while another owner comes and goes.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// The longest pause between attempts to bind or join.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A link that ends sooner is no reason to bind at once again: its owner may end every link.
const LASTING: Duration = Duration::from_secs(1);
/// How often a new owner tries to get what the last one may still be letting go of.
const TRIES_FOR_THE_REST: u32 = 5;
/// A name that no node has, asked for when there is no node of our own.
const NOBODY: &str = "embedded_epmd";

/// A process among those that can serve the port.
#[derive(Debug)]
pub struct Member {
    settings: Settings,
    handle: Handle,
    local: LocalNode,
    state: State,
    /// What is to be served, and is not yet.
    startup: Option<Startup>,
    /// Whoever has the port.
    owner: Option<SocketAddr>,
    /// What keeps the local node registered there.
    link: Option<Link>,
    backoff: Backoff,
    was_joined: bool,
    /// Why the last attempt to bind or join failed.
    trouble: Option<StartError>,
    /// The last complaint about the port, so that it is made once.
    complaint: Option<String>,
}

impl Member {
    /// Binds the port or finds its owner.
    pub async fn start(settings: Settings) -> Result<(Self, Handle), StartError> {
        let (handle, commands) = Handle::new(&settings);
        let local = LocalNode::new(commands, settings.journal.clone());
        let mut member = Self {
            settings,
            handle: handle.clone(),
            local,
            state: State::Searching,
            startup: None,
            owner: None,
            link: None,
            backoff: Backoff::up_to(LONGEST_PAUSE),
            was_joined: false,
            trouble: None,
            complaint: None,
        };
        let deadline = Instant::now() + START_PATIENCE;
        while !matches!(member.state, State::Serving | State::Joined) {
            let event = member.act().await;
            // Between the end of one owner and the start of the next, there is nobody to answer.
            if event == Event::Failed && Instant::now() < deadline && member.trouble.as_ref().is_some_and(passes) {
                member.trouble = None;
            }
            if let Some(trouble) = member.trouble.take() {
                return Err(trouble);
            }
            member.enter(event);
        }
        Ok((member, handle))
    }

    /// Serves or joins until [`Handle::stop`] is called, or until the server fails for a reason of its own.
    pub async fn run(mut self) -> io::Result<()> {
        let stop = Arc::clone(&self.handle.stop);
        loop {
            if let Some(startup) = self.startup.take() {
                let rendezvous = self.rendezvous();
                return serving::serve(startup, &self.handle, &mut self.local, rendezvous, self.was_joined).await;
            }
            tokio::select! {
                () = stop.notified() => return Ok(()),
                event = self.act() => {
                    if let Some(trouble) = self.trouble.take() {
                        self.complain(&trouble);
                    }
                    self.enter(event);
                }
            }
        }
    }

    /// Does what the state asks for, and tells what came of it.
    async fn act(&mut self) -> Event {
        match self.state {
            State::Searching => self.bind().await,
            State::Joining => self.join().await,
            State::Joined => self.stay().await,
            State::BackingOff => self.back_off().await,
            State::Serving => std::future::pending().await,
        }
    }

    async fn bind(&mut self) -> Event {
        match Listeners::open(&self.settings.addresses, self.settings.port) {
            Ok(mut listeners) => {
                // An owner that is just ending lets go of one address after the other.
                let mut backoff = Backoff::up_to(LONGEST_PAUSE);
                for _ in 0..TRIES_FOR_THE_REST {
                    if listeners.complete() {
                        break;
                    }
                    sleep(backoff.next()).await;
                }
                self.startup = Some(Startup::Bound(listeners));
                Event::Bound
            }
            Err(error) if error.is_taken() => {
                self.owner = Some(error.holder());
                Event::Taken
            }
            Err(error) => {
                self.trouble = Some(StartError::Open(error));
                Event::Failed
            }
        }
    }

    async fn join(&mut self) -> Event {
        let Some(owner) = self.owner else { return Event::Failed };
        let joined = match self.local.node() {
            Some(node) => client::register(owner, node).await,
            // Without a node there is nothing to register, but whoever answers must be an EPMD.
            None => client::is_registered(owner, NOBODY).await.map(|_| Joined::Alone),
        };
        match joined {
            Ok(Joined::Granted(link, creation)) => {
                self.link = Some(link);
                self.local.registered(creation);
                Event::Granted
            }
            Ok(Joined::Alone) => Event::Granted,
            Ok(Joined::Refused) => {
                self.local.refused();
                // Who waited for the answer has it, and there is no node of ours any more.
                if self.local.node().is_none() {
                    Event::Granted
                } else {
                    Event::Failed
                }
            }
            Err(error) => {
                self.trouble = Some(StartError::Held { address: owner, error });
                Event::Failed
            }
        }
    }

    /// Stays with an owner until there is a reason to look for the port again.
    async fn stay(&mut self) -> Event {
        let Some(owner) = self.owner else { return Event::Failed };
        let joined_at = Instant::now();
        let name = self.local.node().map_or(NOBODY, |node| node.name.as_str()).to_owned();
        let handle = self.handle.clone();
        let (rendezvous, node) = (self.rendezvous(), self.local.name());
        let limits = || handle.rules.read().limits.clone();
        let standing_by = hand_over::stand_by(Candidate {
            rendezvous: &rendezvous,
            addresses: &handle.wanted,
            node,
            settings: handle.hand_over.subscribe(),
            limits: &limits,
            whole: &handle.stands_by,
        });
        tokio::pin!(standing_by);
        let event = loop {
            let check = async {
                sleep(ASK_EVERY).await;
                client::is_registered(owner, &name).await
            };
            tokio::select! {
                // With the owner's copies goes the link, unless this member has one, too.
                biased;
                handoff = &mut standing_by => {
                    let own = self.link.as_ref().and_then(Link::local_address);
                    let takeover = Takeover::new(handoff, &handle, self.settings.port, own);
                    self.startup = Some(Startup::Takeover(Box::new(takeover)));
                    break Event::TookOver;
                }
                () = ended(self.link.as_ref()) => break Event::Ended,
                () = self.local.changed() => break Event::Changed,
                answer = check => match answer {
                    Ok(found) => {
                        self.owner_answers(owner, true);
                        // It lost us without ending the link: the link is worth nothing.
                        if !found && self.link.is_some() {
                            break Event::Ended;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::TimedOut => self.owner_answers(owner, false),
                    // Who stands by finds the owner's end itself, and is about to serve.
                    Err(_) if *handle.stands_by.borrow() => {}
                    Err(_) => break Event::Ended,
                },
            }
        };
        self.link = None;
        handle.stands_by.send_replace(false);
        match event {
            Event::Ended if joined_at.elapsed() < LASTING => Event::Failed,
            Event::Ended => {
                self.backoff = Backoff::up_to(LONGEST_PAUSE);
                Event::Ended
            }
            event => event,
        }
    }

    async fn back_off(&mut self) -> Event {
        tokio::select! {
            () = sleep(self.backoff.next()) => Event::BackedOff,
            () = self.local.changed() => Event::Changed,
        }
    }

    /// Where owner and standby of this port meet. The first address decides who serves, so it names the rendezvous.
    fn rendezvous(&self) -> Rendezvous {
        let first = self.handle.wanted.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Rendezvous::of(SocketAddr::new(first, self.settings.port))
    }

    /// Goes on to what comes after this event, and tells the new role.
    fn enter(&mut self, event: Event) {
        self.state = self.state.after(event);
        let role = self.handle.status.lock().role;
        match self.state {
            State::Serving => {
                let (listeners, contents) = match &mut self.startup {
                    Some(Startup::Bound(listeners)) => (listeners, None),
                    Some(Startup::Takeover(takeover)) => (&mut takeover.listeners, takeover.contents.take()),
                    None => return,
                };
                let (addresses, port) = (listeners.addresses(), listeners.port);
                let how =
                    if contents.is_some() { "serving the port in its last owner's place" } else { "serving the port" };
                tracing::info!(port, ?addresses, "{how}");
                self.complaint = None;
                let status = self.change(|status| {
                    status.role = Role::Serving;
                    status.owner = None;
                    status.owner_answers = true;
                    status.addresses = addresses;
                    status.port = port;
                });
                // Nobody sees the role without the table.
                if let Some(contents) = contents {
                    self.handle.registry.adopt(contents);
                }
                drop(status);
            }
            State::Joined => {
                self.was_joined = true;
                self.complaint = None;
                let Some(owner) = self.owner.filter(|_| role != Role::Joined) else { return };
                tracing::info!(%owner, "joined the owner of the port");
                drop(self.change(|status| {
                    status.role = Role::Joined;
                    status.owner = Some(owner);
                }));
            }
            // Where the node changed it is the same owner that is asked again.
            State::Joining => {}
            State::Searching | State::BackingOff if role == Role::Joined => {
                if let Some(owner) = self.owner.take() {
                    tracing::info!(%owner, "the link to the owner of the port ended");
                }
                drop(self.change(|status| {
                    status.role = Role::Searching;
                    status.owner = None;
                    status.owner_answers = true;
                }));
            }
            State::Searching | State::BackingOff => {}
        }
    }

    /// Changes the status, which is locked until what this returns is dropped.
    fn change(&self, change: impl FnOnce(&mut Status)) -> MutexGuard<'_, Status> {
        let mut status = self.handle.status.lock();
        change(&mut status);
        self.handle.registry.journal().record(|| Change::Role(status.role));
        status.since = SystemTime::now();
        status.changes += 1;
        status
    }

    fn owner_answers(&self, owner: SocketAddr, answers: bool) {
        let mut status = self.handle.status.lock();
        if std::mem::replace(&mut status.owner_answers, answers) != answers {
            if answers {
                tracing::info!(%owner, "the owner of the port answers again");
            } else {
                tracing::error!(%owner, "the owner of the port does not answer; new nodes of this host cannot be found");
            }
        }
    }

    fn complain(&mut self, error: &StartError) {
        if passes(error) {
            return;
        }
        let complaint = error.to_string();
        if self.complaint.as_ref() != Some(&complaint) {
            tracing::error!("{complaint}; trying again");
            self.complaint = Some(complaint);
        }
    }
}

/// Waits for the end of the link, if there is one.
async fn ended(link: Option<&Link>) {
    match link {
        Some(link) => link.ended().await,
        None => std::future::pending().await,
    }
}

/// Whether an error says that an owner is just going or coming.
fn passes(error: &StartError) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof};
    let StartError::Held { error, .. } = error else { return false };
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionRefused | ConnectionReset | UnexpectedEof)
}
