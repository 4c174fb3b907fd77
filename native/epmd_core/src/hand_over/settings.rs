//! Who may stand by for an owner, and how many.

use std::future;
use std::sync::Once;

use tokio::sync::watch;

use crate::os;
use crate::users::Account;

/// Whether there is a handover, and between which processes.
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
    /// No handover.
    pub fn off() -> Self {
        Self { standbys: 0, trusted: Trusted::default() }
    }

    /// Whether there is a handover. There is none on systems where a listener cannot be ended while another process
    /// has a copy: a standby that hangs would hold the port.
    pub(crate) fn is_enabled(&self) -> bool {
        self.standbys > 0 && os::can_end_listeners()
    }

    /// Waits until there is a handover. If the system cannot have one, that is logged once.
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

/// Users and groups whose processes are trusted like those of this process's own user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    users: Vec<Account>,
    groups: Vec<Account>,
}

impl Trusted {
    /// Users and groups by their names in the system's databases, or by their numbers. Nobody is asked for the numbers of
    /// names yet.
    pub fn named(users: &[String], groups: &[String]) -> Self {
        Self {
            users: users.iter().map(|name| Account::user(name)).collect(),
            groups: groups.iter().map(|name| Account::group(name)).collect(),
        }
    }

    /// The same with the numbers that they have now. A directory may have to be asked, which may take long.
    pub(crate) fn resolved(&self) -> Self {
        let resolved = |accounts: &[Account]| accounts.iter().map(Account::resolved).collect();
        Self { users: resolved(&self.users), groups: resolved(&self.groups) }
    }

    pub(crate) fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.users.iter().chain(&self.groups)
    }

    /// Whether a process of this user, with this group and these `others`, is on the list.
    pub(crate) fn lists(&self, user: u32, group: u32, others: impl FnOnce() -> Vec<u32>) -> bool {
        let among = |accounts: &[Account], number| accounts.iter().any(|account| account.number() == Some(number));
        among(&self.users, user)
            || among(&self.groups, group)
            || (!self.groups.is_empty() && others().into_iter().any(|other| among(&self.groups, other)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_users_and_groups_of_any_kind() {
        let trusted = Trusted::named(&["7".into()], &["9".into()]);
        assert!(trusted.lists(7, 1, Vec::new));
        assert!(trusted.lists(1, 9, Vec::new));
        assert!(trusted.lists(1, 1, || vec![3, 9]));
        assert!(!trusted.lists(9, 7, || vec![7]));
        assert!(!Trusted::default().lists(0, 0, || vec![0]));
        let nobody = Trusted::named(&["nobody-of-that-name".into()], &[]).resolved();
        assert!(!nobody.lists(0, 0, Vec::new));
    }
}
