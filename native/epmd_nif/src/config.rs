//! The settings as `EmbeddedEpmd.Config` sends them, each already checked there for type and range.

use std::time::Duration;

use epmd_core::{Journal, Limits, Policy, Settings};

use crate::error::Error;
use crate::events::Verbosity;

#[derive(rustler::NifMap)]
pub(crate) struct Config {
    port: u16,
    addresses: Vec<String>,
    relaxed: bool,
    remote_names: bool,
    allow: Option<Vec<String>>,
    request_deadline: u64,
    max_waiting: usize,
    max_waiting_per_source: usize,
    hand_over: bool,
    pub(crate) log_level: Verbosity,
}

impl Config {
    pub(crate) fn settings(&self) -> Result<Settings, Error> {
        let address = |text: &String| text.parse().map_err(|_| text.clone());
        let addresses = self.addresses.iter().map(address).collect::<Result<_, _>>();
        let allow = self.allow.as_ref().map(|networks| networks.iter().map(|text| text.parse()).collect());
        Ok(Settings {
            addresses: addresses
                .map_err(|got| Error::Setting(format!("address: expected an IPv4 or IPv6 address, got {got:?}")))?,
            port: self.port,
            inet6: false,
            policy: Policy {
                relaxed: self.relaxed,
                remote_names: self.remote_names,
                allow: allow.transpose().map_err(|error: String| Error::Setting(format!("allow: {error}")))?,
            },
            limits: Limits {
                deadline: Duration::from_millis(self.request_deadline),
                waiting: self.max_waiting,
                waiting_per_source: self.max_waiting_per_source,
                ..Limits::default()
            },
            hand_over: self.hand_over,
            journal: Journal::default(),
        })
    }
}
