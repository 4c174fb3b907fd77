//! The table of registered nodes.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::futures::Notified;
use tokio::sync::Notify;

use super::contents::Contents;
use super::entry::{Entry, Holder};
use super::life::{self, Past};
use super::log::{LogEntry, Position, Subscription};
use super::plan::{Planned, Ports, Promises};
use super::provisional::Provisional;
use super::refusals::NAME_TAKEN;
use super::replica::Source;
use super::tombstones::Tombstone;
use crate::address;
use crate::journal::Journal;
use crate::node::{Node, NodeName};
use crate::protocol::Port2Reply;

/// A handle to the table of registered nodes, cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    state: Mutex<State>,
    /// Wakes lookups that wait for a name in the grace period.
    registered: Notify,
    promises: Mutex<Promises>,
    journal: Journal,
    /// Called after each registration, before its node is told.
    hook: OnceLock<Hook>,
}

/// What a table knows of a name.
#[derive(Clone, Debug)]
pub enum Known {
    /// It is registered.
    Registered(Arc<Entry>),
    /// It is not.
    Missing,
    /// It is not yet: nodes of the last owner may still register again.
    Unsettled,
}

struct Hook(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) contents: Contents,
    /// Nodes of the last owner that observers know of, and that have not registered here yet.
    pub(super) provisional: Provisional,
    /// The end of the grace period, in which nodes of the last owner may register again.
    pub(super) settles_at: Option<Instant>,
    /// Those who hold replicas of this table.
    subscriptions: Vec<Weak<Subscription>>,
    /// Whose replica this is, if it is one.
    pub(super) source: Option<Source>,
    /// Another process serves, or will: nothing is registered here any more.
    is_closed: bool,
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

impl fmt::Display for NameTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME_TAKEN)
    }
}

impl std::error::Error for NameTaken {}

impl Registry {
    /// An empty table whose changes are recorded.
    pub fn with_journal(journal: Journal) -> Self {
        Self(Arc::new(Table { journal, ..Table::default() }))
    }

    /// The journal in which changes are recorded.
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    pub(super) fn wake_waiting(&self) {
        self.0.registered.notify_waiters();
    }

    /// Has this called after each registration, before its node is told. It can be set once.
    pub(crate) fn call_before_reply(&self, hook: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.hook.set(Hook(Box::new(hook)));
    }

    /// Registers no more nodes: another process will serve.
    pub(crate) fn close(&self) {
        self.state().is_closed = true;
    }

    /// Whether no more nodes are registered.
    pub(crate) fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    /// All nodes, the newest registration first, and the number of the last change that they include. Nodes that may
    /// still register again are among them.
    pub fn snapshot(&self) -> (u64, Vec<Arc<Entry>>) {
        let state = self.state();
        let nodes = state.contents.nodes().iter().rev().cloned().chain(state.provisional.by_age().rev()).collect();
        (self.0.journal.number(), nodes)
    }

    /// Registers a node of this user with a creation that its name did not have before.
    pub fn register(&self, node: &Node, user: Option<u32>, holder: Holder) -> Result<Registration, NameTaken> {
        self.insert(node.name.as_str().as_bytes(), |contents| {
            contents.register(Port2Reply::new(node), user, holder, None)
        })
    }

    /// Registers a node that runs already, with the creation that it has.
    pub fn restore(
        &self,
        node: &Node,
        user: Option<u32>,
        holder: Holder,
        creation: u32,
    ) -> Result<Registration, NameTaken> {
        self.insert(node.name.as_str().as_bytes(), |contents| {
            contents.register(Port2Reply::new(node), user, holder, Some(creation))
        })
    }

    /// Registers the node of another table's entry, with the creation that it has.
    pub(crate) fn bring(&self, entry: &Entry, holder: Holder) -> Result<Registration, NameTaken> {
        self.insert(entry.name(), |contents| contents.bring(entry, holder))
    }

