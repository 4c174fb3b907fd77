//! The metrics that are reported, and the targets some of them have to meet (issue 5).

use std::fmt;

use crate::measure::Sample;
use crate::plan::{median, Samples, Scenario};
use crate::servers::Who;

/// A row of the table: one metric of one scenario with one number of names.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) label: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) scenario: Scenario,
    pub(crate) names: usize,
    of: fn(&Sample) -> f64,
    pub(crate) targets: &'static [Target],
}

/// A limit for the ratio of our value to a reference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) limit: Limit,
    pub(crate) reference: Reference,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Reference {
    /// The value of another server.
    Server(Who),
    /// Our own value with this number of names.
    OursWith(usize),
}

use Limit::{AtLeast, AtMost};
use Reference::{OursWith, Server};

const fn target(limit: Limit, reference: Reference) -> Target {
    Target { limit, reference }
}

/// All rows, in the order of the table. The table leaves out those that were not measured.
pub(crate) fn metrics() -> Vec<Metric> {
    use Scenario::{LookUps, OwnedRegistrations, PacedLookUps, Registrations};
    let row = |label, unit, scenario, names, of, targets| Metric { label, unit, scenario, names, of, targets };
    let mut rows = Vec::new();
    for (names, targets) in CPU {
        rows.push(row("CPU per lookup", "µs", LookUps, *names, |sample| sample.cpu, *targets));
    }
    for names in [10, 900] {
        rows.push(row("lookups per second", "1/s", LookUps, names, |sample| sample.rate, &[]));
        rows.push(row("  p50", "µs", LookUps, names, |sample| sample.p50, &[]));
        rows.push(row("  p99", "µs", LookUps, names, |sample| sample.p99, &[]));
    }
    for names in [10, 900] {
        rows.push(row("lookup at 0.8 of C's rate, p50", "µs", PacedLookUps, names, |sample| sample.p50, &[]));
        rows.push(row("  p99", "µs", PacedLookUps, names, |sample| sample.p99, P99_AT_RATE_OF_C));
    }
    for (names, targets) in REGISTRATIONS {
        rows.push(row("register and disconnect", "1/s", Registrations, *names, |sample| sample.rate, *targets));
        rows.push(row("  CPU of one", "µs", Registrations, *names, |sample| sample.cpu, &[]));
        rows.push(row("  with reserved names", "1/s", OwnedRegistrations, *names, |sample| sample.rate, &[]));
        rows.push(row("  CPU of one", "µs", OwnedRegistrations, *names, |sample| sample.cpu, &[]));
    }
    rows
}

/// CPU time of a lookup, by number of names. The plot shows the same rows.
const CPU: &[(usize, &[Target])] = &[
    (10, &[target(AtMost(0.75), Server(Who::C)), target(AtMost(1.15), Server(Who::Null))]),
    (100, &[]),
    (300, &[]),
    (900, &[target(AtMost(0.25), Server(Who::C))]),
    (1_000, &[]),
    (10_000, &[target(AtMost(1.1), OursWith(10))]),
];

const P99_AT_RATE_OF_C: &[Target] = &[target(AtMost(1.0), Server(Who::C))];

const REGISTRATIONS: &[(usize, &[Target])] =
    &[(10, &[target(AtLeast(1.2), Server(Who::C))]), (900, &[target(AtLeast(3.0), Server(Who::C))])];

impl Metric {
    /// The value for one server in each round; empty if it was not measured.
    pub(crate) fn rounds(&self, samples: &Samples, who: Who) -> Vec<f64> {
        self.rounds_with(samples, who, self.names)
    }

    fn rounds_with(&self, samples: &Samples, who: Who, names: usize) -> Vec<f64> {
        samples.get(&(self.scenario, names, who)).into_iter().flatten().map(self.of).collect()
    }

    /// The median of the ratio of our value to the reference in each round: whatever slows the machine down for a while
    /// affects both. `None` if either was not measured.
    pub(crate) fn ratio(&self, samples: &Samples, reference: Reference) -> Option<f64> {
        let ratios = self.ratios(samples, reference);
        (!ratios.is_empty()).then(|| median(ratios))
    }

    /// Whether a target is missed beyond the noise: no round meets it.
    pub(crate) fn misses(&self, samples: &Samples, target: Target) -> bool {
        let ratios = self.ratios(samples, target.reference);
        !ratios.is_empty() && !ratios.into_iter().any(|ratio| target.is_met_by(ratio))
    }

    fn ratios(&self, samples: &Samples, reference: Reference) -> Vec<f64> {
        let others = match reference {
            Server(who) => self.rounds(samples, who),
            OursWith(names) => self.rounds_with(samples, Who::Ours, names),
        };
        self.rounds(samples, Who::Ours).iter().zip(others).map(|(ours, other)| ours / other).collect()
    }
}

impl Target {
    pub(crate) fn is_met_by(self, ratio: f64) -> bool {
        match self.limit {
            AtMost(limit) => ratio <= limit,
            AtLeast(limit) => ratio >= limit,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            AtMost(limit) => write!(f, "at most {limit:.2} of ")?,
            AtLeast(limit) => write!(f, "at least {limit:.2} of ")?,
        }
        match self.reference {
            Server(who) => write!(f, "{who}"),
            OursWith(names) => write!(f, "ours with {names}"),
        }
    }
}
