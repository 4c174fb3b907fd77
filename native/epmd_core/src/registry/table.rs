//! The table of registered nodes.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::futures::Notified;
use tokio::sync::Notify;

use super::departed::DepartedName;
use super::entry::{ByName, Entry, Holder};
use super::follower::{Follower, Position};
use super::refusals::Refusal;
use super::state::{Contents, State};
use super::unconfirmed::Unconfirmed;
use crate::journal::Journal;
use crate::node::Node;
use crate::protocol::Port2Reply;

/// A handle to the table of registered nodes, cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    state: Mutex<State>,
    /// Wakes look-ups that wait for a name while the table fills.
    registered: Notify,
    journal: Journal,
}

/// A registration. When it is dropped, its own entry leaves the table, and no later entry of the same name.
#[derive(Debug)]
pub struct Registration {
    registry: Registry,
    entry: Arc<Entry>,
}

/// The name is taken by this entry.
#[derive(Debug)]
pub struct NameTaken(pub Arc<Entry>);

impl Registry {
    /// An empty table whose changes are recorded.
    pub fn with_journal(journal: Journal) -> Self {
        Self(Arc::new(Table { journal, ..Table::default() }))
    }

    /// The journal in which changes are recorded.
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// All nodes, the newest registration first, and the number of the last change that they include.
    pub fn snapshot(&self) -> (u64, Vec<Arc<Entry>>) {
        let state = self.0.state.lock();
        // To observers, nodes that may still register again are registered.
        let unconfirmed = state.unconfirmed.by_age().rev();
        (self.0.journal.number(), state.by_age.values().rev().cloned().chain(unconfirmed).collect())
    }

    /// Registers a node with a creation that its name did not have before.
    pub fn register(&self, node: &Node, holder: Holder) -> Result<Registration, NameTaken> {
        self.insert(node, holder, None)
    }

    /// Registers a node that runs already, with the creation that it has.
    pub fn restore(&self, node: &Node, holder: Holder, creation: u32) -> Result<Registration, NameTaken> {
        self.insert(node, holder, Some(creation))
    }

    fn insert(&self, node: &Node, holder: Holder, creation: Option<u32>) -> Result<Registration, NameTaken> {
        let name = node.name.as_str().as_bytes();
        let mut state = self.0.state.lock();
        if let Some(ByName(entry)) = state.names.get(name) {
            return Err(NameTaken(Arc::clone(entry)));
        }
        let next = state.departed.next_creation(name);
        state.registrations += 1;
        let entry = Arc::new(Entry::new(state.registrations, creation.unwrap_or(next), holder, Port2Reply::new(node)));
        state.enter(&entry);
        state.unconfirmed.registered(&entry, &self.0.journal);
        drop(state);
        self.0.registered.notify_waiters();
        Ok(Registration::new(self, entry))
    }

    /// Finds a node by its name.
    pub fn find(&self, name: &[u8]) -> Option<Arc<Entry>> {
        self.0.state.lock().names.get(name).map(|ByName(entry)| Arc::clone(entry))
    }

    /// The nodes of the last owner's table will register again until this time. Until then, a missing name may still
    /// come.
    pub fn fills_until(&self, settled: Instant) {
        self.0.state.lock().fills_until = Some(settled);
    }

    /// Observers know these nodes. If they register again unchanged, that is not recorded.
    pub(crate) fn expect(&self, unconfirmed: Unconfirmed) {
        self.0.state.lock().unconfirmed = unconfirmed;
    }

    /// Ends the wait for nodes of the last owner's table.
    pub(crate) fn settle(&self) {
        let mut state = self.0.state.lock();
        state.fills_until = None;
        state.unconfirmed.settled(&self.0.journal);
        state.followers().for_each(|follower| follower.settled());
    }

    /// Records a refused registration, and passes it on to followers.
    pub fn refuse(&self, name: &str, reason: impl Into<Cow<'static, str>>) {
        let mut state = self.0.state.lock();
        let refusal = Refusal { number: state.refusals.last + 1, name: name.into(), reason: reason.into() };
        state.refusals.add(refusal.clone());
        state.followers().for_each(|follower| follower.refused(&refusal));
        self.0.journal.record(|| refusal.change());
    }

