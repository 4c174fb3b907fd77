//! The scripts, most of them made from tables. In each script connections are numbered in the order of their requests.

mod control;
mod framing;
mod registration;
mod table;

use crate::differential::script::Script;
use epmd_tools::request::{alive2, dump, kill, names, port_please2, stop};

/// The requests, each well-formed, by name.
fn requests() -> [(&'static str, Vec<u8>); 6] {
    [
        ("ALIVE2", alive2("one", 4001)),
        ("PORT_PLEASE2", port_please2("one")),
        ("NAMES", names()),
        ("DUMP", dump()),
        // With `keeper` registered, the reply to KILL_REQ is NO.
        ("KILL", kill()),
        ("STOP", stop("one")),
    ]
}

/// A script with a node registered on connection 0, so that the table is not empty.
fn with_keeper(family: &'static str, title: impl Into<String>) -> Script {
    Script::new(family, title).ask(0, alive2("keeper", 4000))
}

pub(crate) fn all() -> Vec<Script> {
    [
        framing::lengths(),
        framing::unfinished(),
        framing::segments(),
        framing::stray_bytes(),
        framing::half_closes(),
        framing::resets(),
        framing::unknown_tags(),
        registration::alive2_lengths(),
        registration::alive2_names(),
        registration::forged_names(),
        registration::alive2_fields(),
        registration::alive2_extra(),
        table::port_please2_names(),
        framing::padding(),
        table::listings(),
        table::registering_again(),
        table::duplicates(),
        table::after_registration(),
        control::kills(),
        control::stops(),
        control::timeouts(),
    ]
    .concat()
}
