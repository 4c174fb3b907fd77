//! Runs an [`epmd_core::Member`] inside an Erlang VM. This crate knows terms and threads, and no protocol.

mod config;
mod error;
mod events;
mod server;

mod atoms {
    rustler::atoms! {
        cannot_listen, duplicate_name, elsewhere, held, invalid_setting, log, no_thread, noport, owner, panicked,
        port, stopped, timeout, unsettled, embedded_epmd, error, warning, info, debug,
    }
}

rustler::init!("Elixir.EmbeddedEpmd.Native");
