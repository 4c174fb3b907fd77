//! Names that belong to users: only a process of theirs may register one.

#[cfg_attr(not(target_os = "linux"), path = "reserved_names/without_linux.rs")]
mod linux;
mod unknown;

use std::fmt;

use crate::node::NodeName;
use crate::users::{own_user, Account};

pub(crate) use linux::Kernel;
pub(crate) use unknown::Unknown;

/// Whether this system tells whose a connection is: only Linux is asked.
pub(crate) const ARE_TOLD: bool = cfg!(target_os = "linux");
/// How many users a refusal names.
const TOLD: usize = 5;

/// Names and patterns of names, and to whom they belong. The first that matches a name counts, as in `pg_hba.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReservedNames {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// A name, or one in which `*` stands for any characters.
    pattern: String,
    users: Vec<Account>,
}

/// Why somebody may not register a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotTheirs {
    owners: String,
    is: Result<u32, Unknown>,
}

impl ReservedNames {
    /// Each name or pattern with its users, by their names in the system's database or by their numbers. Nobody is asked
    /// for the numbers of names yet.
    ///
    /// # Errors
    ///
    /// A sentence that tells what was expected, and what came.
    pub fn named(list: impl IntoIterator<Item = (String, Vec<String>)>) -> Result<Self, String> {
        let rules = list.into_iter().map(|(pattern, users)| Rule::new(pattern, &users));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// The same list with the numbers that its users have now. A directory may have to be asked, which may take long.
    pub fn resolved(&self) -> Self {
        Self { rules: self.rules.iter().map(Rule::resolved).collect() }
    }

    /// All users of the list.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.rules.iter().flat_map(|rule| &rule.users)
    }

    /// Whether this process may register a name. It may if the name belongs to a user whom nobody has now: it may be this
    /// process's user, whose directory does not answer yet.
    ///
    /// # Errors
    ///
    /// A sentence that tells whose the name is, and what to do.
    pub fn admit_own_user(&self, name: &NodeName) -> Result<(), String> {
        let own = own_user();
        if self.rule(name).is_some_and(|rule| rule.users.iter().any(|user| user.number().is_none())) {
            return Ok(());
        }
        self.admit(name, Ok(own)).map_err(|NotTheirs { owners, .. }| {
            format!(
                "the name {name:?} of this node belongs to {owners}, and this VM runs as user {own}: run it as whom the \
                 name belongs to, or correct the setting reserved_names"
            )
        })
    }

    /// Whether a name belongs to anybody.
    pub(crate) fn reserve(&self, name: &NodeName) -> bool {
        self.rule(name).is_some()
    }

    fn rule(&self, name: &NodeName) -> Option<&Rule> {
        self.rules.iter().find(|rule| matches(&rule.pattern, name.as_str()))
    }

    /// Whether this user may register a name.
    pub(crate) fn admit(&self, name: &NodeName, user: Result<u32, Unknown>) -> Result<(), NotTheirs> {
        let Some(rule) = self.rule(name) else { return Ok(()) };
        match user {
            Ok(user) if rule.users.iter().any(|owner| owner.number() == Some(user)) => Ok(()),
            is => Err(NotTheirs { owners: told(&rule.users), is }),
        }
    }
}

impl Rule {
    fn new(pattern: String, users: &[String]) -> Result<Self, String> {
        let expected = |reason: String| {
            format!(
                "expected the name of a node without its host, or a pattern such as \"billing_*\", got {pattern:?}: {reason}"
            )
        };
        NodeName::new(pattern.as_bytes()).map_err(|error| expected(error.to_string()))?;
        if pattern.contains('@') {
            return Err(expected("it holds '@'".into()));
        }
        if users.is_empty() {
            return Err(format!("expected at least one user for {pattern:?}, got none"));
        }
        Ok(Self { pattern, users: users.iter().map(|name| Account::user(name)).collect() })
    }

    fn resolved(&self) -> Self {
        Self { pattern: self.pattern.clone(), users: self.users.iter().map(Account::resolved).collect() }
    }
}

/// Users by their names, and by the numbers that these have now.
fn told(users: &[Account]) -> String {
    let user = |user: &Account| match (user.is_named(), user.number()) {
        (true, Some(number)) => format!("{} ({number})", user.name()),
        (true, None) => format!("{} (unknown on this host)", user.name()),
        (false, _) => user.name().into(),
    };
    let mut list: Vec<_> = users.iter().take(TOLD).map(user).collect();
    if users.len() > TOLD {
        list.push("others".into());
    }
    format!("{} {}", if users.len() == 1 { "user" } else { "users" }, list.join(", "))
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut left) = name.strip_prefix(first) else { return false };
    for part in middle.split('*') {
        match left.split_once(part) {
            Some((_, after)) => left = after,
            None => return false,
        }
    }
    left.ends_with(last)
}

