//! The atoms that the NIFs answer with.

rustler::atoms! {
    already_registered, cannot_listen, debug, duplicate_name, elsewhere, embedded_epmd, error, events, held, info,
    invalid_setting, no_thread, noport, notice, owner, panicked, port, probe, refused, registered, role, stopped, table,
    timeout, unregistered, unsettled, warning,
}
