//! The verdict on each metric: the times of each boot on both sides, whether they differ, and by
//! how much.

use std::collections::BTreeMap;

use hotplug_side::{Side, Sides};
use hotplug_statistics::{ALPHA, Groups, coefficient_of_variation, fewest_boots, holm, median};

use super::metric::TrialTimes;
use super::result::{Latency, MetricResult, MetricVerdict, PhaseResult, Stall, VictimResult};
use super::spread::Times;
use crate::scenario::{Clock, Metric, Span, Timing};
use crate::unavailable::Unavailable;

/// Seed of the random draws: the same samples give the same figures.
const SEED: u64 = 7;

/// The confidence level of an interval.
const CONFIDENCE: f64 = 0.95;

/// The samples of all metrics, by boot, and the other figures that are shown.
#[derive(Debug, Clone, Default)]
pub struct Timed {
    /// By metric, then by boot, in nanoseconds.
    samples: Sides<BTreeMap<String, BTreeMap<u32, Vec<f64>>>>,
    /// Metrics that a side cannot measure, and the reason.
    missing: BTreeMap<String, String>,
    /// In the order of their first occurrence.
    phases: Vec<(Span, Sides<Times>)>,
    victims: BTreeMap<String, Sides<Loops>>,
}

/// The loops of one victim, on one side.
#[derive(Debug, Clone, Default)]
struct Loops {
    times: Times,
    worst: Option<Stall>,
    untold: u64,
}

impl Timed {
    fn add(&mut self, side: Side, boot: u32, metric: &str, nanoseconds: f64) {
        let of = self.samples.of_mut(side).entry(metric.to_owned()).or_default();
        of.entry(boot).or_default().push(nanoseconds);
    }

    /// The boots of two comparisons, each with its patch.
    pub fn of_boots(first: &Latency, second: &Latency) -> Self {
        let mut timed = Self::default();
        for (side, latency) in [(Side::Before, first), (Side::After, second)] {
            for metric in &latency.metrics {
                for (boot, nanoseconds) in (1..).zip(&metric.boots.after) {
                    timed.add(side, boot, &metric.name, *nanoseconds);
                }
            }
        }
        timed
    }

    /// Adds the samples that a trial of this boot has for the metrics of `timing`.
    pub fn add_trial(&mut self, boot: u32, trial: &TrialTimes, timing: &Timing) {
        let side = trial.side;
        for metric in timing.metrics() {
            let name = metric.to_string();
            if let Metric::Function(functions) = metric
                && let Some(function) =
                    trial.untraceable.iter().find(|one| functions.split("..").any(|f| f == *one))
            {
                let why = format!("the {side} kernel has no {function} that can be traced");
                self.missing.insert(name.clone(), why);
            }
            for nanoseconds in trial.samples(&metric) {
                self.add(side, boot, &name, nanoseconds);
            }
        }
        for course in &trial.courses {
            for part in course.parts() {
                let Some(took) = course.took(&part) else { continue };
                let known = self.phases.iter().position(|(known, _)| *known == part);
                let place = known.unwrap_or_else(|| {
                    self.phases.push((part, Sides::default()));
                    self.phases.len() - 1
                });
                self.phases[place].1.of_mut(side).add(took);
            }
        }
        for victim in &timing.victims {
            let Some(found) = trial.victims.iter().find(|found| found.name == victim.name) else { continue };
            let loops = self.victims.entry(victim.name.clone()).or_default().of_mut(side);
            loops.untold += found.loops.saturating_sub(found.times.len() as u64);
            let interval = victim.load.rate.map(|rate| 1e9 / f64::from(rate));
            for time in &found.times {
                #[expect(clippy::cast_precision_loss, reason = "below 2^52 ns, which are 52 days")]
                let took = time.nanoseconds as f64;
                match interval {
                    Some(interval) => loops.times.add_due(took, interval),
                    None => loops.times.add(took),
                }
            }
            if let Some(longest) = found.longest()
                && loops.worst.as_ref().is_none_or(|worst| worst.nanoseconds < longest.nanoseconds)
            {
                let meanwhile = trial.meanwhile(longest).map(str::to_owned);
                let nanoseconds = longest.nanoseconds;
                loops.worst = Some(Stall { nanoseconds, boot, trial: trial.number, meanwhile });
            }
        }
    }

    /// The times of the parts of operations.
    pub fn phases(&self) -> Vec<PhaseResult> {
        let spread =
            |times: &Sides<Times>| Sides { before: times.before.spread(), after: times.after.spread() };
        let mut all: Vec<PhaseResult> = self
            .phases
            .iter()
            .map(|(part, times)| PhaseResult {
                part: part.clone(),
                teller: part.first.teller(),
                spread: spread(times),
            })
            .collect();
        // Groups parts by clock and operation. The sort is stable, so parts stay in their order in
        // time.
        all.sort_by(|a, b| (a.teller, &a.part.operation).cmp(&(b.teller, &b.part.operation)));
        all
    }

