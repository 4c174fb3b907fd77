//! Log entries and changes on their way from the native thread into the VM.
//!
//! Both wait here in bounded queues until the process that claimed the server takes them. It is sent one message, and
//! no further one until it has taken what waits: the mailbox of a slow process does not grow. This is a `tracing`
//! subscriber for the native thread only: it sees no events of other libraries, and our events go nowhere else.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use epmd_core::{Change, Observer};
use parking_lot::Mutex;
use rustler::{Atom, Encoder, Env, LocalPid, OwnedEnv, Term};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::atoms;
use crate::terms::{RoleAtom, Verbosity};

/// How many log entries may wait to be taken.
const ENTRIES: usize = 256;
/// How many changes may wait to be taken.
const CHANGES: usize = 10_000;
/// How many log entries of one callsite pass in one window. The rest are only counted.
const PER_WINDOW: u64 = 10;
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Clone, Default)]
pub(crate) struct Events(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The wanted level, as a number of [`Verbosity`].
    verbosity: AtomicU8,
    /// Whether changes are wanted.
    followed: AtomicBool,
}

#[derive(Default)]
struct State {
    claimed_by: Option<LocalPid>,
    /// The process has been sent a message and has not taken anything since.
    woken: bool,
    entries: VecDeque<Entry>,
    /// Entries that did not fit into the queue.
    lost_entries: u64,
    windows: HashMap<Identifier, Window>,
    changes: VecDeque<(u64, Change)>,
    lost_changes: u64,
}

/// The entries of one callsite in the current window.
struct Window {
    began: Instant,
    count: u64,
    left_out: u64,
    level: Level,
    text: String,
}

/// A log entry: its message, and its fields as text.
pub(crate) struct Entry {
    level: Level,
    text: String,
    fields: Vec<(&'static str, String)>,
}

/// What was waiting.
pub(crate) struct Batch {
    entries: VecDeque<Entry>,
    changes: VecDeque<(u64, Change)>,
    lost_changes: u64,
    /// Entries were left out in a window that is not over. Take again in a second to learn how many.
    again: bool,
}

impl Events {
    /// Makes this the process to wake.
    pub(crate) fn claim(&self, pid: LocalPid) {
        let mut state = self.0.state.lock();
        state.claimed_by = Some(pid);
        state.woken = false;
    }

    /// Takes everything that waits.
    pub(crate) fn take(&self) -> Batch {
        let mut state = self.0.state.lock();
        state.woken = false;
        let now = Instant::now();
        let mut entries = std::mem::take(&mut state.entries);
        state.windows.retain(|_, window| {
            let is_over = now.duration_since(window.began) >= WINDOW;
            if is_over && window.left_out > 0 {
                entries.push_back(left_out(window.level, &window.text, window.left_out));
            }
            !is_over
        });
        let lost = std::mem::take(&mut state.lost_entries);
        if lost > 0 {
            entries.push_back(left_out(Level::WARN, "log entries", lost));
        }
        Batch {
            entries,
            changes: std::mem::take(&mut state.changes),
            lost_changes: std::mem::take(&mut state.lost_changes),
            again: state.windows.values().any(|window| window.left_out > 0),
        }
    }

    /// Drops log entries below this level.
    pub(crate) fn limit(&self, verbosity: Verbosity) {
        self.0.verbosity.store(verbosity as u8, Ordering::Relaxed);
    }

    /// Starts or stops keeping changes.
    pub(crate) fn follow(&self, followed: bool) {
        self.0.followed.store(followed, Ordering::SeqCst);
    }

    /// The observer for a member's journal.
    pub(crate) fn observer(&self) -> Observer {
        let events = self.clone();
        Arc::new(move |number, change| {
            if !events.0.followed.load(Ordering::SeqCst) {
                return;
            }
            let mut state = events.0.state.lock();
            if state.changes.len() < CHANGES {
                state.changes.push_back((number, change));
            } else {
                state.lost_changes += 1;
            }
            state.wake();
        })
    }

    /// Asks the process that claimed the server for a sign of life. Returns whether it runs. Must not run on a scheduler
    /// thread.
    pub(crate) fn probe(&self) -> bool {
        let claimed_by = self.0.state.lock().claimed_by;
        claimed_by.is_some_and(|pid| {
            OwnedEnv::new().send_and_clear(&pid, |env| (atoms::embedded_epmd(), atoms::probe()).encode(env)).is_ok()
        })
    }

