//! Runs an [`epmd_core::Member`] inside an Erlang VM. This crate knows terms and threads, and no protocol.

mod atoms;
mod config;
mod error;
mod events;
mod hosts;
mod plan;
mod server;
mod terms;
mod users;

rustler::init!("Elixir.EmbeddedEpmd.Native");
