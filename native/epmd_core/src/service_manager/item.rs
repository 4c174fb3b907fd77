//! What can be in the store, and the name of each.

use std::fmt;

/// Something in the store. All that is ours has a name that begins with `epmd-`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Item {
    /// A listener. All of them have the same name.
    Listener,
    /// A log of the table. The newest has the highest number.
    Table(u64),
    /// The connection of the registration with this number.
    Connection(u64),
    /// What shows whether the store has room.
    Witness,
}

const LISTENER: &str = "epmd-listener";
const TABLE: &str = "epmd-table-";
const CONNECTION: &str = "epmd-";
const WITNESS: &str = "epmd-witness";

impl Item {
    /// The registration whose connection it is.
    pub(super) fn connection(self) -> Option<u64> {
        match self {
            Self::Connection(id) => Some(id),
            Self::Listener | Self::Table(_) | Self::Witness => None,
        }
    }

    /// What has this name, if it is ours.
    pub(super) fn named(name: &str) -> Option<Self> {
        let number = |before| name.strip_prefix(before)?.parse().ok();
        match name {
            LISTENER => Some(Self::Listener),
            WITNESS => Some(Self::Witness),
            _ => number(TABLE).map(Self::Table).or_else(|| number(CONNECTION).map(Self::Connection)),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener => f.write_str(LISTENER),
            Self::Table(number) => write!(f, "{TABLE}{number}"),
            Self::Connection(id) => write!(f, "{CONNECTION}{id}"),
            Self::Witness => f.write_str(WITNESS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_by_its_name() {
        for item in [Item::Listener, Item::Table(7), Item::Connection(7), Item::Witness] {
            assert_eq!(Item::named(&item.to_string()), Some(item));
        }
        for name in ["epmd", "epmd-", "epmd-table-", "epmd-7b", "other-7"] {
            assert_eq!(Item::named(name), None);
        }
    }
}
