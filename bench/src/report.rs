//! The results as a table for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{json, Map, Value};

use crate::metrics::{Metric, Reference};
use crate::plan::{median, Samples};
use crate::servers::Who;

/// From this share of busy time on, the load generator counts as the limit.
const GENERATOR_IS_THE_LIMIT: f64 = 0.9;
/// Above this share of time lost to other processes, the results are not worth quoting.
const NOTABLE_DISTURBANCE: f64 = 0.03;

/// The table.
pub(crate) fn table(metrics: &[Metric], samples: &Samples) -> String {
    let mut text = format!(
        "{:35}{:>6} {:>9}{:>9}{:>9}  {:>6} {:>9}   {}\n",
        "", "names", "ours", "C", "null", "ours/C", "ours/null", "target"
    );
    for metric in metrics.iter().filter(|metric| !metric.rounds(samples, Who::Ours).is_empty()) {
        let label = format!("{}, {}", metric.label, metric.unit);
        let _ = write!(text, "{label:35}{:>6} ", metric.names);
        for who in [Who::Ours, Who::C, Who::Null] {
            let value = median(metric.rounds(samples, who));
            let _ = write!(text, "{:>9}", or_blank(value, if value < 1000.0 { 1 } else { 0 }));
        }
        let ratio = |who| metric.ratio(samples, Reference::Server(who)).unwrap_or(f64::NAN);
        let _ = write!(text, "  {:>6} {:>9}", or_blank(ratio(Who::C), 2), or_blank(ratio(Who::Null), 2));
        for (number, target) in metric.targets.iter().enumerate() {
            if number > 0 {
                let _ = write!(text, "\n{:86}", "");
            }
            let verdict = match metric.ratio(samples, target.reference) {
                Some(ratio) if target.is_met_by(ratio) => format!("met ({ratio:.2})"),
                Some(ratio) if metric.misses(samples, *target) => format!("NOT MET ({ratio:.2})"),
                Some(ratio) => format!("met in some rounds ({ratio:.2})"),
                None => "not measured".into(),
            };
            let _ = write!(text, "   {target}: {verdict}");
        }
        text.push('\n');
    }
    text
}

/// How many targets are missed beyond the noise of their rounds.
pub(crate) fn missed(metrics: &[Metric], samples: &Samples) -> usize {
    let targets = metrics.iter().flat_map(|metric| metric.targets.iter().map(move |target| (metric, *target)));
    targets.filter(|(metric, target)| metric.misses(samples, *target)).count()
}

fn or_blank(value: f64, digits: usize) -> String {
    if value.is_nan() {
        String::new()
    } else {
        format!("{value:.digits$}")
    }
}

/// Warnings about the quality of the results.
pub(crate) fn reservations(samples: &Samples) -> Vec<String> {
    let mut lines = Vec::new();
    for who in [Who::Ours, Who::C, Who::Null] {
        let limited = samples.iter().filter(|((scenario, _, of), rounds)| {
            let busy = median(rounds.iter().map(|sample| sample.generator_busy).collect());
            *of == who && scenario.is_unlimited() && busy > GENERATOR_IS_THE_LIMIT
        });
        let limited: Vec<String> =
            limited.map(|((scenario, names, _), _)| format!("{} with {names} names", scenario.name())).collect();
        if !limited.is_empty() {
            lines.push(format!(
                "The load generator, not the server, limited the rate of {who} in {}.",
                limited.join(", ")
            ));
        }
    }
    let disturbed = median(samples.values().flatten().map(|sample| sample.disturbed).collect());
    if disturbed > NOTABLE_DISTURBANCE {
        lines.push(format!(
            "The machine was not left alone: load or server waited for a processor {:.0} % of the time. Do not quote.",
            disturbed * 100.0
        ));
    }
    lines
}

/// What went wrong, one line for each server and cause.
pub(crate) fn failures(samples: &Samples) -> Vec<String> {
    let mut lines = Vec::new();
    for ((scenario, names, who), rounds) in samples {
        for sample in rounds {
            for (cause, count) in &sample.failures {
                lines.push(format!(
                    "{who}, {}, {names} names: {count} failed beside {} that did not: {cause}",
                    scenario.name(),
                    sample.exchanges
                ));
            }
        }
    }
    lines
}

/// The metrics with their targets, and every sample behind them.
pub(crate) fn json(settings: &Value, metrics: &[Metric], samples: &Samples) -> Value {
    let measured = metrics.iter().filter(|metric| !metric.rounds(samples, Who::Ours).is_empty());
    json!({
        "settings": settings,
        "figures": measured.map(|metric| metric_json(metric, samples)).collect::<Vec<_>>(),
        "samples": samples.iter().flat_map(|(subject, rounds)| {
            let (scenario, names, who) = subject;
            rounds.iter().enumerate().map(move |(round, sample)| json!({
                "scenario": scenario.name(),
                "names": names,
                "server": who.to_string(),
                "round": round + 1,
                "exchanges": sample.exchanges,
                "failures": sample.failures,
                "cpu_us": sample.cpu,
                "per_second": sample.rate,
                "p50_us": sample.p50,
                "p99_us": sample.p99,
                "generator_busy": sample.generator_busy,
                "disturbed": sample.disturbed,
            }))
        }).collect::<Vec<_>>(),
    })
}

fn metric_json(metric: &Metric, samples: &Samples) -> Value {
    let mut servers = Map::new();
    for who in [Who::Ours, Who::C, Who::Null] {
        let rounds = metric.rounds(samples, who);
        if !rounds.is_empty() {
            servers.insert(
                who.to_string(),
                json!({
                    "median": median(rounds.clone()),
                    "least": rounds.iter().copied().fold(f64::INFINITY, f64::min),
                    "most": rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                }),
            );
        }
    }
    let targets = metric.targets.iter().map(|target| {
        let ratio = metric.ratio(samples, target.reference);
        json!({ "target": target.to_string(), "ratio": ratio, "met": ratio.map(|ratio| target.is_met_by(ratio)),
            "missed_in_every_round": metric.misses(samples, *target) })
    });
    json!({
        "scenario": metric.scenario.name(),
        "figure": metric.label.trim(),
        "unit": metric.unit,
        "names": metric.names,
        "servers": servers,
        "ours_to_C": metric.ratio(samples, Reference::Server(Who::C)),
        "ours_to_null": metric.ratio(samples, Reference::Server(Who::Null)),
        "targets": targets.collect::<Vec<_>>(),
    })
}