    /// The results of the victims, in the order of the scenario.
    pub fn victims(&self, timing: &Timing) -> Vec<VictimResult> {
        let known = timing.victims.iter().filter_map(|victim| {
            let Sides { before, after } = self.victims.get(&victim.name)?.clone();
            Some(VictimResult {
                name: victim.name.clone(),
                spread: Sides { before: before.times.spread(), after: after.times.spread() },
                worst: Sides { before: before.worst, after: after.worst },
                untold: Sides { before: before.untold, after: after.untold },
            })
        });
        known.collect()
    }

    /// The verdicts on the metrics of `timing`.
    pub fn judge(&self, timing: &Timing, clock: Clock) -> Vec<MetricResult> {
        let mut results: Vec<MetricResult> =
            timing.metrics().iter().map(|metric| self.measure(*metric, timing, clock)).collect();
        let judged: Vec<usize> = (0..results.len()).filter(|at| results[*at].none.is_none()).collect();
        let p: Vec<f64> = judged.iter().map(|at| results[*at].p).collect();
        for (at, p_corrected) in judged.iter().zip(holm(&p)) {
            let result = &mut results[*at];
            result.p_corrected = p_corrected;
            let Some(groups) = Groups::new(&result.boots) else { continue };
            let (told, boots) = tell(&groups, result.p_corrected, result.floor, judged.len());
            (result.told, result.boots_to_tell) = (Some(told), boots);
        }
        results
    }

    /// The result without its verdict, which depends on the other metrics as well.
    fn measure(&self, metric: Metric<'_>, timing: &Timing, clock: Clock) -> MetricResult {
        let name = &metric.to_string();
        let mut result = MetricResult::unjudged(name);
        for side in Side::BOTH {
            let boots = self.samples.of(side).get(name);
            let boots: Vec<&Vec<f64>> = boots.iter().flat_map(|boots| boots.values()).collect();
            let count = boots.iter().map(|samples| samples.len()).sum::<usize>();
            *result.samples.of_mut(side) = u32::try_from(count).unwrap_or(u32::MAX);
            let mut spread = Times::default();
            boots.iter().copied().flatten().for_each(|sample| spread.add(*sample));
            *result.spread.of_mut(side) = spread.spread();
            *result.boots.of_mut(side) = boots.into_iter().filter_map(|samples| median(samples)).collect();
            *result.variation.of_mut(side) = coefficient_of_variation(result.boots.of(side));
        }
        let Some(groups) = Groups::new(&result.boots) else {
            let why = match (self.missing.get(name), metric) {
                (Some(why), _) => why.clone(),
                // A ratio needs waits in every boot.
                (None, Metric::Waited(_)) => "in some boots no task waited for it".to_owned(),
                (None, Metric::Held(_)) => "it was not taken in two boots of both kernels".to_owned(),
                (None, _) => "it did not run in two boots of both kernels".to_owned(),
            };
            result.none = Some(Unavailable::because(why));
            return result;
        };
        result.typical = groups.typical();
        result.ratio = groups.difference().exp();
        result.interval = groups.interval(CONFIDENCE, SEED);
        result.p = groups.p_different(SEED);
        let absolute = timing.floor_us(clock) * 1e3 / result.typical.before;
        result.floor = (timing.floor_percent(clock) / 100.0).max(absolute);
        result
    }
}

/// The verdict from a metric's boots. If it is inconclusive, also the number of boots that would
/// decide.
fn tell(groups: &Groups, p_corrected: f64, floor: f64, metrics: usize) -> (MetricVerdict, Option<u32>) {
    let margin = floor.ln_1p();
    let difference = groups.difference();
    if p_corrected < ALPHA && difference >= margin {
        return (MetricVerdict::Slower, None);
    }
    if p_corrected < ALPHA && difference <= -margin {
        return (MetricVerdict::Faster, None);
    }
    if difference.abs() < margin && groups.p_apart(margin, SEED) < ALPHA {
        return (MetricVerdict::NoChange, None);
    }
    (MetricVerdict::CannotTell, groups.boots_to_tell(margin, corrected_level(metrics)))
}

/// The level that the smallest p of this many metrics has to be below, by [`holm`].
fn corrected_level(metrics: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "metrics are few")]
    let metrics = metrics.max(1) as f64;
    ALPHA / metrics
}

