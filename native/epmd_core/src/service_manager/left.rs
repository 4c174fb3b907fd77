//! What one life of a VM leaves to the next one in the same process, as the service manager keeps it for the next
//! process: `init:restart` ends the VM and not the process, and may unmap this library between the two.
//!
//! The descriptors stay open. Which they are stands in a file in memory, which is found by its name.

use std::fs;
use std::io::{self, Read, Seek, Write};

use rustix::fd::{AsRawFd, IntoRawFd, RawFd};

use super::Named;
use crate::os;

const LIST: &str = "epmd-left";
const OWN_DESCRIPTORS: &str = "/proc/self/fd";

/// Leaves these. If the process ends they end with it.
pub(super) fn leave(stored: Vec<Named>) -> io::Result<()> {
    let mut list = os::memory_file(LIST)?;
    let lines: String =
        stored.iter().map(|(name, descriptor)| format!("{} {name}\n", descriptor.as_raw_fd())).collect();
    list.write_all(lines.as_bytes())?;
    for (_, descriptor) in stored {
        let _ = descriptor.into_raw_fd();
    }
    let _ = os::descriptor_of(list)?.into_raw_fd();
    Ok(())
}

/// Takes what was left, if anything was.
pub(super) fn take() -> io::Result<Vec<Named>> {
    let Some(number) = find() else { return Ok(Vec::new()) };
    let (mut list, mut lines) = (os::file_of(os::take_passed(number)?)?, String::new());
    list.rewind()?;
    list.read_to_string(&mut lines)?;
    let take = |line: &str| {
        let (number, name) = line.split_once(' ')?;
        Some(os::take_passed(number.parse().ok()?).map(|descriptor| (name.to_owned(), descriptor)))
    };
    lines.lines().filter_map(take).collect()
}

fn find() -> Option<RawFd> {
    let begin = format!("/memfd:{LIST} ");
    let is_list = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with(&begin))
    };
    let entry = fs::read_dir(OWN_DESCRIPTORS).ok()?.flatten().find(is_list)?;
    entry.file_name().to_str()?.parse().ok()
}
