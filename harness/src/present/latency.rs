//! What takes longer or shorter, for people.

use std::fmt::Write;

use hotplug_side::{Side, Sides};

use super::labelled;
use crate::latency::{Latency, MetricResult, Spread, Stall, Told};
use crate::scenario::Teller;
use crate::text::{harmless, probability};

/// Widest line, characters.
const WIDTH: usize = 100;

/// The lines of a comparison's screen.
pub fn short(latency: &Latency) -> Vec<String> {
    if let Some(why) = &latency.none {
        let why = why.lines().next().unwrap_or_default();
        return vec![format!("latency   not judged: {}", harmless(why, WIDTH - 22))];
    }
    let mut lines = vec![head(latency)];
    lines.extend(left_out(latency));
    let width = latency.metrics.iter().map(|metric| metric.name.len()).max().unwrap_or(0).min(48);
    lines.extend(latency.metrics.iter().map(|metric| format!("{:<width$}  {}", metric.name, row(metric))));
    labelled("latency", lines)
}

/// All of it: each metric with every boot.
pub fn full(latency: &Latency) -> String {
    let mut out = short(latency).join("\n");
    out.push('\n');
    for metric in latency.metrics.iter().filter(|metric| metric.none.is_none()) {
        let _ = writeln!(out, "\n{}", metric.name);
        for side in Side::BOTH {
            let boots: Vec<String> = metric.boots.of(side).iter().map(|boot| nanoseconds(*boot)).collect();
            let varies =
                metric.variation.of(side).map_or_else(String::new, |cv| format!(", {:.2} %", cv * 100.0));
            let _ = writeln!(
                out,
                "  {side:<6} {:>10} over {} boots{varies}, {} samples: {}",
                nanoseconds(*metric.typical.of(side)),
                boots.len(),
                metric.samples.of(side),
                boots.join(", ")
            );
        }
        let _ = writeln!(
            out,
            "  p = {:.4}, {:.4} for {} metrics; a change by less than {} does not matter",
            metric.p,
            metric.p_corrected,
            latency.metrics.len(),
            percent(metric.floor)
        );
    }
    out.push_str(&victims(latency));
    // Parts of operations and what others felt have tables of their own, and a lock has one figure a trial.
    let functions = latency.metrics.iter().filter(|metric| !metric.name.contains(": "));
    out.push_str(&spreads("each call", functions.map(|metric| (metric.name.clone(), metric.spread))));
    for teller in [Teller::Host, Teller::Guest] {
        let head = match teller {
            Teller::Host => "operations, by the host's clock",
            Teller::Guest => "operations, by the guest's clock",
        };
        let phases = latency.phases.iter().filter(|phase| phase.teller == teller);
        out.push_str(&spreads(head, phases.map(|phase| (phase.part.to_string(), phase.spread))));
    }
    out
}

/// What others felt: how their loops are spread, and the longest of each side.
fn victims(latency: &Latency) -> String {
    let all = latency.victims.iter();
    let mut out = spreads("others meanwhile", all.clone().map(|victim| (victim.name.clone(), victim.spread)));
    for victim in all {
        for side in Side::BOTH {
            let Some(Stall { nanoseconds: long, boot, trial, meanwhile }) = victim.worst.of(side) else {
                continue;
            };
            let meanwhile =
                meanwhile.as_ref().map_or_else(String::new, |function| format!(", during {function}()"));
            #[expect(clippy::cast_precision_loss, reason = "below 2^52 ns, which are 52 days")]
            let long = nanoseconds(*long as f64);
            let _ = writeln!(
                out,
                "  {} {side}: longest {long} in boot {boot}, trial {trial}{}",
                harmless(&victim.name, NAME),
                harmless(&meanwhile, 60)
            );
            if *victim.untold.of(side) > 0 {
                let _ = writeln!(
                    out,
                    "  {} of its loops are not counted: there were too many",
                    victim.untold.of(side)
                );
            }
        }
    }
    out
}

/// Widest name of a row of percentiles.
const NAME: usize = 43;

