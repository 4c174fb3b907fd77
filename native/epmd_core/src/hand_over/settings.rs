//! Who may stand by for an owner, and how many.

use std::future;
use std::sync::Once;

use tokio::sync::watch;

use crate::{os, users};

/// Whether there is a hand-over, and between which processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// How many members may stand by for this one. With 0 none may, and this member stands by for none.
    pub standbys: u32,
    /// Whose processes may, beside those of this user.
    pub trusted: Trusted,
}

impl Default for HandOver {
    fn default() -> Self {
        Self { standbys: 2, trusted: Trusted::default() }
    }
}

impl HandOver {
    /// No hand-over.
    pub fn off() -> Self {
        Self { standbys: 0, trusted: Trusted::default() }
    }

    /// Whether there is a hand-over. There is none on systems where a listener cannot be ended while another process
    /// has a copy: a standby that hangs would hold the port.
    pub(crate) fn is_enabled(&self) -> bool {
        self.standbys > 0 && os::can_end_listeners()
    }

    /// Waits until there is a hand-over. If the system cannot have one, that is logged once.
    pub(super) async fn enabled(settings: &mut watch::Receiver<Self>) -> Self {
        let is_wanted = |settings: &Self| settings.standbys > 0;
        if !os::can_end_listeners() && settings.wait_for(is_wanted).await.is_ok() {
            static TOLD: Once = Once::new();
            TOLD.call_once(|| {
                tracing::info!(
                    "no VM can stand by for another on this system: whenever the owner of the port ends, another VM \
                     serves at once, and stock nodes are unknown for 2 seconds"
                );
            });
        }
        let enabled = settings.wait_for(Self::is_enabled).await.map(|settings| settings.clone());
        match enabled {
            Ok(settings) => settings,
            Err(_) => future::pending().await,
        }
    }
}

/// Users and groups, by their numbers, whose processes are trusted like those of this process's own user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    /// The users.
    pub users: Vec<u32>,
    /// The groups.
    pub groups: Vec<u32>,
}

impl Trusted {
    /// Users and groups by their names in the system's databases, or by their numbers.
    ///
    /// # Errors
    ///
    /// A sentence that names the first one that does not exist.
    pub fn named(users: &[String], groups: &[String]) -> Result<Self, String> {
        Ok(Self {
            users: users.iter().map(|name| users::user(name)).collect::<Result<_, _>>()?,
            groups: groups.iter().map(|name| users::group(name)).collect::<Result<_, _>>()?,
        })
    }

    /// Whether a process of this user, with this group and these `others`, is on the list.
    pub(crate) fn lists(&self, user: u32, group: u32, others: impl FnOnce() -> Vec<u32>) -> bool {
        self.users.contains(&user)
            || self.groups.contains(&group)
            || (!self.groups.is_empty() && others().iter().any(|other| self.groups.contains(other)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_users_and_groups_of_any_kind() {
        let trusted = Trusted { users: vec![7], groups: vec![9] };
        assert!(trusted.lists(7, 1, Vec::new));
        assert!(trusted.lists(1, 9, Vec::new));
        assert!(trusted.lists(1, 1, || vec![3, 9]));
        assert!(!trusted.lists(9, 7, || vec![7]));
        assert!(!Trusted::default().lists(0, 0, || vec![0]));
    }
}
