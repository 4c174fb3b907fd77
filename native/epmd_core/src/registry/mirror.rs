//! A member's read-only copy of its owner's table, for look-ups and for events.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::entry::{ByName, Entry, Holder};
use super::follower::{Counters, Position};
use super::refusals::Refusal;
use super::replica::Impossible;
use super::unconfirmed::Unconfirmed;
use crate::journal::{Change, Journal};
use crate::node::Node;
use crate::protocol::Port2Reply;

/// A handle to the copy of the owner's table, cheap to clone. Only the owner's messages change the copy.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    state: Arc<Mutex<Option<Image>>>,
    journal: Journal,
}

/// The nodes of a table at a position.
#[derive(Debug)]
pub(crate) struct Image {
    /// Where the owner listens.
    addresses: Vec<IpAddr>,
    position: Position,
    names: HashSet<ByName>,
    /// Oldest first.
    by_age: BTreeMap<u64, Arc<Entry>>,
    /// Refusals that are not in the journal yet.
    refusals: Vec<Refusal>,
}

impl Image {
    /// An empty image of the table that is served at these addresses.
    pub(crate) fn new(addresses: &[IpAddr], epoch: u64, refusals: u64) -> Self {
        let position = Position { epoch, registrations: 0, refusals };
        let (names, by_age) = (HashSet::new(), BTreeMap::new());
        Self { addresses: addresses.to_vec(), position, names, by_age, refusals: Vec::new() }
    }

    fn is_asked_at(&self, address: IpAddr) -> bool {
        let is_any = |bound: &IpAddr| bound.is_unspecified() && bound.is_ipv4() == address.is_ipv4();
        self.addresses.iter().any(|bound| *bound == address || is_any(bound))
    }

    pub(crate) fn counted(&mut self, counters: Counters) {
        self.position.registrations = counters.registrations;
    }

    /// A node, as it is registered with the owner.
    pub(crate) fn entry(id: u64, creation: u32, node: &Node) -> Arc<Entry> {
        // Only the owner has the connection.
        let holder = Holder::Connection(Weak::<std::net::TcpStream>::new());
        Arc::new(Entry::new(id, creation, holder, Port2Reply::new(node)))
    }

    pub(crate) fn enter(&mut self, entry: Arc<Entry>) -> Result<(), Impossible> {
        let id = entry.id();
        let is_next = self.by_age.last_key_value().is_none_or(|(last, _)| *last < id);
        if !is_next || !self.names.insert(ByName(Arc::clone(&entry))) {
            return Err(Impossible("a registration that is there already"));
        }
        self.by_age.insert(id, entry);
        self.position.registrations = self.position.registrations.max(id);
        Ok(())
    }

    pub(crate) fn leave(&mut self, id: u64) -> Result<Arc<Entry>, Impossible> {
        let left = self.by_age.remove(&id).ok_or(Impossible("the end of a registration that is not there"))?;
        self.names.remove(left.name());
        Ok(left)
    }

    /// Keeps a refusal until the image replaces the last one.
    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.position.refusals = refusal.number;
        self.refusals.push(refusal);
    }

    fn get(&self, id: u64) -> Option<Arc<Entry>> {
        self.by_age.get(&id).cloned()
    }
}

impl Mirror {
    /// An empty mirror that records changes in this journal.
    pub(crate) fn new(journal: Journal) -> Self {
        Self { state: Arc::default(), journal }
    }

    /// Whether there is a copy.
    pub(crate) fn is_there(&self) -> bool {
        self.state.lock().is_some()
    }

    /// The position of the copy, if there is one.
    pub(crate) fn position(&self) -> Option<Position> {
        self.state.lock().as_ref().map(|image| image.position)
    }

    /// Finds a node by its name, if the owner serves this address.
    pub(crate) fn find(&self, address: IpAddr, name: &[u8]) -> Option<Arc<Entry>> {
        let state = self.state.lock();
        let image = state.as_ref().filter(|image| image.is_asked_at(address))?;
        image.names.get(name).map(|ByName(entry)| Arc::clone(entry))
    }

    /// The registration with this number.
    pub(crate) fn get(&self, id: u64) -> Option<Arc<Entry>> {
        self.state.lock().as_ref()?.get(id)
    }

    /// All nodes, the newest registration first, if there is a copy.
    pub(crate) fn entries(&self) -> Option<Vec<Arc<Entry>>> {
        Some(self.state.lock().as_ref()?.by_age.values().rev().cloned().collect())
    }

    /// All nodes, the newest registration first, and the number of the last change that they include.
    pub(crate) fn snapshot(&self) -> (u64, Vec<Arc<Entry>>) {
        let state = self.state.lock();
        let nodes = state.iter().flat_map(|image| image.by_age.values().rev().cloned()).collect();
        (self.journal.number(), nodes)
    }

    /// Replaces the image, and records the differences.
    pub(crate) fn replace(&self, mut image: Image) {
        let mut state = self.state.lock();
        let last = state.take();
        let mut unconfirmed = Unconfirmed::of(last.into_iter().flat_map(|last| last.by_age.into_values()));
        image.by_age.values().for_each(|entry| unconfirmed.registered(entry, &self.journal));
        unconfirmed.settled(&self.journal);
        image.refusals.drain(..).for_each(|refusal| self.journal.record(|| refusal.change()));
        *state = Some(image);
    }

