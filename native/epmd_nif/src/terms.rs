//! Enumerations that are atoms in the VM.

use epmd_core::{Keeps, Role, Table};

/// The least severe level of log entries that is wanted.
#[derive(Clone, Copy, rustler::NifUnitEnum)]
pub(crate) enum Verbosity {
    None,
    Error,
    Warning,
    Notice,
    Info,
    Debug,
}

#[derive(rustler::NifUnitEnum)]
pub(crate) enum RoleAtom {
    Searching,
    Serving,
    Joined,
    Stopped,
}

impl From<Role> for RoleAtom {
    fn from(role: Role) -> Self {
        match role {
            Role::Searching => Self::Searching,
            Role::Serving => Self::Serving,
            Role::Joined => Self::Joined,
        }
    }
}

#[derive(rustler::NifUnitEnum)]
pub(crate) enum TableAtom {
    Here,
    Copy,
    Owner,
}

impl From<Table> for TableAtom {
    fn from(table: Table) -> Self {
        match table {
            Table::Here => Self::Here,
            Table::Copy => Self::Copy,
            Table::Owner => Self::Owner,
        }
    }
}

#[derive(rustler::NifUnitEnum)]
pub(crate) enum KeepsAtom {
    All,
    Some,
    Nothing,
}

impl From<Keeps> for KeepsAtom {
    fn from(kept: Keeps) -> Self {
        match kept {
            Keeps::All => Self::All,
            Keeps::Some => Self::Some,
            Keeps::Nothing => Self::Nothing,
        }
    }
}