    /// Until when a missing name may still come, if it may.
    pub(crate) fn settles_at(&self) -> Option<Instant> {
        self.0.state.lock().fills_until
    }

    /// Whether a missing name is certainly not registered.
    pub fn is_settled(&self) -> bool {
        self.settles_at().is_none_or(|settled| settled <= Instant::now())
    }

    /// Finds a node by its name, and waits for it while the table fills.
    pub async fn find_when_settled(&self, name: &[u8]) -> Option<Arc<Entry>> {
        // It may have settled since the caller looked.
        let Some(settled) = self.settles_at() else { return self.find(name) };
        let found = async {
            loop {
                // Created before the check, so that nothing in between is missed.
                let registered = self.0.registered.notified();
                match self.find(name) {
                    Some(entry) => return entry,
                    None => registered.await,
                }
            }
        };
        tokio::time::timeout_at(settled.into(), found).await.ok().or_else(|| self.find(name))
    }

    /// All nodes, the newest registration first.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.0.state.lock().by_age.values().rev().cloned().collect()
    }

    /// How often the table has changed.
    pub fn changes(&self) -> u64 {
        let state = self.0.state.lock();
        state.registrations + state.departed.leaves
    }

    /// The number of registered nodes.
    pub fn len(&self) -> usize {
        self.0.state.lock().names.len()
    }

    /// Whether no node is registered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The remembered names that left, the first to leave first.
    pub fn departed(&self) -> Vec<DepartedName> {
        self.0.state.lock().departed.names()
    }

    /// Ends the registration of a name that came over a connection, and wakes its task to close it. The name of the
    /// VM's own node stays. Returns whether a registration was ended.
    pub fn stop(&self, name: &[u8]) -> bool {
        let found = self.find(name).filter(|entry| !entry.is_hosts());
        found.is_some_and(|entry| self.remove(&entry))
    }

    /// Ends all registrations that came over a connection. The name of the VM's own node stays.
    pub fn stop_all(&self) {
        for entry in self.entries().iter().rev().filter(|entry| !entry.is_hosts()) {
            self.remove(entry);
        }
    }

    /// Queues the table and each later step for a copy. What a copy at this position has already, of this table or of
    /// the one that it continues, is not sent again.
    pub(crate) fn follow(&self, copy: Option<Position>) -> Arc<Follower> {
        let mut state = self.0.state.lock();
        let follower = Arc::new(Follower::new(state.steps_beyond(copy)));
        state.followers.retain(|follower| follower.strong_count() > 0);
        state.followers.push(Arc::downgrade(&follower));
        follower
    }

    /// Fills the empty table with the contents of a copy. Observers know of the `unconfirmed` nodes, and of the
    /// refusals up to this number.
    pub(crate) fn adopt(&self, contents: Contents, mut unconfirmed: Unconfirmed, refusals: u64) {
        let (mut state, journal) = (self.0.state.lock(), &self.0.journal);
        *state = contents.into();
        state.by_age.values().for_each(|entry| unconfirmed.registered(entry, journal));
        unconfirmed.settled(journal);
        state.refusals.after(refusals).for_each(|refusal| journal.record(|| refusal.clone().change()));
        drop(state);
        self.0.registered.notify_waiters();
    }

    /// Removes exactly this entry; a later entry of the same name stays.
    fn remove(&self, entry: &Arc<Entry>) -> bool {
        let mut state = self.0.state.lock();
        if state.by_age.remove(&entry.id()).is_none() {
            return false;
        }
        state.names.remove(entry.name());
        state.departed.remember(entry.name(), entry.creation(), entry.port(), entry.descriptor());
        state.followers().for_each(|follower| follower.left(entry.id()));
        self.0.journal.record(|| entry.unregistered());
        drop(state);
        entry.ended().notify_waiters();
        true
    }

    /// Waits until an entry has left the table.
    pub async fn ended(&self, entry: &Entry) {
        // Created before the check, so that nothing in between is missed.
        let ended: Notified<'_> = entry.ended().notified();
        if self.holds(entry) {
            ended.await;
        }
    }

    fn holds(&self, entry: &Entry) -> bool {
        self.0.state.lock().by_age.contains_key(&entry.id())
    }
}