impl fmt::Display for NotTheirs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owners, is } = self;
        match is {
            Ok(user) => write!(f, "the name belongs to {owners}, and user {user} asks for it"),
            Err(unknown) => {
                write!(f, "the name belongs to {owners}, and the user that asks for it cannot be determined: {unknown}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved(list: &[(&str, &[&str])]) -> Result<ReservedNames, String> {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        ReservedNames::named(list.iter().map(|(pattern, users)| ((*pattern).into(), owned(users))))
            .map(|list| list.resolved())
    }

    fn admitted(owners: &ReservedNames, name: &str, user: u32) -> bool {
        owners.admit(&NodeName::new(name.as_bytes()).expect("a valid name"), Ok(user)).is_ok()
    }

    #[test]
    fn a_name_is_its_users_and_any_other_is_everybodys() {
        let owners = reserved(&[("prod", &["1"]), ("billing_*", &["2", "3"])]).expect("a valid list");
        for (name, users) in
            [("prod", &[1][..]), ("billing_", &[2, 3]), ("billing_a", &[2, 3]), ("prod2", &[1, 2, 3, 4])]
        {
            let found: Vec<_> = (1..=4).filter(|user| admitted(&owners, name, *user)).collect();
            assert_eq!(found, users, "{name}");
        }
    }

    #[test]
    fn who_asks_does_not_matter_for_a_name_that_is_nobodys() {
        let name = NodeName::new(b"stage").expect("a valid name");
        let owners = reserved(&[("prod", &["1"])]).expect("a valid list");
        assert_eq!(owners.admit(&name, Err(Unknown::Closed)), Ok(()));
        assert_eq!(ReservedNames::default().admit(&name, Err(Unknown::Closed)), Ok(()));
    }

    #[test]
    fn the_first_that_matches_counts() {
        let owners = reserved(&[("app_canary", &["4"]), ("*_canary", &["3"]), ("app*", &["2"]), ("*", &["1"])]);
        let owners = owners.expect("a valid list");
        for (name, user) in [("any", 1), ("app1", 2), ("app_canary", 4), ("x_canary", 3), ("app1_canary", 3)] {
            assert!(admitted(&owners, name, user), "{name}");
            assert!(!(1..=4).any(|other| other != user && admitted(&owners, name, other)), "{name}");
        }
    }

    #[test]
    fn what_is_no_list_of_names_and_users_is_told() {
        let error = |list: &[(&str, &[&str])]| reserved(list).expect_err("not valid");
        assert_eq!(
            error(&[("a b", &["1"])]),
            "expected the name of a node without its host, or a pattern such as \"billing_*\", got \"a b\": it holds ' '"
        );
        assert!(error(&[("", &["1"])]).ends_with("got \"\": it is empty"));
        assert!(error(&[("prod@host", &["1"])]).ends_with("got \"prod@host\": it holds '@'"));
        assert_eq!(error(&[("prod", &[])]), "expected at least one user for \"prod\", got none");
    }

    #[test]
    fn a_refusal_says_whose_the_name_is_and_who_asks() {
        let name = NodeName::new(b"prod").expect("a valid name");
        let list = reserved(&[("prod", &["root", "4711"])]).expect("a valid list");
        let said = |who| list.admit(&name, who).expect_err("not theirs").to_string();
        assert_eq!(said(Ok(7)), "the name belongs to users root (0), 4711, and user 7 asks for it");
        assert_eq!(
            said(Err(Unknown::Closed)),
            "the name belongs to users root (0), 4711, and the user that asks for it cannot be determined: the other end of the connection is closed"
        );
        let many: Vec<_> = (1..100).map(|user: u32| Account::user(&user.to_string())).collect();
        assert_eq!(told(&many), "users 1, 2, 3, 4, 5, others");
    }

    #[test]
    fn a_name_of_a_user_whom_nobody_has_is_refused_to_everybody_else() {
        let name = NodeName::new(b"prod").expect("a valid name");
        let list = reserved(&[("prod", &["nobody-of-that-name", "4711"])]).expect("a valid list");
        assert_eq!(list.admit(&name, Ok(4711)), Ok(()));
        assert_eq!(
            list.admit(&name, Ok(7)).expect_err("not theirs").to_string(),
            "the name belongs to users nobody-of-that-name (unknown on this host), 4711, and user 7 asks for it"
        );
        // This process may be that user's.
        assert_eq!(list.admit_own_user(&name), Ok(()));
        assert!(reserved(&[("prod", &["4711"])]).expect("a valid list").admit_own_user(&name).is_err());
    }
}
