//! Who may stand by for an owner, and how many.

use std::future;
use std::sync::Once;

use nix::errno::Errno;
use nix::unistd::{Group, User};
use tokio::sync::watch;

use crate::os;

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
        let user = |name: &String| match User::from_name(name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            found => name.parse().map_err(|_| unknown("user", name, found.err())),
        };
        let group = |name: &String| match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            found => name.parse().map_err(|_| unknown("group", name, found.err())),
        };
        Ok(Self {
            users: users.iter().map(user).collect::<Result<_, _>>()?,
            groups: groups.iter().map(group).collect::<Result<_, _>>()?,
        })
    }

    /// Whether a process of this user, with this group and these `others`, is on the list.
    pub(crate) fn lists(&self, user: u32, group: u32, others: impl FnOnce() -> Vec<u32>) -> bool {
        self.users.contains(&user)
            || self.groups.contains(&group)
            || (!self.groups.is_empty() && others().iter().any(|other| self.groups.contains(other)))
    }
}

fn unknown(what: &str, name: &str, error: Option<Errno>) -> String {
    let reason = error.map_or(String::new(), |error| format!(": {error}"));
    format!("expected a {what} of this host, by its name or number, got {name:?}{reason}")
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

    #[test]
    fn names_and_numbers_are_those_of_the_host() {
        let named = |users: &str, groups: &str| Trusted::named(&[users.into()], &[groups.into()]);
        assert_eq!(named("root", "0"), Ok(Trusted { users: vec![0], groups: vec![0] }));
        assert_eq!(named("4711", "root"), Ok(Trusted { users: vec![4711], groups: vec![0] }));
        let error = named("nobody-of-that-name", "0").expect_err("no such user");
        assert!(error.starts_with("expected a user of this host, by its name or number, got"), "{error}");
    }
}
