//! What a server uses of the machine.

use std::fs;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::server::Server;

/// Writes to standard error directly, so that the figures are shown when the test passes too.
pub(crate) fn report(line: &str) {
    let _ = writeln!(io::stderr(), "hostile: {line}");
}

/// The share of one core that the server uses during this time. Panics if it spins.
pub(crate) fn busy_share(server: &Server, time: Duration) -> f64 {
    let before = processor_time(server);
    let began = Instant::now();
    thread::sleep(time);
    let share = (processor_time(server) - before).as_secs_f64() / began.elapsed().as_secs_f64();
    // The lookups of `Watch`, up to 500 per second, use about a tenth of that.
    assert!(share < 0.4, "the server spins: busy {:.0} % of the time", share * 100.0);
    share
}

fn processor_time(server: &Server) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("a running server");
    // utime and stime are fields 14 and 15, in ticks of 10 ms. The first field behind the command's name is field 3.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("ticks") + fields[12].parse::<u64>().expect("ticks");
    Duration::from_millis(10 * ticks)
}

pub(crate) fn open_descriptors(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("a running server").count()
}
