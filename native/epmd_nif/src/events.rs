//! The events of the native thread, on their way into the VM.
//!
//! They go to the process that claimed the server. Before that, the first of them are kept for it. This is a `tracing`
//! subscriber of one thread: no other library's events pass here, and ours go nowhere else.

use std::fmt::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Term};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::atoms;

/// Events kept until somebody claims the server.
const KEPT: usize = 64;

#[derive(Clone, Default)]
pub(crate) struct Events(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    claimed_by: Option<LocalPid>,
    kept: Vec<Entry>,
}

/// An event as a sentence: its message, then its fields. Text of peers is in there as `Debug` escapes it.
pub(crate) struct Entry {
    level: Level,
    text: String,
}

impl Events {
    /// Sends what comes from now on to this process, and returns what came before.
    pub(crate) fn claim(&self, pid: LocalPid) -> Vec<Entry> {
        let mut state = self.0.lock();
        state.claimed_by = Some(pid);
        std::mem::take(&mut state.kept)
    }

    /// Tells the process that claimed the server that its thread has ended. Must not run on a scheduler thread.
    pub(crate) fn ended(&self, reason: impl Encoder) {
        let claimed_by = self.0.lock().claimed_by;
        if let Some(pid) = claimed_by {
            let message = (atoms::embedded_epmd(), atoms::stopped(), reason);
            let _ = OwnedEnv::new().send_and_clear(&pid, |env| message.encode(env));
        }
    }
}

impl Encoder for Entry {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let level = match self.level {
            Level::ERROR => atoms::error(),
            Level::WARN => atoms::warning(),
            Level::INFO => atoms::info(),
            _ => atoms::debug(),
        };
        (level, &self.text).encode(env)
    }
}

impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO && metadata.target().starts_with("epmd_core")
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Sentence::default();
        event.record(&mut text);
        let entry = Entry { level: *event.metadata().level(), text: text.0 + &text.1 };
        let mut state = self.0.lock();
        match state.claimed_by {
            Some(pid) => {
                drop(state);
                let message = (atoms::embedded_epmd(), atoms::log(), entry);
                let _ = OwnedEnv::new().send_and_clear(&pid, |env| message.encode(env));
            }
            None if state.kept.len() < KEPT => state.kept.push(entry),
            None => {}
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The message and the fields of an event.
#[derive(Default)]
struct Sentence(String, String);

impl Visit for Sentence {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.1, " {name}={value:?}"),
        };
    }
}