/// A table of percentiles, two lines a row; empty where there are none.
fn spreads(head: &str, rows: impl Iterator<Item = (String, Sides<Option<Spread>>)>) -> String {
    let mut out = String::new();
    for (name, spread) in rows {
        for side in Side::BOTH {
            let Some(Spread { count, p50, p90, p99, max }) = spread.of(side) else { continue };
            if out.is_empty() {
                let columns = ["n", "50 %", "90 %", "99 %", "longest"];
                let columns = columns.map(|column| format!("{column:>10}")).concat();
                let _ = writeln!(out, "\n{head:<NAME$}{:<6}{columns}", "");
            }
            #[expect(clippy::cast_precision_loss, reason = "below 2^52 ns, which are 52 days")]
            let times =
                [p50, p90, p99, max].map(|time| format!("{:>10}", nanoseconds(*time as f64))).concat();
            let name = if side == Side::Before || spread.before.is_none() { name.as_str() } else { "" };
            let _ = writeln!(out, "{:<NAME$}{side:<6}{count:>10}{times}", harmless(name, NAME - 1));
        }
    }
    out
}

fn head(latency: &Latency) -> String {
    let Sides { before, after } = latency.boots;
    let (first, second) = (latency.trials.before, latency.trials.after);
    let despite = if latency.despite_reports { ", trials that reported among them" } else { "" };
    format!("{} clock, {before} + {after} boots, {first} + {second} trials{despite}", latency.clock)
}

fn left_out(latency: &Latency) -> Option<String> {
    let Sides { before, after } = latency.left_out;
    let why = latency.left_out_why.as_deref()?;
    Some(format!("left out: {before} + {after} trials ({})", harmless(why, WIDTH - 36)))
}

/// `36.25 ms -> 36.61 ms  +1.00 % (+0.91 to +1.12)  SLOWER, p = 0.0079`
pub(super) fn row(metric: &MetricResult) -> String {
    if let Some(why) = &metric.none {
        return format!("not judged: {}", harmless(why, 60));
    }
    let change = |ratio: f64| format!("{:+.*}", metric.decimals(), (ratio - 1.0) * 100.0);
    let (low, high) = metric.interval;
    let told = match metric.told {
        Some(Told::Faster) => format!("FASTER, p = {}", probability(metric.p_corrected)),
        Some(Told::Slower) => format!("SLOWER, p = {}", probability(metric.p_corrected)),
        Some(Told::NoChange) => format!("no change (within {})", percent(metric.floor)),
        Some(Told::CannotTell) | None => match metric.boots_to_tell {
            Some(boots) => format!("cannot tell; {boots} boots a side might"),
            None => "cannot tell".into(),
        },
    };
    format!(
        "{:>9} -> {:>9}  {} % ({} to {})  {told}",
        nanoseconds(metric.typical.before),
        nanoseconds(metric.typical.after),
        change(metric.ratio),
        change(low),
        change(high)
    )
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent < 1.0 { format!("{percent:.2} %") } else { format!("{percent:.1} %") }
}

/// Four significant digits.
pub(super) fn nanoseconds(time: f64) -> String {
    let (value, unit) = match time {
        t if t < 1e3 => (t, "ns"),
        t if t < 1e6 => (t / 1e3, "us"),
        t if t < 1e9 => (t / 1e6, "ms"),
        t => (t / 1e9, "s"),
    };
    let places = match value {
        v if v < 10.0 => 3,
        v if v < 100.0 => 2,
        _ => 1,
    };
    format!("{value:.places$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::PhaseResult;
    use crate::scenario::{Mark, Part};

    #[test]
    fn the_longest_name_of_a_part_has_room() {
        let part =
            Part { operation: "unplug dimm".into(), first: Mark::OfflineBegun, last: Mark::OfflineDone };
        let spread =
            Some(Spread { count: 12, p50: 9_191_000, p90: 9_500_000, p99: 11_000_000, max: 11_160_000 });
        let phase =
            PhaseResult { part, teller: Teller::Guest, spread: Sides { before: spread, after: spread } };
        let text = full(&Latency { phases: vec![phase], ..Latency::default() });
        assert!(
            text.contains("unplug dimm: offline-begun..offline-done   before        12  9.191 ms"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    }

    #[test]
    fn times_have_four_digits() {
        for (time, text) in
            [(12.0, "12.00 ns"), (1234.5, "1.234 us"), (36_254_321.0, "36.25 ms"), (2.5e9, "2.500 s")]
        {
            assert_eq!(nanoseconds(time), text);
        }
    }
}
