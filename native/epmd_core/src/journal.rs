//! What happens to the table and to the role, numbered in its order, for whoever observes it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::role::Role;

/// One thing that happened.
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
        /// The name, as far as it can be shown.
        name: String,
        /// Why.
        reason: Cow<'static, str>,
    },
    /// The copy of the owner's table was lost: what becomes of the nodes in it is not known here any more.
    Lost,
    /// The member took another role.
    Role(Role),
}

/// Called with each change and its number; it must not block, nor ask the table.
pub type Observer = Arc<dyn Fn(u64, Change) + Send + Sync>;

/// Numbers the changes, and tells its observer.
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
