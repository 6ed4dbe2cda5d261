//! The output of the latency analysis: what becomes slower or faster.

use std::fmt::Write;
use std::path::Path;

use hotplug_side::{Side, Sides};

use maud::{Markup, html};

use super::{page, stalls};
use crate::compare::{Judgement, Weight};
use crate::conclusion::{Case, CaseOutcome, Conclusion, labelled, unavailable_line};
use crate::latency::{Latency, MetricResult, MetricVerdict, Spread, Stall};
use crate::scenario::ClockSource;
use crate::text::{harmless, nanoseconds, probability};

/// Widest line, in characters.
const WIDTH: usize = 100;

impl Conclusion for Latency {
    fn weight(&self, _: &Judgement) -> Weight {
        self.weight()
    }

    fn screen(&self) -> Vec<String> {
        short(self)
    }

    fn case(&self) -> Option<Case> {
        let slower: Vec<String> = self.told(MetricVerdict::Slower).map(MetricResult::in_short).collect();
        let outcome = match &self.none {
            Some(why) => CaseOutcome::unavailable(why),
            None if !slower.is_empty() => {
                CaseOutcome::failed(format!("slower: {}", slower.join(", ")), short(self))
            }
            None if self.told(MetricVerdict::CannotTell).next().is_some() => {
                CaseOutcome::skipped("inconclusive for some metrics")
            }
            None => CaseOutcome::Passed,
        };
        Some(Case::new("nothing is slower", outcome))
    }

    fn page(&self, run: &Path) -> Markup {
        html! {
            section aria-labelledby="latency" {
                h2 id="latency" { "Latency" }
                @if let Some(why) = &self.none {
                    p { "Not judged: " (&**why) "." }
                } @else {
                    (page::metrics(self))
                    (stalls::section(&stalls::worst(self, run)))
                }
            }
        }
    }
}

/// The lines of a comparison's screen.
fn short(latency: &Latency) -> Vec<String> {
    if let Some(why) = &latency.none {
        return unavailable_line("latency", "not judged", why);
    }
    let mut lines = vec![head(latency)];
    lines.extend(left_out(latency));
    let width = latency.metrics.iter().map(|metric| metric.name.len()).max().unwrap_or(0).min(48);
    lines.extend(latency.metrics.iter().map(|metric| format!("{:<width$}  {}", metric.name, row(metric))));
    labelled("latency", lines)
}

/// The full text: each metric with every boot.
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
    // Parts of operations and victims have tables of their own, and a lock has one figure a trial.
    let functions = latency.metrics.iter().filter(|metric| !metric.name.contains(": "));
    out.push_str(&spreads("each call", functions.map(|metric| (metric.name.clone(), metric.spread))));
    for teller in [ClockSource::Host, ClockSource::Guest] {
        let head = match teller {
            ClockSource::Host => "operations, by the host's clock",
            ClockSource::Guest => "operations, by the guest's clock",
        };
        let phases = latency.phases.iter().filter(|phase| phase.teller == teller);
        out.push_str(&spreads(head, phases.map(|phase| (phase.part.to_string(), phase.spread))));
    }
    out
}

/// The victims: the distribution of their loops, and the longest loop on each side.
fn victims(latency: &Latency) -> String {
    let all = latency.victims.iter();
    let mut out = spreads("victims", all.clone().map(|victim| (victim.name.clone(), victim.spread)));
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

/// Widest name of a row of percentiles, in characters.
const NAME: usize = 43;

/// A table of percentiles, with a line for each side; empty if there are none.
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

/// Formats a metric as `36.25 ms -> 36.61 ms +1.00 % (+0.91 to +1.12) SLOWER, p = 0.0079`.
pub fn row(metric: &MetricResult) -> String {
    if let Some(why) = &metric.none {
        return format!("not judged: {}", harmless(why, 60));
    }
    let change = |ratio: f64| format!("{:+.*}", metric.decimals(), (ratio - 1.0) * 100.0);
    let (low, high) = metric.interval;
    let told = match metric.told {
        Some(MetricVerdict::Faster) => format!("FASTER, p = {}", probability(metric.p_corrected)),
        Some(MetricVerdict::Slower) => format!("SLOWER, p = {}", probability(metric.p_corrected)),
        Some(MetricVerdict::NoChange) => format!("no change (within {})", percent(metric.floor)),
        Some(MetricVerdict::CannotTell) | None => match metric.boots_to_tell {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::PhaseResult;
    use crate::scenario::{Mark, Span};

    #[test]
    fn the_longest_name_of_a_part_has_room() {
        let part =
            Span { operation: "unplug dimm".into(), first: Mark::OfflineBegun, last: Mark::OfflineDone };
        let spread =
            Some(Spread { count: 12, p50: 9_191_000, p90: 9_500_000, p99: 11_000_000, max: 11_160_000 });
        let phase =
            PhaseResult { part, teller: ClockSource::Guest, spread: Sides { before: spread, after: spread } };
        let text = full(&Latency { phases: vec![phase], ..Latency::default() });
        assert!(
            text.contains("unplug dimm: offline-begun..offline-done   before        12  9.191 ms"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    }
}
