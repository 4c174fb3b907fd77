//! The owner's side of a session with a follower, without I/O: what to send next, and what the follower may say.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::inquiries::Inquiries;
use super::message::Message;
use crate::health::{Question, Report};
use crate::registry::log::{Lagged, LogEntry, Subscription};
use crate::registry::{Descriptor, Entry};

/// A message, and the descriptor that goes with it.
pub(super) type Outgoing = (Vec<u8>, Option<Arc<dyn Descriptor>>);

/// What one follower has been sent, and what it lacks.
#[derive(Debug)]
pub(super) struct Session {
    subscription: Arc<Subscription>,
    /// Whether the follower resumed with the connections of the registrations that it retained.
    has_retained: bool,
    permit: Option<Permit>,
    inquiries: Inquiries,
    has_begun: bool,
    stage: Stage,
}

/// What a follower that may stand by is sent beside the log.
#[derive(Debug)]
struct Permit {
    listeners: VecDeque<Arc<dyn Descriptor>>,
    /// Whether the service manager holds the listeners as well.
    lent: bool,
    /// Registrations that the follower was sent without their connections.
    connections: VecDeque<Arc<Entry>>,
}

/// How far the session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Copying,
    InSync,
    StandingBy,
    /// It is to be asked to take over.
    Ending,
    /// Nothing more is sent.
    Silent,
}

/// What a follower has said.
#[derive(Debug)]
pub(super) enum Heard {
    Alive,
    TakenOver,
    /// A registration that this table lacks.
    Missing(Arc<Entry>),
}

impl Session {
    /// A session in which nothing has been sent yet.
    pub(super) fn new(subscription: Arc<Subscription>, has_retained: bool) -> Self {
        Self {
            subscription,
            has_retained,
            permit: None,
            inquiries: Inquiries::default(),
            has_begun: false,
            stage: Stage::Copying,
        }
    }

    /// Lets the follower stand by, with these listeners. `entries` are the table's.
    pub(super) fn permit(&mut self, listeners: Vec<Arc<dyn Descriptor>>, lent: bool, entries: Vec<Arc<Entry>>) {
        let retained = if self.has_retained { self.subscription.shared() } else { 0 };
        // Those that are still to be sent come with their connections.
        let sent = if self.has_begun { u64::MAX } else { self.subscription.shared() };
        let lacks = |entry: &Arc<Entry>| entry.id() > retained && entry.id() <= sent;
        let connections = entries.into_iter().rev().filter(lacks).collect();
        self.permit = Some(Permit { listeners: listeners.into(), lent, connections });
    }

    /// Sends these listeners as well, to a follower that may stand by.
    pub(super) fn extend(&mut self, new: &[Arc<dyn Descriptor>]) {
        if let Some(permit) = &mut self.permit {
            permit.listeners.extend(new.iter().cloned());
        }
    }

    /// Asks the follower about the health of its VM.
    pub(super) fn ask(&mut self, question: Question) -> oneshot::Receiver<Report> {
        self.inquiries.add(question)
    }

    /// Whether the follower may stand by, and so must have a registration before its node is told.
    pub(super) fn has_permit(&self) -> bool {
        self.permit.is_some()
    }

    /// Whether the follower has been sent everything.
    pub(super) fn stands_by(&self) -> bool {
        matches!(self.stage, Stage::StandingBy | Stage::Ending)
    }

    /// Asks a follower that stands by to take over, once it has been sent everything. Others are sent nothing more:
    /// later entries would mislead them, since this owner's own node leaves its table.
    pub(super) fn end(&mut self) {
        self.stage = if self.stands_by() { Stage::Ending } else { Stage::Silent };
    }

