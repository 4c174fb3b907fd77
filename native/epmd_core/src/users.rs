//! Users and groups of this host, by their names in the system's databases or by their numbers.

use std::fmt;
use std::sync::OnceLock;

use crate::os;

/// The user of this process, as the kernel reports it to others.
pub fn own_user() -> u32 {
    os::own_user()
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

/// A user or a group, by its name in the system's databases or by its number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Account {
    kind: Kind,
    name: String,
    /// The number that the name has now, as far as that is known.
    number: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    User,
    Group,
}

/// The number of a user, if there is one. A directory may have to be asked.
pub fn user(name: &str) -> Option<u32> {
    Account::user(name).resolved().number
}

impl Account {
    /// A user. Nobody is asked yet.
    pub(crate) fn user(name: &str) -> Self {
        Self { kind: Kind::User, name: name.into(), number: name.parse().ok() }
    }

    /// A group. Nobody is asked yet.
    pub(crate) fn group(name: &str) -> Self {
        Self { kind: Kind::Group, ..Self::user(name) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn number(&self) -> Option<u32> {
        self.number
    }

    /// Whether it is a name, whose number may change.
    pub(crate) fn is_named(&self) -> bool {
        self.name.parse::<u32>().is_err()
    }

    /// The same account with the number that it has now. A directory may have to be asked, which may take long; if that
    /// fails, what was known holds.
    pub(crate) fn resolved(&self) -> Self {
        let number = match self.kind {
            _ if !self.is_named() => Ok(self.number),
            Kind::User => os::user_of_name(&self.name),
            Kind::Group => os::group_of_name(&self.name),
        };
        Self { number: number.unwrap_or(self.number), ..self.clone() }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::User => write!(f, "user {}", self.name),
            Kind::Group => write!(f, "group {}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_those_of_the_host() {
        let group = |name| Account::group(name).resolved().number;
        assert_eq!((user("root"), group("0")), (Some(0), Some(0)));
        assert_eq!((user("4711"), group("root")), (Some(4711), Some(0)));
        assert_eq!((user("nobody-of-that-name"), group("nobody-of-that-name")), (None, None));
    }

    #[test]
    fn a_number_is_known_without_asking() {
        assert_eq!(Account::user("4711").number(), Some(4711));
        assert_eq!(Account::user("root").number(), None);
    }

    #[test]
    fn a_name_that_nobody_has_any_more_has_no_number() {
        let gone = Account { number: Some(4711), ..Account::user("nobody-of-that-name") };
        assert_eq!(gone.resolved().number(), None);
    }
}