    /// Tells the process that claimed the server that its thread has ended. Must not run on a scheduler thread.
    pub(crate) fn ended(&self, reason: impl Encoder) {
        let claimed_by = self.0.state.lock().claimed_by;
        if let Some(pid) = claimed_by {
            let message = (atoms::embedded_epmd(), atoms::stopped(), reason);
            let _ = OwnedEnv::new().send_and_clear(&pid, |env| message.encode(env));
        }
    }
}

impl State {
    /// Must run on the native thread: on a scheduler thread, `send_and_clear` panics.
    fn wake(&mut self) {
        if let Some(pid) = self.claimed_by.filter(|_| !self.woken) {
            self.woken = true;
            let _ = OwnedEnv::new().send_and_clear(&pid, |env| (atoms::embedded_epmd(), atoms::events()).encode(env));
        }
    }

    fn log(&mut self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut rendered = EventText::default();
        event.record(&mut rendered);
        let (level, now) = (*metadata.level(), Instant::now());
        let window = self.windows.entry(metadata.callsite()).or_insert_with(|| Window {
            began: now,
            count: 0,
            left_out: 0,
            level,
            text: rendered.text.clone(),
        });
        if now.duration_since(window.began) >= WINDOW {
            if window.left_out > 0 {
                rendered.fields.push(("left_out", window.left_out.to_string()));
            }
            (window.began, window.count, window.left_out) = (now, 0, 0);
        }
        window.count += 1;
        if window.count > PER_WINDOW {
            window.left_out += 1;
            // The first entry left out wakes the process, which then takes again after the window. Others need not.
            if window.left_out > 1 {
                return;
            }
        } else if self.entries.len() < ENTRIES {
            self.entries.push_back(Entry { level, text: rendered.text, fields: rendered.fields });
        } else {
            self.lost_entries += 1;
        }
        self.wake();
    }
}

fn left_out(level: Level, text: &str, count: u64) -> Entry {
    Entry { level, text: format!("{text}: more of these were left out"), fields: vec![("left_out", count.to_string())] }
}

impl Encoder for Entry {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let level = match self.level {
            Level::ERROR => atoms::error(),
            Level::WARN => atoms::warning(),
            Level::INFO => atoms::notice(),
            Level::DEBUG => atoms::info(),
            Level::TRACE => atoms::debug(),
        };
        // Field names come from the source of this library, so the number of atoms is fixed.
        let field = |(name, value): &(&'static str, String)| Some((Atom::from_str(env, name).ok()?, value.clone()));
        (level, &self.text, self.fields.iter().filter_map(field).collect::<Vec<_>>()).encode(env)
    }
}

impl Encoder for Batch {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let change = |(number, change): &(u64, Change)| (*number, encode(env, change)).encode(env);
        let entries: Vec<Term<'a>> = self.entries.iter().map(|entry| entry.encode(env)).collect();
        let changes: Vec<Term<'a>> = self.changes.iter().map(change).collect();
        (entries, changes, self.lost_changes, self.again).encode(env)
    }
}

fn encode<'a>(env: Env<'a>, change: &Change) -> Term<'a> {
    match change {
        Change::Registered { name, port, creation, user } => {
            (atoms::registered(), name, port, creation, user).encode(env)
        }
        Change::Unregistered { name, port } => (atoms::unregistered(), name, port).encode(env),
        Change::Refused { name, reason } => (atoms::refused(), name, reason.as_ref()).encode(env),
        Change::Lost => (atoms::table(), atoms::owner()).encode(env),
        Change::Role(role) => (atoms::role(), RoleAtom::from(*role)).encode(env),
    }
}

impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let needed = match *metadata.level() {
            Level::ERROR => Verbosity::Error,
            Level::WARN => Verbosity::Warning,
            Level::INFO => Verbosity::Notice,
            Level::DEBUG => Verbosity::Info,
            Level::TRACE => Verbosity::Debug,
        };
        needed as u8 <= self.0.verbosity.load(Ordering::Relaxed)
            && metadata.is_event()
            && metadata.target().starts_with("epmd_core")
    }

    fn event(&self, event: &Event<'_>) {
        self.0.state.lock().log(event);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        // The level may change while the member runs.
        tracing::subscriber::Interest::sometimes()
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The message and the fields of an event.
#[derive(Default)]
struct EventText {
    text: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for EventText {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.text.push_str(value),
            name => self.fields.push((name, value.into())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            // Writing to a string does not fail.
            "message" => _ = write!(self.text, "{value:?}"),
            name => self.fields.push((name, format!("{value:?}"))),
        }
    }
}