    /// Applies a step, and records it.
    pub(crate) fn entered(&self, entry: Arc<Entry>) -> Result<(), Impossible> {
        if let Some(image) = self.state.lock().as_mut() {
            image.enter(Arc::clone(&entry))?;
            self.journal.record(|| entry.registered());
        }
        Ok(())
    }

    /// Applies a step, and records it.
    pub(crate) fn left(&self, id: u64) -> Result<(), Impossible> {
        if let Some(image) = self.state.lock().as_mut() {
            let left = image.leave(id)?;
            self.journal.record(|| left.unregistered());
        }
        Ok(())
    }

    /// Records a refusal.
    pub(crate) fn refused(&self, refusal: Refusal) {
        if let Some(image) = self.state.lock().as_mut() {
            image.position.refusals = refusal.number;
            self.journal.record(|| refusal.change());
        }
    }

    /// Gives the copy up, since it is not kept up to date any more.
    pub(crate) fn give_up(&self) {
        let mut state = self.state.lock();
        if state.take().is_some() {
            self.journal.record(|| Change::Lost);
        }
    }

    /// Takes the copy out for the table that replaces it: its nodes, and the number of its last refusal.
    pub(crate) fn take(&self) -> (Unconfirmed, u64) {
        let image = self.state.lock().take();
        let refusals = image.as_ref().map_or(u64::MAX, |image| image.position.refusals);
        (Unconfirmed::of(image.into_iter().flat_map(|image| image.by_age.into_values())), refusals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::NodeName;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn node(name: &str) -> Node {
        Node::erlang(NodeName::new(name.as_bytes()).expect("a valid name"), 1)
    }

    fn entry(id: u64, name: &str) -> Arc<Entry> {
        Image::entry(id, 7, &node(name))
    }

    fn image(nodes: &[(u64, &str)]) -> Image {
        let mut image = Image::new(&[LOCAL], 1, 0);
        nodes.iter().for_each(|(id, name)| image.enter(entry(*id, name)).expect("a new one"));
        image
    }

    /// A mirror, and a record of what its observer is told.
    fn observed() -> (Mirror, Arc<Mutex<Vec<String>>>) {
        let told = Arc::<Mutex<Vec<String>>>::default();
        let observer = Arc::clone(&told);
        let journal = Journal::observed_by(Arc::new(move |_, change| {
            observer.lock().push(match change {
                Change::Registered { name, .. } => format!("+{name}"),
                Change::Unregistered { name, .. } => format!("-{name}"),
                Change::Refused { name, .. } => format!("!{name}"),
                change => format!("{change:?}"),
            });
        }));
        (Mirror::new(journal), told)
    }

    fn names(mirror: &Mirror) -> Vec<String> {
        let name = |entry: &Arc<Entry>| String::from_utf8_lossy(entry.name()).into_owned();
        mirror.snapshot().1.iter().map(name).collect()
    }

    #[test]
    fn only_what_differs_from_the_last_image_is_told() {
        let (mirror, told) = observed();
        mirror.replace(image(&[(1, "a"), (2, "b")]));
        mirror.entered(entry(3, "c")).expect("a new one");
        mirror.left(1).expect("it is there");
        assert_eq!(std::mem::take(&mut *told.lock()), ["+a", "+b", "+c", "-a"]);
        // Another owner numbers them anew. "a" was gone before, "d" is new, and "b" has registered again.
        let mut next = image(&[(1, "c"), (2, "d")]);
        next.enter(Image::entry(3, 8, &node("b"))).expect("a new one");
        mirror.replace(next);
        assert_eq!(std::mem::take(&mut *told.lock()), ["+d", "-b", "+b"]);
        assert_eq!(names(&mirror), ["b", "d", "c"]);
        mirror.replace(image(&[(1, "c")]));
        assert_eq!(std::mem::take(&mut *told.lock()), ["-d", "-b"]);
    }

    #[test]
    fn a_copy_that_is_lost_is_told_once_and_answers_nothing() {
        let (mirror, told) = observed();
        mirror.replace(image(&[(1, "a")]));
        assert!(mirror.find(LOCAL, b"a").is_some());
        assert!(mirror.find([127, 0, 0, 2].into(), b"a").is_none(), "the owner is not asked there");
        mirror.give_up();
        mirror.give_up();
        assert_eq!(*told.lock(), ["+a", "Lost"]);
        assert!(mirror.find(LOCAL, b"a").is_none() && mirror.entries().is_none() && names(&mirror).is_empty());
    }

    #[test]
    fn what_no_table_says_is_not_applied() {
        let (mirror, told) = observed();
        mirror.replace(image(&[(1, "a"), (3, "c")]));
        assert!(mirror.entered(entry(4, "a")).is_err());
        assert!(mirror.entered(entry(2, "b")).is_err());
        assert!(mirror.left(2).is_err());
        assert_eq!(*told.lock(), ["+a", "+c"]);
        assert_eq!(names(&mirror), ["c", "a"]);
    }
}