    /// The next message.
    pub(super) fn next(&mut self) -> Result<Option<Outgoing>, Lagged> {
        if self.stage == Stage::Silent {
            return Ok(None);
        }
        if let Some(question) = self.inquiries.next() {
            return Ok(Some((Message::Examine(question).encode(), None)));
        }
        if let Some(Permit { listeners, lent, .. }) = &mut self.permit {
            if let Some(listener) = listeners.pop_front() {
                return Ok(Some((Message::Listener { lent: *lent }.encode_with(true), Some(listener))));
            }
        }
        if let Some(entry) = self.subscription.take()? {
            self.has_begun = true;
            if entry == LogEntry::InSync {
                self.stage = Stage::InSync;
            }
            let connection = match &entry {
                // One that has ended meanwhile is sent without a connection; its end follows.
                LogEntry::Registered(entry) if self.permit.is_some() => entry.connection(),
                _ => None,
            };
            return Ok(Some((Message::Log(entry).encode_with(connection.is_some()), connection)));
        }
        let Some(permit) = &mut self.permit else { return Ok(None) };
        while let Some(entry) = permit.connections.pop_front() {
            if let Some(connection) = entry.connection() {
                return Ok(Some((Message::Connection(entry.id()).encode_with(true), Some(connection))));
            }
        }
        let message = match self.stage {
            Stage::InSync => {
                self.stage = Stage::StandingBy;
                Message::StandBy
            }
            Stage::Ending => {
                self.stage = Stage::Silent;
                Message::TakeOver
            }
            Stage::Copying | Stage::StandingBy | Stage::Silent => return Ok(None),
        };
        Ok(Some((message.encode(), None)))
    }

