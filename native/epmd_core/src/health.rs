//! What is known of a VM's health: whether a process of it answers, and whether its application is ready.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long the answer of a VM is waited for. It is less than a probe of Kubernetes waits unless told otherwise, which is
/// a second (`timeoutSeconds`).
pub(crate) const PATIENCE: Duration = Duration::from_millis(900);

/// Asks a process of the VM for a sign of life, to be given by [`Health::answer`]. Returns whether there is such a process.
/// It runs on the member's thread, and must not block.
pub type Ask = Arc<dyn Fn() -> bool + Send + Sync>;

/// The health of the VM that this member is in.
#[derive(Clone, Default)]
pub struct Health(Arc<Shared>);

#[derive(Default)]
struct Shared {
    ask: Option<Ask>,
    state: Mutex<State>,
    answered: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the process has been asked and has not answered yet. It is asked nothing more until then.
    is_asked: bool,
    readiness: Readiness,
}

/// What is asked about a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Question {
    /// Does a process of it answer?
    Live,
    /// Is its application ready?
    Ready,
}

/// What a VM reports of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Live(Liveness),
    Ready(Readiness),
}

/// Whether a process of a VM answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    Answers,
    /// It did not within [`PATIENCE`].
    Silent,
    /// The process that would answer does not run.
    NotRunning,
}

/// Whether an application is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// Whether it has said so.
    pub(crate) is_told: bool,
    /// The nodes that its cluster connects to, if it has one.
    pub(crate) cluster: Option<Cluster>,
}

/// How many nodes a cluster expects, and how many of these are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) expected: u32,
    pub(crate) connected: u32,
}

impl Health {
    /// The health of a VM in which a process can be asked.
    pub fn asking(ask: Ask) -> Self {
        Self(Arc::new(Shared { ask: Some(ask), ..Shared::default() }))
    }

    /// The process answers.
    pub fn answer(&self) {
        self.0.state.lock().is_asked = false;
        self.0.answered.notify_waiters();
    }

    /// Another process is to be asked from now on, whether or not the last one answers.
    pub fn ask_anew(&self) {
        self.0.state.lock().is_asked = false;
    }

    /// The application is ready, or is not any more.
    pub fn set_ready(&self, is_ready: bool) {
        self.0.state.lock().readiness.is_told = is_ready;
    }

    /// The application has a cluster, which expects this many nodes and is connected to that many of them.
    pub fn set_cluster(&self, expected: u32, connected: u32) {
        self.0.state.lock().readiness.cluster = Some(Cluster { expected, connected });
    }

    pub(crate) fn readiness(&self) -> Readiness {
        self.0.state.lock().readiness
    }

    /// Answers a question about this VM, after [`PATIENCE`] at the latest.
    pub(crate) async fn report(&self, question: Question) -> Report {
        match question {
            Question::Live => Report::Live(self.liveness().await),
            Question::Ready => Report::Ready(self.readiness()),
        }
    }

    /// Asks the process, unless it has still to answer: however many wait, it has one message to read.
    async fn liveness(&self) -> Liveness {
        let answered = self.0.answered.notified();
        if !self.is_asked() {
            return Liveness::NotRunning;
        }
        match timeout(PATIENCE, answered).await {
            Ok(()) => Liveness::Answers,
            Err(_) => Liveness::Silent,
        }
    }

    fn is_asked(&self) -> bool {
        let mut state = self.0.state.lock();
        if !state.is_asked {
            state.is_asked = self.0.ask.as_ref().is_some_and(|ask| ask());
        }
        state.is_asked
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&self.0.state).finish()
    }
}

impl Report {
    /// The question that it answers.
    pub(crate) fn question(self) -> Question {
        match self {
            Self::Live(_) => Question::Live,
            Self::Ready(_) => Question::Ready,
        }
    }

    /// Whether all is well.
    pub(crate) fn is_well(self) -> bool {
        match self {
            Self::Live(liveness) => liveness == Liveness::Answers,
            Self::Ready(readiness) => readiness.is_ready(),
        }
    }
}