/// The number of boots a side with which each of this many metrics can be decided at all.
pub fn enough_boots(metrics: usize) -> u32 {
    fewest_boots(corrected_level(metrics))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Judgement, Verdict};

    fn timing(functions: &[&str]) -> Timing {
        Timing {
            functions: functions.iter().map(ToString::to_string).collect(),
            phases: Vec::new(),
            locks: Vec::new(),
            victims: Vec::new(),
            boots: None,
            trials: 2,
            floor_percent: Some(1.0),
            floor_us: Some(5.0),
        }
    }

    /// Five boots a side with three samples each. A metric has its name, its before time in
    /// milliseconds, and its ratio.
    fn timed(metrics: &[(&str, f64, f64)]) -> Timed {
        let mut timed = Timed::default();
        for (metric, before, ratio) in metrics {
            for (side, factor) in [(Side::Before, 1.0), (Side::After, *ratio)] {
                for boot in 1..=5 {
                    let scatter = 1.0 + f64::from(boot) * 1e-4;
                    // One of the three samples is disturbed.
                    for disturbed in [1.0, 1.0, 3.0] {
                        timed.add(side, boot, metric, before * 1e6 * factor * scatter * disturbed);
                    }
                }
            }
        }
        timed
    }

    fn told(metrics: &[(&str, f64, f64)]) -> Vec<Option<MetricVerdict>> {
        let names: Vec<&str> = metrics.iter().map(|(name, ..)| *name).collect();
        let results = timed(metrics).judge(&timing(&names), Clock::Exact);
        results.iter().map(|result| result.told).collect()
    }

    #[test]
    fn beyond_chance_and_both_floors() {
        let all = told(&[("a", 30.0, 1.02), ("b", 30.0, 0.98), ("c", 30.0, 1.005), ("d", 0.1, 1.02)]);
        // `d` differs by 2 us, which is below the absolute floor.
        let expected =
            [MetricVerdict::Slower, MetricVerdict::Faster, MetricVerdict::NoChange, MetricVerdict::NoChange]
                .map(Some);
        assert_eq!(all, expected);
    }

    #[test]
    fn seven_metrics_are_too_many_for_five_boots() {
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let six: Vec<_> = names[..6].iter().map(|name| (*name, 30.0, 1.02)).collect();
        assert!(told(&six).iter().all(|told| *told == Some(MetricVerdict::Slower)));
        let seven: Vec<_> = names.iter().map(|name| (*name, 30.0, 1.02)).collect();
        assert!(told(&seven).iter().all(|told| *told == Some(MetricVerdict::CannotTell)));
        assert_eq!((enough_boots(6), enough_boots(7)), (5, 6));
    }

    #[test]
    fn what_did_not_run_or_cannot_be_traced_is_not_judged() {
        let mut timed = timed(&[("a", 30.0, 1.0)]);
        timed.add(Side::Before, 1, "b", 1.0);
        timed.missing.insert("c".into(), "the after kernel has no c that can be traced".into());
        let results = timed.judge(&timing(&["a", "b", "c"]), Clock::Exact);
        assert_eq!(results[0].none, None);
        assert_eq!(results[1].none.as_deref(), Some("it did not run in two boots of both kernels"));
        assert_eq!(results[2].none.as_deref(), Some("the after kernel has no c that can be traced"));
        // A metric that is not judged does not share the level.
        assert!((results[0].p_corrected - results[0].p).abs() < 1e-12);
        assert_eq!(results[0].samples, Sides { before: 15, after: 15 });
    }

    #[test]
    fn what_is_slower_is_a_regression() {
        let judgement = |verdict| Judgement { verdict, reason: "1 new".into(), ..Judgement::default() };
        let of = |ratio: f64, verdict| {
            let metrics = timed(&[("a", 30.0, ratio)]).judge(&timing(&["a"]), Clock::Exact);
            let mut judgement = judgement(verdict);
            judgement.weigh(Latency { metrics, ..Latency::default() }.weight());
            (judgement.verdict, judgement.reason)
        };
        let slower = "slower: a +2.0 %".to_owned();
        assert_eq!(of(1.02, Some(Verdict::Unchanged)), (Some(Verdict::Regressed), slower.clone()));
        assert_eq!(of(1.02, Some(Verdict::Inconclusive)), (Some(Verdict::Regressed), slower));
        let both = "1 new; slower: a +2.0 %".to_owned();
        assert_eq!(of(1.02, Some(Verdict::Regressed)), (Some(Verdict::Regressed), both));
        assert_eq!(of(1.02, None), (None, "1 new".into()));
        for ratio in [0.9, 1.0] {
            assert_eq!(of(ratio, Some(Verdict::Unchanged)), (Some(Verdict::Unchanged), "1 new".into()));
        }
    }
}
