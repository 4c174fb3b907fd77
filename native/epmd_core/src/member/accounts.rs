//! Users and groups that the settings name: the numbers of names are asked for, and asked for again, since users come and
//! go. A directory may take long to answer or be started later than this process, so nothing waits for it.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::dispatcher::{get_default, with_default, Dispatch};

use super::handle::Handle;
use crate::hand_over::{HandOver, Trusted};
use crate::reserved_names::ReservedNames;
use crate::users::Account;

/// How often names are asked for again.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long settings wait for the first answer. The files of this host are read in much less.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is known of the accounts that the settings name.
#[derive(Clone, Debug)]
pub(super) struct Accounts {
    /// The names of which was logged that nobody has them.
    told: Arc<Mutex<BTreeSet<String>>>,
    /// Whether a thread asks for them again.
    watched: Arc<Once>,
    /// The log of the member, for other threads.
    log: Dispatch,
}

impl Accounts {
    /// To be made by the thread that logs.
    pub(super) fn new() -> Self {
        Self { told: Arc::default(), watched: Arc::new(Once::new()), log: get_default(Clone::clone) }
    }

    /// Both lists with the numbers of their names, or without those that are not known in time.
    pub(super) fn look_up(&self, reserved: ReservedNames, trusted: Trusted) -> (ReservedNames, Trusted) {
        if !is_any_named(&reserved, &trusted) {
            return (reserved, trusted);
        }
        let (sender, found) = mpsc::sync_channel(1);
        let (asked, accounts) = ((reserved.clone(), trusted.clone()), self.clone());
        let ask = move || {
            let found = (asked.0.resolved(), asked.1.resolved());
            accounts.tell(&found.0, &found.1);
            let _ = sender.send(found);
        };
        match thread::Builder::new().name("epmd-users".into()).spawn(ask) {
            Ok(_) => found.recv_timeout(PATIENCE).unwrap_or((reserved, trusted)),
            Err(_) => (reserved, trusted),
        }
    }

    /// From now on asks for the names in the settings of this member again, until it stops.
    pub(super) fn watch(&self, handle: &Handle) {
        let rules = handle.rules.read().policy.reserved_names.clone();
        if !is_any_named(&rules, &handle.hand_over.borrow().trusted) {
            return;
        }
        let handle = handle.clone();
        self.watched.call_once(|| {
            let watch = move || {
                thread::sleep(INTERVAL);
                while !handle.is_stopped() {
                    renew(&handle);
                    thread::sleep(INTERVAL);
                }
            };
            let thread = thread::Builder::new().name("epmd-users".into());
            if let Err(error) = thread.spawn(watch) {
                tracing::warn!(%error, "users and groups that come later are not noticed");
            }
        });
    }

    fn tell(&self, reserved: &ReservedNames, trusted: &Trusted) {
        let mut told = self.told.lock();
        with_default(&self.log, || {
            for account in reserved.accounts().chain(trusted.accounts()) {
                if account.number().is_none() && told.insert(account.to_string()) {
                    tracing::warn!(
                        "the settings name the {account}, which does not exist on this host: its node names are refused to \
                         others, no VM stands by as it, and it is looked up again every 5 seconds"
                    );
                }
            }
        });
    }
}

/// Applies the numbers that the names of the settings have now. Settings that were changed meanwhile stay.
fn renew(handle: &Handle) {
    let reserved = handle.rules.read().policy.reserved_names.clone();
    let trusted = handle.hand_over.borrow().trusted.clone();
    let found = (reserved.resolved(), trusted.resolved());
    handle.accounts.tell(&found.0, &found.1);
    if found.0 != reserved {
        let mut rules = handle.rules.write();
        if rules.policy.reserved_names == reserved {
            rules.policy.reserved_names = found.0;
        }
    }
    handle.hand_over.send_if_modified(|current: &mut HandOver| {
        let changed = found.1 != trusted && current.trusted == trusted;
        if changed {
            current.trusted = found.1;
        }
        changed
    });
}

fn is_any_named(reserved: &ReservedNames, trusted: &Trusted) -> bool {
    reserved.accounts().chain(trusted.accounts()).any(Account::is_named)
}
