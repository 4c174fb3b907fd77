//! Whether the process at the other end of a Unix socket may have an owner's sockets, or give its own.
//!
//! The same number is not the same user: a process with this number in a container has neither our files nor our
//! processes. So a process of this user is trusted if it shares our user, mount and PID namespaces, and one that does not
//! only if its user is listed in `:hand_over`.

use std::fs;
use std::io::{Error, ErrorKind};

use rustix::fd::AsFd;

use super::settings::Trusted;
use crate::os::{self, UnixStream};
use crate::users::{is_unmapped, own_user};

/// The namespaces that make a process one of this host's, as in `/proc/PID/ns`.
const NAMESPACES: [&str; 3] = ["user", "mnt", "pid"];

/// Checks the process at the other end, by what the kernel said of it when it connected or listened. Returns its id,
/// where that is visible.
///
/// # Errors
///
/// `PermissionDenied` with a sentence that says why it is not trusted, or `NotConnected` if it has ended: it may have been
/// trusted.
pub(crate) fn check(stream: &UnixStream, trusted: &Trusted) -> Result<Option<i32>, Error> {
    let (user, group, pid) = os::peer_of(stream)?;
    let denied = |why: &str| {
        let process = pid.map_or("a process".into(), |pid| format!("process {pid}"));
        let text = format!("{process} of the user {user} {why}");
        Err(Error::new(ErrorKind::PermissionDenied, text))
    };
    if is_unmapped(user) {
        return denied("is outside of the user namespace of this VM");
    }
    if trusted.lists(user, group, || os::peer_groups(stream.as_fd())) {
        return Ok(pid);
    }
    if user != own_user() {
        return denied("is not listed in :hand_over");
    }
    let Some(number) = pid else {
        return denied("is in another PID namespace; to trust it, list its user in :hand_over");
    };
    match shares_namespaces(stream, number) {
        Ok(None) => Ok(pid),
        Ok(Some(other)) => {
            denied(&format!("is in another namespace ({other}); to trust it, list its user in :hand_over"))
        }
        Err(error) if error.kind() == ErrorKind::NotConnected => Err(error),
        Err(error) => denied(&format!(
            "is in namespaces that cannot be compared with ours: {error}; to trust it, list its user in :hand_over"
        )),
    }
}

/// The first of the namespaces that differs, if one does.
fn shares_namespaces(stream: &UnixStream, pid: i32) -> Result<Option<&'static str>, Error> {
    // As long as this is open, the process's number is not given to another.
    let process = os::peer_process(stream.as_fd());
    let other = other_namespace(pid);
    match process {
        Some(process) if !os::is_running(&process) => Err(ErrorKind::NotConnected.into()),
        _ => other,
    }
}

fn other_namespace(pid: i32) -> Result<Option<&'static str>, Error> {
    // Another PID namespace's /proc would tell of other processes.
    if fs::read_link("/proc/self")?.to_str() != Some(&std::process::id().to_string()) {
        return Ok(Some("pid"));
    }
    for namespace in NAMESPACES {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{namespace}"));
        let own = of("self")?;
        match of(&pid.to_string()) {
            Ok(other) if other == own => {}
            Ok(_) => return Ok(Some(namespace)),
            // A process that is ending has none, some time before it has ended.
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(ErrorKind::NotConnected.into()),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
