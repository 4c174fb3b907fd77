//! Lookups that go on while something else happens, and how long they take.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::rounds::rounds;
use epmd_tools::client::{exchange, PATIENCE};
use epmd_tools::request::{port_please2, Alive2};

/// How soon a registered node is found on a machine that does nothing else, whatever other peers do. On a busy machine
/// the limit is [`PATIENCE`]: a lookup that hangs takes at least as long, since the server's deadline ends it.
const SOON: Duration = Duration::from_millis(100);

/// Looks a node up again and again on a thread of its own.
pub(crate) struct Watch {
    go_on: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    looking: JoinHandle<Result<Latencies, String>>,
}

impl Watch {
    pub(crate) fn start(server: SocketAddr, name: &str, port: u16) -> Self {
        let go_on = Arc::new(AtomicBool::new(true));
        let done = Arc::new(AtomicUsize::new(0));
        let (request, found) = (port_please2(name), Alive2::new(name, port).found());
        let looking = thread::spawn({
            let (go_on, done) = (Arc::clone(&go_on), Arc::clone(&done));
            move || {
                let mut latencies = Latencies::default();
                while go_on.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    let reply = exchange(server, &request).map_err(|error| error.to_string())?;
                    latencies.add(asked.elapsed());
                    if reply != found {
                        return Err(format!("lookup {}: {}", latencies.0.len(), reply.escape_ascii()));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(2));
                }
                Ok(latencies)
            }
        });
        Self { go_on, done, looking }
    }

    /// Stops. Panics unless every lookup was right and in time.
    pub(crate) fn stop(self) -> Latencies {
        self.stop_within(rounds(PATIENCE, SOON))
    }

    /// Stops. Panics unless every lookup was right and took no longer than this.
    pub(crate) fn stop_within(self, limit: Duration) -> Latencies {
        // However short the disturbance was, measure at least 50 lookups.
        while self.done.load(Ordering::Relaxed) < 50 && !self.looking.is_finished() {
            thread::sleep(Duration::from_millis(2));
        }
        self.go_on.store(false, Ordering::Relaxed);
        let mut latencies = self.looking.join().expect("looking up does not panic").expect("every lookup is right");
        let worst = latencies.worst();
        assert!(worst <= limit, "a lookup took {worst:?}; {latencies}");
        latencies
    }
}

#[derive(Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    fn worst(&mut self) -> Duration {
        self.0.sort_unstable();
        self.0.last().copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let worst = sorted.last().copied().unwrap_or_default();
        write!(formatter, "{} lookups, median {median:.2?}, worst {worst:.2?}", sorted.len())
    }
}
