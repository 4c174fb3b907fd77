//! Users and groups of this host, by their names in the system's databases or by their numbers.

use std::sync::OnceLock;

use nix::errno::Errno;
use nix::unistd::{Group, User};

/// The user of this process, as the kernel reports it to others.
pub fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether that is what the kernel says of every user who has no number in this user namespace.
pub(crate) fn is_unmapped(user: u32) -> bool {
    const OVERFLOW: u32 = 65_534;
    user == OVERFLOW && cfg!(target_os = "linux") && !is_everybody_mapped()
}

/// Whether each user has the same number in this user namespace as outside of it. That never changes, and it takes a
/// descriptor to find out.
fn is_everybody_mapped() -> bool {
    // Inside, outside, and how many.
    const EVERYBODY: [&str; 3] = ["0", "0", "4294967295"];
    static KNOWN: OnceLock<bool> = OnceLock::new();
    let read = || Some(std::fs::read_to_string("/proc/self/uid_map").ok()?.split_whitespace().eq(EVERYBODY));
    KNOWN.get().copied().or_else(read).is_some_and(|is| *KNOWN.get_or_init(|| is))
}

/// The number of a user.
///
/// # Errors
///
/// A sentence that tells what was expected and what came, where there is no such user.
pub fn user(name: &str) -> Result<u32, String> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        found => name.parse().map_err(|_| unknown("user", name, found.err())),
    }
}

/// The number of a group, with the same errors.
pub(crate) fn group(name: &str) -> Result<u32, String> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        found => name.parse().map_err(|_| unknown("group", name, found.err())),
    }
}

fn unknown(what: &str, name: &str, error: Option<Errno>) -> String {
    let reason = error.map_or(String::new(), |error| format!(": {error}"));
    format!("expected a {what} of this host, by its name or number, got {name:?}{reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_those_of_the_host() {
        assert_eq!((user("root"), group("0")), (Ok(0), Ok(0)));
        assert_eq!((user("4711"), group("root")), (Ok(4711), Ok(0)));
        let error = user("nobody-of-that-name").expect_err("no such user");
        assert!(error.starts_with("expected a user of this host, by its name or number, got"), "{error}");
    }
}
