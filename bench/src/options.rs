//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use crate::plan::Plan;
use crate::servers::Form;

/// What this process is to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Measure, and write the results.
    Measure { root: PathBuf, form: Form, is_short: bool, is_check: bool, plan: Plan },
    /// Measure the table alone, and write the results.
    Table { root: PathBuf, is_short: bool, is_check: bool },
    /// Be the null server on this port.
    Null { port: u16 },
}

impl Command {
    /// Reads the arguments. `bench/run` explains them to people.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut root = None;
        let mut form = None;
        let (mut is_short, mut is_check, mut is_table) = (false, false, false);
        let (mut rounds, mut seconds) = (None, None);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "null" => return Ok(Self::Null { port: value()?.parse()? }),
                "table" => is_table = true,
                "--root" => root = Some(value()?.into()),
                "--standalone" => form = Some(Form::Standalone),
                "--embedded" => form = Some(Form::Embedded),
                "--short" => is_short = true,
                "--check" => is_check = true,
                "--rounds" => rounds = Some(value()?.parse().context("--rounds needs a number")?),
                "--seconds" => seconds = Some(value()?.parse().context("--seconds needs a number")?),
                _ => bail!("unknown argument {argument}"),
            }
        }
        let root = root.context("--root is missing")?;
        if is_table {
            return Ok(Self::Table { root, is_short, is_check });
        }
        let mut plan = if is_short { Plan::short() } else { Plan::full() };
        plan.rounds = rounds.unwrap_or(plan.rounds);
        if let Some(seconds) = seconds {
            plan.duration = Duration::try_from_secs_f64(seconds)?;
        }
        ensure!(plan.rounds > 0 && !plan.duration.is_zero(), "at least one round, and some time for each measurement");
        let form = form.context("--standalone or --embedded is missing")?;
        Ok(Self::Measure { root, form, is_short, is_check, plan })
    }
}