    /// What a message of the follower says, if it may say it now.
    pub(super) fn hear(&mut self, message: Message, has_descriptor: bool) -> Option<Heard> {
        match (message, has_descriptor) {
            (Message::Alive, false) => Some(Heard::Alive),
            (Message::Report(report), false) if self.inquiries.report(report) => Some(Heard::Alive),
            (Message::TakenOver, false) if self.stage == Stage::Silent && self.permit.is_some() => {
                Some(Heard::TakenOver)
            }
            (Message::Missing(entry), true) if self.stage != Stage::Copying => Some(Heard::Missing(entry)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Weak;

    use super::super::hello::Hello;
    use super::super::message::frame;
    use super::*;
    use crate::health::Liveness;
    use crate::node::{Node, NodeName};
    use crate::registry::log::Position;
    use crate::registry::{replicated, Holder, Life, Registration, Registry};

    /// Nodes and their connections, by which anything with a descriptor passes.
    #[derive(Default)]
    struct Table {
        registry: Registry,
        nodes: Vec<(Registration, Arc<File>)>,
    }

    impl Table {
        fn of(names: &[&str]) -> Self {
            let mut table = Self::default();
            names.iter().for_each(|name| table.register(name));
            table
        }

        fn register(&mut self, name: &str) {
            let connection = descriptor();
            let holder = Holder::Connection(Arc::downgrade(&connection) as Weak<_>);
            let registration = self.registry.register(&node(name), Some(1), holder).expect("a free name");
            self.nodes.push((registration, connection));
        }

        /// A session with a new follower.
        fn session(&self) -> Session {
            Session::new(self.registry.subscribe(None), false)
        }

        /// A session with a follower that has the replica of this many registrations.
        fn resumed(&self, registrations: u64, has_connections: bool) -> Session {
            let Ok(Some(LogEntry::Begin { epoch, .. })) = self.registry.subscribe(None).take() else {
                panic!("a snapshot begins so");
            };
            let position = Position { epoch, registrations, refusals: 0 };
            Session::new(self.registry.subscribe(Some(position)), has_connections)
        }

        fn permit(&self, session: &mut Session) {
            session.permit(vec![descriptor()], false, self.registry.entries());
        }
    }

    fn node(name: &str) -> Node {
        Node::erlang(NodeName::new(name.as_bytes()).expect("a valid name"), 1)
    }

    fn descriptor() -> Arc<File> {
        Arc::new(File::open("/dev/null").expect("a descriptor"))
    }

    /// What is sent next, as far as there is something; a `+` comes with a descriptor.
    fn sent(session: &mut Session) -> Vec<String> {
        std::iter::from_fn(|| session.next().expect("it does not lag")).map(|outgoing| text(&outgoing)).collect()
    }

    fn text((bytes, descriptor): &Outgoing) -> String {
        let (body, _) = frame(bytes).expect("well-formed").expect("whole");
        assert_eq!(Message::has_descriptor(body), descriptor.is_some());
        let text = match Message::decode(body).expect("well-formed") {
            Message::Log(LogEntry::Registered(entry)) => String::from_utf8_lossy(entry.name()).into_owned(),
            Message::Log(LogEntry::Retained(id)) => format!("retained {id}"),
            Message::Log(LogEntry::Ended(id, _)) => format!("ended {id}"),
            Message::Log(LogEntry::Resumed(id)) => format!("resumed {id}"),
            Message::Log(LogEntry::Begin { .. }) => "begin".into(),
            Message::Log(LogEntry::Counters(_)) => "counters".into(),
            Message::Log(LogEntry::InSync) => "in sync".into(),
            Message::Log(LogEntry::Settled) => "settled".into(),
            Message::Listener { .. } => "listener".into(),
            Message::Connection(id) => format!("connection {id}"),
            Message::StandBy => "stand by".into(),
            Message::TakeOver => "take over".into(),
            Message::Examine(question) => format!("{question:?}?"),
            other => panic!("{other:?}"),
        };
        format!("{text}{}", if descriptor.is_some() { "+" } else { "" })
    }

    #[test]
    fn one_that_may_stand_by_from_the_start_is_sent_each_registration_with_its_connection() {
        let mut table = Table::of(&["a", "b"]);
        let mut session = table.session();
        table.permit(&mut session);
        assert!(session.has_permit() && !session.stands_by());
        let all = ["listener+", "begin", "counters", "a+", "b+", "in sync", "settled", "stand by"];
        assert_eq!(sent(&mut session), all);
        assert!(session.stands_by());
        table.register("c");
        session.extend(&[descriptor()]);
        assert_eq!(sent(&mut session), ["listener+", "c+"]);
        table.nodes.remove(0);
        assert_eq!(sent(&mut session), ["ended 1"]);
    }

    #[test]
    fn one_that_may_stand_by_later_is_sent_the_connections_then() {
        let mut table = Table::of(&["a", "b", "c"]);
        let mut session = table.session();
        assert_eq!(sent(&mut session), ["begin", "counters", "a", "b", "c", "in sync", "settled"]);
        table.register("d");
        session.extend(&[descriptor()]);
        assert_eq!(sent(&mut session), ["d"], "it gets no listener");
        assert!(!session.has_permit() && !session.stands_by());
        table.permit(&mut session);
        // One whose connection has gone is not sent, and one that comes meanwhile is sent first, with its own.
        let (_gone, _) = table.nodes.remove(1);
        table.register("e");
        let rest = ["listener+", "e+", "connection 1+", "connection 3+", "connection 4+", "stand by"];
        assert_eq!(sent(&mut session), rest);
        assert!(session.stands_by());
    }

    #[test]
    fn one_that_may_stand_by_while_it_is_sent_the_table_gets_every_connection() {
        let table = Table::of(&["a", "b"]);
        let mut session = table.session();
        let first: Vec<_> = (0..3).filter_map(|_| session.next().expect("it does not lag")).collect();
        assert_eq!(first.iter().map(text).collect::<Vec<_>>(), ["begin", "counters", "a"]);
        table.permit(&mut session);
        let rest = sent(&mut session);
        assert_eq!(rest[..4], ["listener+", "b+", "in sync", "settled"]);
        assert!(rest.contains(&"connection 1+".into()), "{rest:?}");
        assert_eq!(rest.last().map(String::as_str), Some("stand by"));
    }

    #[test]
    fn one_that_resumes_is_sent_only_the_connections_that_it_lacks() {
        for (has_connections, is_permitted_first) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut table = Table::of(&["a", "b", "c"]);
            let mut session = table.resumed(2, has_connections);
            if is_permitted_first {
                table.permit(&mut session);
            }
            let mut all = sent(&mut session);
            if !is_permitted_first {
                table.permit(&mut session);
                all.extend(sent(&mut session));
            }
            let position = |text: &str| all.iter().position(|sent| sent == text);
            let came = |text| position(text).is_some();
            let case = format!("{has_connections} {is_permitted_first}: {all:?}");
            assert!(
                came("resumed 2") && came("retained 1") && came("retained 2") && !came("a") && !came("a+"),
                "{case}"
            );
            assert_eq!([came("connection 1+"), came("connection 2+")], [!has_connections; 2], "{case}");
            // What is new came with its connection, or that follows.
            assert_eq!([came("c+"), came("connection 3+")], [is_permitted_first, !is_permitted_first], "{case}");
            assert!(all
                .iter()
                .filter(|sent| sent.starts_with("connection"))
                .all(|sent| { position("in sync") < position(sent) && position(sent) < position("stand by") }));
            assert_eq!(all.last().map(String::as_str), Some("stand by"), "{case}");
            assert!(session.stands_by());
            table.register("d");
            assert_eq!(sent(&mut session), ["d+"]);
        }
    }

    #[test]
    fn only_one_that_stands_by_is_asked_to_take_over_and_after_everything_else() {
        let mut table = Table::of(&["a"]);
        let [mut copying, mut in_sync, mut stands_by] = [table.session(), table.session(), table.session()];
        table.permit(&mut copying);
        copying.next().expect("it does not lag");
        sent(&mut in_sync);
        table.permit(&mut stands_by);
        sent(&mut stands_by);
        table.register("b");
        [&mut copying, &mut in_sync, &mut stands_by].into_iter().for_each(Session::end);
        assert!(stands_by.stands_by() && !in_sync.stands_by() && !copying.stands_by());
        assert_eq!(sent(&mut stands_by), ["b+", "take over"]);
        table.register("c");
        for session in [&mut copying, &mut in_sync, &mut stands_by] {
            assert!(sent(session).is_empty() && !session.stands_by());
        }
    }

    #[test]
    fn a_follower_is_asked_once_for_all_who_wait_and_again_once_it_has_reported() {
        let table = Table::of(&[]);
        let mut session = table.session();
        let report = Report::Live(Liveness::Answers);
        let hears = |session: &mut Session| session.hear(Message::Report(report), false).is_some();
        let mut first: Vec<_> = (0..3).map(|_| session.ask(Question::Live)).collect();
        assert!(!hears(&mut session), "it was not asked yet");
        let mut other = session.ask(Question::Ready);
        assert_eq!(sent(&mut session)[..3], ["Live?", "Ready?", "begin"]);
        first.push(session.ask(Question::Live));
        assert!(sent(&mut session).is_empty());
        assert!(hears(&mut session));
        assert!(first.iter_mut().all(|waiting| waiting.try_recv() == Ok(report)));
        assert!(other.try_recv().is_err(), "that is not what it asked");
        assert!(!hears(&mut session), "it was not asked again");
        let mut again = session.ask(Question::Live);
        assert_eq!(sent(&mut session), ["Live?"]);
        assert!(session.hear(Message::Report(report), true).is_none(), "no descriptor comes with it");
        assert!(hears(&mut session));
        assert_eq!(again.try_recv(), Ok(report));
    }

    #[test]
    fn a_follower_says_nothing_before_its_time() {
        let table = Table::of(&["a"]);
        let mut session = table.session();
        let missing = || Message::Missing(replicated(1, 7, None, Life::default(), &node("b")));
        assert!(session.hear(missing(), true).is_none(), "it does not know the table yet");
        table.permit(&mut session);
        sent(&mut session);
        assert!(matches!(session.hear(missing(), true), Some(Heard::Missing(entry)) if entry.name() == b"b"));
        assert!(session.hear(missing(), false).is_none());
        assert!(matches!(session.hear(Message::Alive, false), Some(Heard::Alive)));
        assert!(session.hear(Message::Alive, true).is_none());
        assert!(session.hear(Message::TakenOver, false).is_none(), "it was not asked to");
        session.end();
        assert!(session.hear(Message::TakenOver, false).is_none(), "it was not asked to yet");
        sent(&mut session);
        assert!(matches!(session.hear(Message::TakenOver, false), Some(Heard::TakenOver)));
    }

    #[test]
    fn a_follower_says_nothing_that_only_an_owner_says() {
        let table = Table::of(&[]);
        let mut session = table.session();
        sent(&mut session);
        let of_an_owner = [
            Message::Hello(Hello::new(Vec::new(), None)),
            Message::Log(LogEntry::Ended(1, 2)),
            Message::Listener { lent: false },
            Message::Connection(1),
            Message::StandBy,
            Message::Reconnect,
            Message::TakeOver,
            Message::Examine(Question::Live),
        ];
        for message in of_an_owner {
            for has_descriptor in [false, true] {
                assert!(session.hear(message.clone(), has_descriptor).is_none(), "{message:?}");
            }
        }
    }
}