    fn insert(
        &self,
        name: &[u8],
        register: impl FnOnce(&mut Contents) -> Arc<Entry>,
    ) -> Result<Registration, NameTaken> {
        let mut state = self.state();
        if let Some(entry) = state.contents.nodes().find(name) {
            return Err(NameTaken(Arc::clone(entry)));
        }
        let entry = register(&mut state.contents);
        state.append(&LogEntry::Registered(Arc::clone(&entry)));
        state.provisional.registered(&entry, &self.0.journal);
        drop(state);
        self.wake_waiting();
        if let Some(Hook(hook)) = self.0.hook.get() {
            hook();
        }
        Ok(Registration::new(self, entry))
    }

    /// Finds a node by its name.
    pub fn find(&self, name: &[u8]) -> Option<Arc<Entry>> {
        self.state().contents.nodes().find(name).cloned()
    }

    /// The nodes of the last owner's table may register again until this time. Until then, a missing name may still
    /// come.
    pub fn settle_at(&self, settles_at: Instant) {
        self.state().settles_at = Some(settles_at);
    }

    /// Ends the grace period.
    pub(crate) fn settle(&self) {
        let mut state = self.state();
        state.settles_at = None;
        state.provisional.settled(&self.0.journal);
        state.append(&LogEntry::Settled);
    }

    /// Records a refused registration.
    pub fn refuse(&self, name: &str, reason: impl Into<Cow<'static, str>>) {
        let mut state = self.state();
        let refusal = state.contents.refuse(name, reason.into());
        state.append(&LogEntry::Refused(refusal.clone()));
        self.0.journal.record(|| refusal.change());
    }

    /// The end of the grace period, if it is not over.
    pub(crate) fn settles_at(&self) -> Option<Instant> {
        self.state().settles_at
    }

    /// What the table knows of a name.
    pub fn look_up(&self, name: &[u8]) -> Known {
        let state = self.state();
        match state.contents.nodes().find(name) {
            Some(entry) => Known::Registered(Arc::clone(entry)),
            None if state.settles_at.is_none_or(|settles_at| settles_at <= Instant::now()) => Known::Missing,
            None => Known::Unsettled,
        }
    }

    /// Finds a node by its name, and waits for it in the grace period.
    pub async fn find_when_settled(&self, name: &[u8]) -> Option<Arc<Entry>> {
        // It may have settled since the caller looked.
        let Some(settles_at) = self.settles_at() else { return self.find(name) };
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
        tokio::time::timeout_at(settles_at.into(), found).await.ok().or_else(|| self.find(name))
    }

    /// Plans the port that a node of this name is to listen on, and keeps it for a moment from the others.
    pub(crate) fn plan(&self, name: &NodeName, range: RangeInclusive<u16>) -> Planned {
        let state = self.state();
        let nodes = state.contents.nodes().iter().map(|entry| entry.port());
        let known = Ports::of(name, nodes, state.contents.tombstones_after(0).map(|left| (&*left.name, left.port)));
        drop(state);
        // Its lock is held while ports are tried: two that ask at once get different ones.
        self.0.promises.lock().plan(name, range, &known, address::is_free)
    }

