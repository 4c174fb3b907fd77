//! A member's numbers in Prometheus' text format (version 0.0.4). It names no node: strangers may read it.

use std::fmt::Write;
use std::time::Duration;

use crate::health::{Cluster, Readiness};
use crate::metrics::Metrics;
use crate::role::Role;
use crate::server::Open;

/// What is exposed.
#[derive(Debug)]
pub(super) struct Numbers<'a> {
    pub(super) metrics: &'a Metrics,
    pub(super) open: Open,
    pub(super) names: usize,
    pub(super) role: Role,
    pub(super) role_changes: u64,
    pub(super) standbys: usize,
    pub(super) readiness: Readiness,
    pub(super) uptime: Duration,
}

pub(super) fn exposition(numbers: &Numbers<'_>) -> String {
    let Numbers { metrics, open, names, role, role_changes, standbys, readiness, uptime } = *numbers;
    let mut page = Page::default();
    page.family("requests_total", "counter", "Requests that were answered, by kind and outcome.")
        .sample(r#"{request="lookup",outcome="found"}"#, metrics.found.get())
        .sample(r#"{request="lookup",outcome="not_found"}"#, metrics.not_found.get())
        .sample(r#"{request="registration",outcome="granted"}"#, metrics.granted.get())
        .sample(r#"{request="registration",outcome="refused"}"#, metrics.refused.get())
        .sample(r#"{request="names",outcome="answered"}"#, metrics.names.get())
        .sample(r#"{request="dump",outcome="answered"}"#, metrics.dump.get())
        .sample(r#"{request="kill",outcome="answered"}"#, metrics.kill.get())
        .sample(r#"{request="stop",outcome="answered"}"#, metrics.stop.get())
        .sample(r#"{request="probe",outcome="answered"}"#, metrics.probes.get());
    page.family("refusals_total", "counter", "Requests that were closed without an answer, or are none, by reason.")
        .sample(r#"{reason="not_permitted"}"#, metrics.not_permitted.get())
        .sample(r#"{reason="malformed"}"#, metrics.malformed.get());
    page.family("connections_accepted_total", "counter", "Connections that were accepted.")
        .sample("", metrics.accepted.get());
    page.family(
        "connections_evicted_total",
        "counter",
        "Waiting connections that were closed to make room for others.",
    )
    .sample("", metrics.evicted.get());
    page.family("connections", "gauge", "Open connections, by what they are for.")
        .sample(r#"{state="waiting"}"#, open.waiting as u64)
        .sample(r#"{state="registered"}"#, open.registered as u64);
    page.family("names", "gauge", "Registered nodes.").sample("", names as u64);
    let is = |this: Role| u64::from(role == this);
    page.family("role", "gauge", "1 for the role of this VM, 0 for the others.")
        .sample(r#"{role="serving"}"#, is(Role::Serving))
        .sample(r#"{role="joined"}"#, is(Role::Joined))
        .sample(r#"{role="searching"}"#, is(Role::Searching));
    page.family("role_changes_total", "counter", "How often the role of this VM changed, as the port changed owners.")
        .sample("", role_changes);
    page.family("standbys", "gauge", "VMs that stand by for this one.").sample("", standbys as u64);
    page.family("ready", "gauge", "1 if this VM is ready.").sample("", readiness.is_ready().into());
    if let Some(Cluster { expected, connected }) = readiness.cluster {
        page.family("cluster_nodes_expected", "gauge", "Nodes to which the cluster of this VM is to be connected.")
            .sample("", expected.into());
        page.family("cluster_nodes_connected", "gauge", "Nodes of these that are connected.")
            .sample("", connected.into());
    }
    page.family("uptime_seconds", "gauge", "The time since the server of this VM started.")
        .sample("", uptime.as_secs());
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
    family: &'static str,
}

impl Page {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> &mut Self {
        self.family = name;
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP embedded_epmd_{name} {help}\n# TYPE embedded_epmd_{name} {kind}");
        self
    }

    fn sample(&mut self, labels: &str, value: u64) -> &mut Self {
        let _ = writeln!(self.text, "embedded_epmd_{}{labels} {value}", self.family);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_line_of_its_own_and_its_family_is_described() {
        let metrics = Metrics::default();
        metrics.found.count();
        let cluster = Some(Cluster { expected: 3, connected: 2 });
        let numbers = Numbers {
            metrics: &metrics,
            open: Open { waiting: 1, registered: 4 },
            names: 5,
            role: Role::Serving,
            role_changes: 6,
            standbys: 2,
            readiness: Readiness { is_told: true, cluster },
            uptime: Duration::from_millis(7_800),
        };
        let text = exposition(&numbers);
        for line in [
            "# TYPE embedded_epmd_requests_total counter",
            r#"embedded_epmd_requests_total{request="lookup",outcome="found"} 1"#,
            r#"embedded_epmd_connections{state="registered"} 4"#,
            "embedded_epmd_names 5",
            r#"embedded_epmd_role{role="serving"} 1"#,
            r#"embedded_epmd_role{role="joined"} 0"#,
            "embedded_epmd_role_changes_total 6",
            "embedded_epmd_standbys 2",
            "embedded_epmd_ready 0",
            "embedded_epmd_cluster_nodes_expected 3",
            "embedded_epmd_cluster_nodes_connected 2",
            "embedded_epmd_uptime_seconds 7",
        ] {
            assert_eq!(text.lines().filter(|other| *other == line).count(), 1, "{line} in:\n{text}");
        }
        let families = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(text.lines().filter(|line| line.starts_with("# HELP")).count(), families);
        let alone = exposition(&Numbers { readiness: Readiness { is_told: true, cluster: None }, ..numbers });
        assert!(alone.contains("embedded_epmd_ready 1\n") && !alone.contains("cluster"));
    }
}
