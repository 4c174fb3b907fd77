//! The server without a VM, with the flags of OTP's C daemon: for tests and benchmarks, not shipped.

use std::env;
use std::error::Error;
use std::io::Write;
use std::time::Duration;

use epmd_core::registry::Registry;
use epmd_core::{parse_addresses, serve, Limits, Listeners, Policy};

const USAGE: &str = "usage: standalone [-port N] [-address LIST] [-relaxed_command_check] [-packet_timeout SECONDS]
                  [-allow CIDR,...] [-remote_names] [-max_pending N]";

fn main() -> Result<(), Box<dyn Error>> {
    let (mut port, mut addresses) = (4369, Vec::new());
    let (mut policy, mut limits) = (Policy::default(), Limits::default());
    let mut arguments = env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE);
        match flag.as_str() {
            "-port" => port = value()?.parse()?,
            "-address" => addresses = parse_addresses(&value()?)?,
            "-relaxed_command_check" => policy.relaxed = true,
            "-remote_names" => policy.remote_names = true,
            "-packet_timeout" => limits.deadline = Duration::from_secs(value()?.parse()?),
            "-max_pending" => limits.waiting = value()?.parse()?,
            "-allow" => policy.allow = Some(value()?.split(',').map(str::parse).collect::<Result<_, _>>()?),
            _ => return Err(USAGE.into()),
        }
    }
    let listeners = Listeners::open(&addresses, port).map_err(|error| error.to_string())?;
    println!("listening on port {}", listeners.port);
    std::io::stdout().flush()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(serve(listeners, Registry::default(), policy, limits))?)
}