    /// All nodes, the newest registration first.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.state().contents.nodes().iter().rev().cloned().collect()
    }

    /// The nodes whose registrations have smaller numbers than this, the newest first, and no more than so many.
    pub(crate) fn entries_before(&self, id: u64, most: usize) -> Vec<Arc<Entry>> {
        self.state().contents.nodes().before(id).take(most).cloned().collect()
    }

    /// The number of registered nodes.
    pub fn len(&self) -> usize {
        self.state().contents.nodes().len()
    }

    /// The number of nodes that users other than this one have, or users who are not known.
    pub(crate) fn of_others(&self, user: u32) -> usize {
        self.state().contents.nodes().of_others(user)
    }

    /// Whether no node is registered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The remembered names that left, the first to leave first.
    pub fn tombstones(&self) -> Vec<Tombstone> {
        self.tombstones_after(0, usize::MAX)
    }

    /// Those of them that have higher numbers than this, and no more than so many.
    pub(crate) fn tombstones_after(&self, number: u64, most: usize) -> Vec<Tombstone> {
        self.state().contents.tombstones_after(number).take(most).cloned().collect()
    }

    /// Ends the registration of a name that came over a connection, and wakes its task to close it. The name of the
    /// VM's own node stays. Returns whether a registration was ended.
    pub fn stop(&self, name: &[u8]) -> bool {
        let found = self.find(name).filter(|entry| !entry.is_local());
        found.is_some_and(|entry| self.remove(&entry).is_some())
    }

    /// Ends all registrations that came over a connection. The name of the VM's own node stays.
    pub fn stop_all(&self) {
        for entry in self.entries().iter().rev().filter(|entry| !entry.is_local()) {
            self.remove(entry);
        }
    }

    /// Queues a snapshot and each later change for a replica at this position, which is sent nothing that it has
    /// already.
    pub(crate) fn subscribe(&self, replica: Option<Position>) -> Arc<Subscription> {
        let mut state = self.state();
        let snapshot = state.contents.snapshot(replica, state.settles_at.is_none());
        let subscription = Arc::new(Subscription::new(snapshot));
        state.subscriptions.retain(|subscription| subscription.strong_count() > 0);
        state.subscriptions.push(Arc::downgrade(&subscription));
        subscription
    }

    /// Removes exactly this entry; a later entry of the same name stays.
    fn remove(&self, entry: &Arc<Entry>) -> Option<Past> {
        let mut state = self.state();
        let (_, past) = state.contents.end(entry.id(), life::now())?;
        state.append(&LogEntry::Ended(entry.id(), past.left));
        self.0.journal.record(|| entry.unregistered());
        drop(state);
        entry.ended().notify_waiters();
        Some(past)
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
        self.state().contents.nodes().get(entry.id()).is_some()
    }
}

impl State {
    fn append(&self, entry: &LogEntry) {
        self.subscriptions.iter().filter_map(Weak::upgrade).for_each(|subscription| subscription.append(entry.clone()));
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

    /// The registered node.
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Ends the registration, unless somebody else has: what it was.
    pub(crate) fn end(self) -> Option<Past> {
        self.registry.remove(&self.entry)
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

    use super::super::tombstones::MAX_TOMBSTONES;
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
        registry.register(&node(name), None, connection()).expect("a free name")
    }

    #[test]
    fn a_name_is_held_until_its_registration_is_dropped() {
        let registry = Registry::default();
        let held = register(&registry, "a");
        assert!(registry.register(&node("a"), None, Holder::Local).is_err());
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
        registry.settle_at(Instant::now());
        assert!(found("a") && !found("b"));
    }

    #[test]
    fn creations_of_a_name_never_repeat() {
        let registry = Registry::default();
        let first = register(&registry, "a").creation();
        assert_eq!(register(&registry, "a").creation(), first + 1);
        assert_eq!(register(&registry, "a").creation(), first + 2);
        for other in 0..=MAX_TOMBSTONES + 1 {
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
        let names: Vec<_> = registry.tombstones().into_iter().map(|left| left.name).collect();
        assert_eq!(names, [Box::from(*b"d"), Box::from(*b"c")]);
    }

    #[test]
    fn who_comes_and_goes_is_remembered_with_how_often() {
        let registry = Registry::default();
        for times in 1..=3 {
            let past = register(&registry, "a").end().expect("nobody else has ended it");
            assert_eq!(past.series.times, times);
            let left = registry.tombstones();
            assert_eq!(left.iter().map(|left| left.past).collect::<Vec<_>>(), [past]);
        }
        // Somebody else ends it.
        let held = register(&registry, "a");
        assert!(registry.stop(b"a") && held.end().is_none());
    }

    #[test]
    fn nobody_stops_the_hosts_own_name() {
        let registry = Registry::default();
        let _host = registry.restore(&node("host"), None, Holder::Local, 5).expect("a free name");
        let _other = register(&registry, "other");
        assert!(!registry.stop(b"host"));
        registry.stop_all();
        assert_eq!(registry.len(), 1);
    }
}
