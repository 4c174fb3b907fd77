//! Numbers the changes of the table and of the role, and passes them to an observer.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::role::Role;

/// A change of the table or of the role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node was registered.
    Registered {
        /// Its name.
        name: String,
        /// Its port.
        port: u16,
        /// Its creation.
        creation: u32,
        /// The user who registered it, by number; nothing if the kernel could not tell.
        user: Option<u32>,
    },
    /// A registration ended.
    Unregistered {
        /// The node's name.
        name: String,
        /// Its port.
        port: u16,
    },
    /// A registration was refused.
    Refused {
        /// The name that was asked for; empty if the request was not valid.
        name: String,
        /// Why.
        reason: Cow<'static, str>,
    },
    /// The copy of the owner's table was given up: what becomes of its nodes is not known here any more.
    Lost,
    /// The member took another role.
    Role(Role),
}

/// Called with each change and its number. It must not block, and must not call the registry or the journal.
pub type Observer = Arc<dyn Fn(u64, Change) + Send + Sync>;

/// Numbers the changes, and calls its observer.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    number: u64,
    observer: Option<Observer>,
}

impl Journal {
    /// A journal with an observer.
    pub fn observed_by(observer: Observer) -> Self {
        Self(Arc::new(Mutex::new(State { number: 0, observer: Some(observer) })))
    }

    /// The number of the last change.
    pub fn number(&self) -> u64 {
        self.0.lock().number
    }

    pub(crate) fn record(&self, change: impl FnOnce() -> Change) {
        let mut state = self.0.lock();
        state.number += 1;
        if let Some(observer) = &state.observer {
            observer(state.number, change());
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Journal").field(&self.number()).finish()
    }
}
