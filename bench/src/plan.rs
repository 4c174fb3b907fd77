//! What is measured, in which order, and the resulting samples.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::interrupt::Interrupt;
use crate::load::Pace;
use crate::measure::{measure, Load, Sample};
use crate::servers::{Launcher, Who};

/// At its full rate a server's queue grows for as long as the run takes, so that latencies only show the length of the
/// run.
const SHARE_OF_RATE_OF_C: f64 = 0.8;

/// The groups of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    /// Lookups, as many as the server answers.
    LookUps,
    /// Lookups at [`SHARE_OF_RATE_OF_C`] of the rate that the C daemon reached in the same run with the same number of
    /// names.
    PacedLookUps,
    /// Registrations that are ended at once, as many as the server grants.
    Registrations,
    /// The same of names that belong to a user (`reserved_names`).
    OwnedRegistrations,
}

impl Scenario {
    /// Whether the server is loaded as much as it can take.
    pub(crate) fn is_unlimited(self) -> bool {
        self != Self::PacedLookUps
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LookUps => "lookups",
            Self::PacedLookUps => "lookups at 0.8 of C's rate",
            Self::Registrations => "registrations",
            Self::OwnedRegistrations => "registrations of names that belong to a user",
        }
    }
}

/// What was measured: scenario, number of names, server.
pub(crate) type Subject = (Scenario, usize, Who);

/// One sample for each round.
pub(crate) type Samples = BTreeMap<Subject, Vec<Sample>>;

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// Of each measurement.
    pub(crate) duration: Duration,
    /// Numbers of names for lookups with all servers.
    look_ups: Vec<usize>,
    /// Numbers of names for lookups that only ours can hold.
    look_ups_of_ours: Vec<usize>,
    /// Numbers of names for the other scenarios.
    others: Vec<usize>,
}

impl Plan {
    /// The full measurement.
    pub(crate) fn full() -> Self {
        Self {
            rounds: 5,
            duration: Duration::from_secs(2),
            look_ups: vec![10, 100, 300, 900],
            look_ups_of_ours: vec![10_000],
            others: vec![10, 900],
        }
    }

    /// Just enough to see that everything works.
    pub(crate) fn short() -> Self {
        Self {
            rounds: 1,
            duration: Duration::from_millis(100),
            look_ups: vec![10, 100],
            look_ups_of_ours: vec![1_000],
            others: vec![10],
        }
    }

    /// Leaves larger numbers of names out, and returns them.
    pub(crate) fn limit(&mut self, most: usize) -> Vec<usize> {
        let mut left_out = Vec::new();
        for sizes in [&mut self.look_ups, &mut self.look_ups_of_ours, &mut self.others] {
            left_out.extend(sizes.iter().copied().filter(|names| *names > most));
            sizes.retain(|names| *names <= most);
        }
        left_out.sort_unstable();
        left_out.dedup();
        left_out
    }

    /// Measures. The servers take turns, so that a disturbance of the machine affects all of them.
    pub(crate) fn carry_out(&self, launcher: &mut Launcher, interrupt: &Interrupt) -> Result<Samples> {
        let mut samples = Samples::new();
        let mut subjects = Vec::new();
        for names in &self.look_ups {
            subjects.extend([Who::Ours, Who::C, Who::Null].map(|who| (Scenario::LookUps, *names, who)));
        }
        subjects.extend(self.look_ups_of_ours.iter().map(|names| (Scenario::LookUps, *names, Who::Ours)));
        for names in &self.others {
            subjects.extend([Who::Ours, Who::C].map(|who| (Scenario::Registrations, *names, who)));
            subjects.push((Scenario::OwnedRegistrations, *names, Who::Ours));
        }
        self.take_turns(&subjects, launcher, &mut samples, interrupt)?;

        let mut subjects = Vec::new();
        for names in &self.others {
            subjects.extend([Who::Ours, Who::C, Who::Null].map(|who| (Scenario::PacedLookUps, *names, who)));
        }
        self.take_turns(&subjects, launcher, &mut samples, interrupt)?;
        Ok(samples)
    }

    fn take_turns(
        &self,
        subjects: &[Subject],
        launcher: &mut Launcher,
        samples: &mut Samples,
        interrupt: &Interrupt,
    ) -> Result<()> {
        for round in 1..=self.rounds {
            for (scenario, names, who) in subjects {
                eprintln!("round {round} of {}: {}, {names} names, {who}", self.rounds, scenario.name());
                let load = match scenario {
                    Scenario::LookUps => Load::LookUps(Pace::AsFastAsPossible),
                    Scenario::PacedLookUps => {
                        Load::LookUps(Pace::PerSecond(SHARE_OF_RATE_OF_C * rate_of_c(samples, *names)))
                    }
                    Scenario::Registrations => Load::Registrations,
                    Scenario::OwnedRegistrations => Load::OwnedRegistrations,
                };
                let sample = measure(launcher, *who, *names, load, self.duration, interrupt)?;
                samples.entry((*scenario, *names, *who)).or_default().push(sample);
            }
        }
        Ok(())
    }
}

fn rate_of_c(samples: &Samples, names: usize) -> f64 {
    median(samples[&(Scenario::LookUps, names, Who::C)].iter().map(|sample| sample.rate).collect())
}

/// The median; NaN without values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        _ if values.is_empty() => f64::NAN,
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}
