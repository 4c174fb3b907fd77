//! The settings as `EmbeddedEpmd.Boot.Config` sends them, each already checked there for type and range.

use std::time::Duration;

use epmd_core::{HandOver, Health, Journal, Limits, Policy, ReservedNames, ServiceManager, Settings, Trusted};

use crate::error::Error;
use crate::terms::Verbosity;

#[derive(rustler::NifMap)]
pub(crate) struct Config {
    port: u16,
    addresses: Vec<String>,
    /// Whether port and addresses were set. If not, a socket unit decides.
    port_chosen: bool,
    addresses_chosen: bool,
    relaxed: bool,
    remote_names: bool,
    allow: Option<Vec<String>>,
    health: bool,
    /// Names and patterns of names, each with its users: names or numbers.
    reserved_names: Vec<(String, Vec<String>)>,
    request_deadline: u64,
    max_waiting: usize,
    max_waiting_per_source: usize,
    descriptor_share: u8,
    hand_over: bool,
    standbys: u32,
    /// Users and groups whose processes may stand by beside those of this user, by name or number.
    trusted_users: Vec<String>,
    trusted_groups: Vec<String>,
    /// Whether the VM's distribution uses IPv6.
    inet6: bool,
    pub(crate) log_level: Verbosity,
}

impl Config {
    /// What the service manager has passed to this process.
    pub(crate) fn service_manager(&self) -> Result<ServiceManager, Error> {
        ServiceManager::from_environment(self.port).map_err(Error::CannotListen)
    }

    /// The settings of the member, given what the service manager has passed.
    pub(crate) fn settings(&self, service_manager: ServiceManager) -> Result<Settings, Error> {
        let address = |text: &String| text.parse().map_err(|_| text.clone());
        let lent = service_manager.port();
        let addresses: &[String] = if lent.is_none() || self.addresses_chosen { &self.addresses } else { &[] };
        let addresses = addresses.iter().map(address).collect::<Result<_, _>>();
        let allow = self.allow.as_ref().map(|networks| networks.iter().map(|text| text.parse()).collect());
        Ok(Settings {
            addresses: addresses
                .map_err(|got| Error::Setting(format!("address: expected an IPv4 or IPv6 address, got {got:?}")))?,
            port: lent.filter(|_| !self.port_chosen).unwrap_or(self.port),
            inet6: self.inet6,
            policy: Policy {
                relaxed: self.relaxed,
                remote_names: self.remote_names,
                health: self.health,
                reserved_names: ReservedNames::named(self.reserved_names.clone())
                    .map_err(|error| Error::Setting(format!("reserved_names: {error}")))?,
                allow: allow.transpose().map_err(|error: String| Error::Setting(format!("allow: {error}")))?,
            },
            limits: Limits {
                deadline: Duration::from_millis(self.request_deadline),
                waiting: self.max_waiting,
                waiting_per_source: self.max_waiting_per_source,
                descriptor_share: self.descriptor_share,
            },
            hand_over: HandOver {
                standbys: if self.hand_over { self.standbys } else { 0 },
                trusted: Trusted::named(&self.trusted_users, &self.trusted_groups),
            },
            service_manager,
            journal: Journal::default(),
            health: Health::default(),
        })
    }
}
