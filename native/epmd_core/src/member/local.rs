//! The node of this VM, and the caller that waits for its registration.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{mpsc as std_mpsc, Arc};

use tokio::sync::{mpsc, watch};

use super::handle::{Command, RegisterError};
use crate::node::{Node, NodeName};
use crate::registry::{Holder, NameTaken, Registration, Registry, NAME_TAKEN};
use crate::users::own_user;

/// Why a node is not registered.
#[derive(Clone, Copy, Debug)]
pub(super) enum NotRegistered {
    /// Another node has its name.
    Taken,
    /// Whoever serves the port has another reason, and keeps it.
    Unexplained(SocketAddr),
}

impl fmt::Display for NotRegistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken => f.write_str(NAME_TAKEN),
            Self::Unexplained(owner) => write!(
                f,
                "{owner} refuses it, and no node has the name: the name may belong to another user there; the log of \
                 whoever serves the port says more"
            ),
        }
    }
}

/// The node that the VM wants registered, if any.
#[derive(Debug)]
pub(super) struct LocalNode {
    current: Option<Local>,
    /// Its name, for those who tell other processes.
    name: Arc<watch::Sender<Option<NodeName>>>,
    commands: mpsc::UnboundedReceiver<Command>,
}

#[derive(Debug)]
struct Local {
    node: Node,
    /// Set at the first registration. A running node cannot change it.
    creation: Option<u32>,
    /// The caller that waits for the first registration.
    reply: Option<std_mpsc::SyncSender<Result<u32, RegisterError>>>,
    /// Whether the refusal of its name was logged.
    refused: bool,
}

impl LocalNode {
    pub(super) fn new(name: Arc<watch::Sender<Option<NodeName>>>, commands: mpsc::UnboundedReceiver<Command>) -> Self {
        Self { current: None, name, commands }
    }

    fn set(&mut self, local: Option<Local>) {
        self.current = local;
        let name = self.name();
        self.name.send_if_modified(|known| std::mem::replace(known, name.clone()) != name);
    }

    pub(super) fn node(&self) -> Option<&Node> {
        self.current.as_ref().map(|local| &local.node)
    }

    pub(super) fn name(&self) -> Option<NodeName> {
        self.node().map(|node| node.name.clone())
    }

    /// Waits until the VM registers or unregisters its node.
    pub(super) async fn changed(&mut self) {
        loop {
            // The member's own handle keeps the channel open.
            let Some(command) = self.commands.recv().await else { return std::future::pending().await };
            match command {
                Command::Register { reply, .. } if self.current.is_some() => {
                    let _ = reply.send(Err(RegisterError::AlreadyRegistered));
                }
                Command::Register { node, creation, reply } => {
                    self.set(Some(Local { node, creation, reply: Some(reply), refused: false }));
                    return;
                }
                Command::Unregister => {
                    self.set(None);
                    return;
                }
            }
        }
    }

    /// Registers the node, if there is one, in this member's own table.
    pub(super) fn register(&mut self, registry: &Registry) -> Option<Result<Registration, NameTaken>> {
        let local = self.current.as_ref()?;
        let user = Some(own_user());
        let granted = match local.creation {
            Some(creation) => registry.restore(&local.node, user, Holder::Local, creation),
            None => registry.register(&local.node, user, Holder::Local),
        };
        match &granted {
            Ok(registration) => self.registered(registration.creation()),
            Err(NameTaken(_)) => self.refused(NotRegistered::Taken, |name| registry.refuse(name, NAME_TAKEN)),
        }
        Some(granted)
    }

    pub(super) fn registered(&mut self, creation: u32) {
        let Some(local) = &mut self.current else { return };
        let creation = *local.creation.get_or_insert(creation);
        local.refused = false;
        if let Some(reply) = local.reply.take() {
            let _ = reply.send(Ok(creation));
        }
    }

    /// The process that holds the port does not register the node. If a caller waits, it gets the error, and the node
    /// is given up.
    pub(super) fn held(&mut self, reason: &str) {
        if let Some(reply) = self.current.as_mut().and_then(|local| local.reply.take()) {
            let _ = reply.send(Err(RegisterError::Held(reason.into())));
            self.set(None);
        }
    }

    /// The node is refused: who waits for the answer gets it, else it is told once.
    pub(super) fn refused(&mut self, why: NotRegistered, tell: impl FnOnce(&str)) {
        let Some(local) = &mut self.current else { return };
        if let Some(reply) = local.reply.take() {
            let _ = reply.send(Err(match why {
                NotRegistered::Taken => RegisterError::DuplicateName,
                NotRegistered::Unexplained(_) => RegisterError::Held(format!("this node cannot be registered: {why}")),
            }));
            self.set(None);
        } else if !local.refused {
            local.refused = true;
            let name = local.node.name.as_str();
            tell(name);
            match why {
                NotRegistered::Taken => tracing::error!(%name, "this node's name is registered by another node"),
                NotRegistered::Unexplained(_) => {
                    tracing::error!(%name, reason = %why, "this node cannot be registered")
                }
            }
        }
    }
}
