//! Users of this host.

/// The number of this process's user.
#[rustler::nif]
fn own_user() -> u32 {
    epmd_core::own_user()
}

/// The number of a user, given by name or number; `nil` if there is none. A directory may have to be asked.
#[rustler::nif(schedule = "DirtyIo")]
fn user(name: &str) -> Option<u32> {
    epmd_core::user(name)
}
