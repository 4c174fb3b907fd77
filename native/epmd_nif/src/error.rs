//! The errors that NIFs return: an atom, or an atom with a sentence for people.

use epmd_core::{ListenError, RegisterError, StartError};
use rustler::{Encoder, Env, Term};

use crate::atoms;

pub(crate) enum Error {
    Setting(String),
    CannotListen(String),
    Held(String),
    Register(RegisterError),
    Thread(String),
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Open(_) | StartError::Lent(_) => Self::CannotListen(error.to_string()),
            StartError::Held { .. } | StartError::Unanswered { .. } | StartError::NoRegistrations { .. } => {
                Self::Held(error.to_string())
            }
        }
    }
}

impl From<ListenError> for Error {
    fn from(error: ListenError) -> Self {
        Self::CannotListen(error.to_string())
    }
}

impl From<RegisterError> for Error {
    fn from(error: RegisterError) -> Self {
        Self::Register(error)
    }
}

impl Encoder for Error {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Self::Setting(text) => (atoms::invalid_setting(), text).encode(env),
            Self::CannotListen(text) => (atoms::cannot_listen(), text).encode(env),
            Self::Held(text) => (atoms::held(), text).encode(env),
            Self::Thread(text) => (atoms::no_thread(), text).encode(env),
            Self::Register(RegisterError::NotTheirs(text)) => (atoms::invalid_setting(), text).encode(env),
            Self::Register(RegisterError::Held(text)) => (atoms::held(), text).encode(env),
            Self::Register(RegisterError::AlreadyRegistered) => atoms::already_registered().encode(env),
            Self::Register(RegisterError::DuplicateName) => atoms::duplicate_name().encode(env),
            Self::Register(RegisterError::Timeout) => atoms::timeout().encode(env),
            Self::Register(RegisterError::Stopped) => atoms::stopped().encode(env),
        }
    }
}
