//! Runs an [`epmd_core::Member`] inside an Erlang VM. This crate knows terms and threads, and no protocol.

mod config;
mod error;
mod events;
mod server;

mod atoms {
    rustler::atoms! {
        already_registered, cannot_listen, debug, duplicate_name, elsewhere, embedded_epmd, error, events, held, info,
        invalid_setting, no_thread, noport, notice, owner, panicked, port, refused, registered, role, stopped, table, timeout,
        unregistered, unsettled, warning,
    }
}

rustler::init!("Elixir.EmbeddedEpmd.Native");