impl Registration {
    pub(super) fn new(registry: &Registry, entry: Arc<Entry>) -> Self {
        Self { registry: registry.clone(), entry }
    }

    /// The creation to tell the node.
    pub fn creation(&self) -> u32 {
        self.entry.creation()
    }

    /// Waits until somebody else ends the registration (`STOP_REQ`, `KILL_REQ`).
    pub async fn ended(&self) {
        self.registry.ended(&self.entry).await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.remove(&self.entry);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::super::departed::MAX_DEPARTED;
    use super::*;
    use crate::node::NodeName;

    fn node(name: &str) -> Node {
        Node::erlang(NodeName::new(name.as_bytes()).expect("a valid name"), 1)
    }

    /// A connection that has ended already.
    fn connection() -> Holder {
        Holder::Connection(Weak::<std::net::TcpStream>::new())
    }

    fn register(registry: &Registry, name: &str) -> Registration {
        registry.register(&node(name), connection()).expect("a free name")
    }

    #[test]
    fn a_name_is_held_until_its_registration_is_dropped() {
        let registry = Registry::default();
        let held = register(&registry, "a");
        assert!(registry.register(&node("a"), Holder::Host).is_err());
        assert!(registry.find(b"a").is_some());
        drop(held);
        assert!(registry.find(b"a").is_none());
        assert!(registry.is_empty());
    }

    #[test]
    fn an_ended_registration_does_not_take_its_successor_along() {
        let registry = Registry::default();
        let first = register(&registry, "a");
        assert!(registry.stop(b"a"));
        let second = register(&registry, "a");
        drop(first);
        assert!(registry.find(b"a").is_some());
        drop(second);
        assert!(registry.find(b"a").is_none());
    }

    #[test]
    fn a_node_that_came_just_before_the_table_settled_is_found() {
        let registry = Registry::default();
        let _held = register(&registry, "a");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let found = |name: &str| runtime.block_on(registry.find_when_settled(name.as_bytes())).is_some();
        assert!(found("a") && !found("b"));
        registry.fills_until(Instant::now());
        assert!(found("a") && !found("b"));
    }

    #[test]
    fn creations_of_a_name_never_repeat() {
        let registry = Registry::default();
        let first = register(&registry, "a").creation();
        assert_eq!(register(&registry, "a").creation(), first + 1);
        assert_eq!(register(&registry, "a").creation(), first + 2);
        for other in 0..=MAX_DEPARTED + 1 {
            register(&registry, &format!("other{other}"));
        }
        assert!(register(&registry, "a").creation() > first + 2);
    }

    #[test]
    fn the_newest_comes_first_and_the_departed_in_their_order() {
        let registry = Registry::default();
        let _held = [register(&registry, "a"), register(&registry, "b")];
        let names: Vec<_> = registry.entries().iter().map(|entry| entry.name().to_vec()).collect();
        assert_eq!(names, [b"b", b"a"]);
        drop(register(&registry, "c"));
        drop(register(&registry, "d"));
        drop(register(&registry, "c"));
        let names: Vec<_> = registry.departed().into_iter().map(|left| left.name).collect();
        assert_eq!(names, [Box::from(*b"d"), Box::from(*b"c")]);
    }

    #[test]
    fn nobody_stops_the_hosts_own_name() {
        let registry = Registry::default();
        let _host = registry.restore(&node("host"), Holder::Host, 5).expect("a free name");
        let _other = register(&registry, "other");
        assert!(!registry.stop(b"host"));
        registry.stop_all();
        assert_eq!(registry.len(), 1);
    }
}