impl Readiness {
    pub(crate) fn is_ready(self) -> bool {
        self.is_told && self.cluster.is_none_or(Cluster::is_connected)
    }
}

impl Cluster {
    fn is_connected(self) -> bool {
        self.connected >= self.expected
    }
}

/// One sentence, for people. It names no node: strangers may read it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live(Liveness::Answers) => f.write_str("the VM is alive"),
            Self::Live(Liveness::Silent) => {
                write!(f, "no process of the VM answered within {} ms", PATIENCE.as_millis())
            }
            Self::Live(Liveness::NotRunning) => f.write_str("the process EmbeddedEpmd does not run in the VM"),
            Self::Ready(readiness) if readiness.is_ready() => f.write_str("the VM is ready"),
            Self::Ready(Readiness { is_told, cluster }) => {
                f.write_str("the VM is not ready: ")?;
                if !is_told {
                    f.write_str("its application has not called EmbeddedEpmd.ready(true)")?;
                }
                match cluster {
                    Some(cluster) if !cluster.is_connected() => {
                        let Cluster { expected, connected } = cluster;
                        let and = if *is_told { "" } else { ", and " };
                        write!(f, "{and}{connected} of the {expected} expected nodes are connected")
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{poll_fn, Future};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;

    use tokio::runtime::Builder;

    use super::*;

    /// A process that can be asked, and how often it was.
    fn asked(runs: bool) -> (Health, Arc<AtomicUsize>) {
        let count = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&count);
        let ask = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            runs
        };
        (Health::asking(Arc::new(ask)), count)
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(test)
    }

    #[test]
    fn however_many_wait_the_process_is_asked_once() {
        let (health, count) = asked(true);
        run(async {
            let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(health.report(Question::Live))).collect();
            poll_fn(|context| {
                assert!(waiting.iter_mut().all(|one| one.as_mut().poll(context).is_pending()));
                Poll::Ready(())
            })
            .await;
            health.answer();
            for one in waiting {
                assert_eq!(one.await, Report::Live(Liveness::Answers));
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_process_that_is_silent_is_not_asked_again_before_it_has_answered_or_another_runs() {
        let (health, count) = asked(true);
        run(async {
            for _ in 0..2 {
                assert_eq!(health.report(Question::Live).await, Report::Live(Liveness::Silent));
            }
            assert_eq!(count.load(Ordering::Relaxed), 1);
            for now in [Health::answer, Health::ask_anew] {
                now(&health);
                let before = count.load(Ordering::Relaxed);
                assert_eq!(health.report(Question::Live).await, Report::Live(Liveness::Silent));
                assert_eq!(count.load(Ordering::Relaxed), before + 1);
            }
        });
    }

    #[test]
    fn a_vm_without_the_process_is_not_alive() {
        for (health, _) in [asked(false), (Health::default(), Arc::default())] {
            assert_eq!(run(health.report(Question::Live)), Report::Live(Liveness::NotRunning));
        }
    }

    #[test]
    fn ready_is_who_says_so_and_whose_nodes_are_connected() {
        let health = Health::default();
        let says = |expected: &str| {
            let report = run(health.report(Question::Ready));
            assert_eq!(report.to_string(), expected);
            assert_eq!(report.is_well(), expected == "the VM is ready");
        };
        says("the VM is not ready: its application has not called EmbeddedEpmd.ready(true)");
        health.set_cluster(3, 1);
        says(
            "the VM is not ready: its application has not called EmbeddedEpmd.ready(true), and 1 of the 3 expected \
             nodes are connected",
        );
        health.set_ready(true);
        says("the VM is not ready: 1 of the 3 expected nodes are connected");
        health.set_cluster(3, 3);
        says("the VM is ready");
        health.set_ready(false);
        assert!(!run(health.report(Question::Ready)).is_well());
    }
}
