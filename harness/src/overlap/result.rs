//! The overlap part of `result.json`.

use hotplug_side::{Side, Sides};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::section::{overlaps, sections};
use crate::latency::TrialTimes;
use crate::scenario::{CriticalSection, OverlapSpec};
use crate::unavailable::Unavailable;

/// The overlap part of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overlap {
    /// Why nothing was traced; the rest is then empty.
    pub none: Option<Unavailable>,
    /// Traced trials. They run beside the judged trials, with kernels of their own.
    pub trials: Sides<u32>,
    /// Trials that were left out because their trace is incomplete, or because they gave no result.
    pub left_out: Sides<u32>,
    /// Why the first of them was left out.
    pub left_out_why: Option<String>,
    /// Traced calls of all trials.
    pub calls: Sides<u64>,
    /// The traced functions and sections, in the order of the scenario.
    pub traced: Vec<Traced>,
    /// The pairs that the scenario races, in its order, then all other pairs that overlapped on
    /// either side.
    pub pairs: Vec<Pair>,
}

/// A traced function, or a section between two functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Traced {
    /// The function or section.
    pub what: CriticalSection,
    /// The number of times that a task was inside, over all trials; null if the kernel cannot trace
    /// it.
    pub entered: Sides<Option<u64>>,
}

/// A pair of traced functions or sections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pair {
    /// The first one.
    pub first: CriticalSection,
    /// The second one; the same as the first if two tasks were in one function.
    pub second: CriticalSection,
    /// Whether the scenario races this pair.
    pub is_wanted: bool,
    /// Trials in which two tasks were inside of both at once.
    pub trials: Sides<u32>,
    /// The longest overlap, in nanoseconds of the guest's clock.
    pub longest: Sides<Option<f64>>,
    /// The trial with the longest overlap.
    pub example: Sides<Option<String>>,
}

impl Pair {
    fn new(first: CriticalSection, second: CriticalSection, is_wanted: bool) -> Self {
        let (trials, longest, example) = Default::default();
        Self { first, second, is_wanted, trials, longest, example }
    }

    /// Whether the pair consists of these two, in either order.
    pub fn is(&self, first: &CriticalSection, second: &CriticalSection) -> bool {
        (&self.first, &self.second) == (first, second) || (&self.first, &self.second) == (second, first)
    }
}

impl Overlap {
    /// The result if nothing was traced, with the reason.
    pub fn none(why: Unavailable) -> Self {
        Self { none: Some(why), ..Self::default() }
    }

    /// The result before the first trial.
    pub fn new(racing: &OverlapSpec) -> Self {
        let wanted = racing.race.iter().map(|[first, second]| Pair::new(first.clone(), second.clone(), true));
        let traced = racing.traced().into_iter();
        let none = Sides { before: None, after: None };
        let traced = traced.map(|what| Traced { what, entered: none });
        Self { pairs: wanted.collect(), traced: traced.collect(), ..Self::default() }
    }

    /// Adds a trial; `folder` is its path in the result.
    pub fn add_trial(&mut self, times: &TrialTimes, folder: &str) {
        let side = times.side;
        *self.trials.of_mut(side) += 1;
        *self.calls.of_mut(side) += times.calls.len() as u64;
        let all: Vec<CriticalSection> = self.traced.iter().map(|one| one.what.clone()).collect();
        let sections = sections(&times.calls, &all);
        for one in &mut self.traced {
            if one.what.functions().any(|function| times.untraceable.iter().any(|name| name == function)) {
                continue;
            }
            let entered = sections.iter().filter(|section| *section.what == one.what).count() as u64;
            *one.entered.of_mut(side).get_or_insert_default() += entered;
        }
        for ((first, second), longest) in overlaps(&sections) {
            let known = self.pairs.iter().position(|pair| pair.is(first, second));
            let place = known.unwrap_or_else(|| {
                self.pairs.push(Pair::new(first.clone(), second.clone(), false));
                self.pairs.len() - 1
            });
            let pair = &mut self.pairs[place];
            *pair.trials.of_mut(side) += 1;
            if pair.longest.of(side).is_none_or(|known| known < longest.nanoseconds) {
                *pair.longest.of_mut(side) = Some(longest.nanoseconds);
                *pair.example.of_mut(side) = Some(folder.to_owned());
            }
        }
    }

    /// Leaves a trial out, for this reason.
    pub fn leave_out(&mut self, side: Side, why: &str) {
        *self.left_out.of_mut(side) += 1;
        self.left_out_why.get_or_insert_with(|| format!("{side}: {why}"));
    }

    /// Sorts the pairs after the last trial. Raced pairs stay first; the others follow, most
    /// frequent overlaps first.
    pub fn sort(&mut self) {
        let met = |pair: &Pair| pair.trials.before + pair.trials.after;
        let longest = |pair: &Pair| pair.longest.before.unwrap_or(0.0).max(pair.longest.after.unwrap_or(0.0));
        let wanted = self.pairs.iter().take_while(|pair| pair.is_wanted).count();
        self.pairs[wanted..].sort_by(|a, b| {
            (met(b), longest(b)).partial_cmp(&(met(a), longest(a))).unwrap_or(std::cmp::Ordering::Equal)
        });
    }

    /// The raced pairs that never overlapped, with the sides on which they did not.
    pub fn never(&self) -> impl Iterator<Item = (&Pair, Vec<Side>)> {
        self.pairs.iter().filter(|pair| pair.is_wanted).filter_map(|pair| {
            let apart = Side::BOTH.into_iter().filter(|side| *pair.trials.of(*side) == 0);
            let apart: Vec<Side> = apart.collect();
            (!apart.is_empty()).then_some((pair, apart))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Judgement, Verdict};
    use crate::latency::Call;

    fn racing() -> OverlapSpec {
        let pair = |a: &str, b: &str| [a.parse().unwrap(), b.parse().unwrap()];
        OverlapSpec {
            functions: ["offline_pages", "_cpu_up", "gone"].map(|name| name.parse().unwrap()).to_vec(),
            race: vec![pair("offline_pages", "_cpu_up")],
            trials: None,
        }
    }

    fn call(function: &str, task: u32, from: f64, to: f64) -> Call {
        Call { function: function.into(), task, began_us: from, nanoseconds: (to - from) * 1e3 }
    }

    fn trial(side: Side, calls: Vec<Call>) -> TrialTimes {
        TrialTimes { calls, untraceable: vec!["gone".into()], ..TrialTimes::new(side, 0) }
    }

    fn met(side: Side, longer: f64) -> TrialTimes {
        trial(side, vec![call("offline_pages", 1, 0.0, 10.0 + longer), call("_cpu_up", 2, 5.0, 50.0)])
    }

    fn apart(side: Side) -> TrialTimes {
        trial(side, vec![call("offline_pages", 1, 0.0, 5.0), call("_cpu_up", 2, 5.0, 50.0)])
    }

    fn weighed(overlap: &Overlap, verdict: Verdict) -> (Verdict, String) {
        let mut judgement =
            Judgement { verdict: Some(verdict), reason: "0 new".into(), ..Judgement::default() };
        judgement.weigh(overlap.weight(None));
        (judgement.verdict.unwrap(), judgement.reason)
    }

    #[test]
    fn what_was_to_race_and_never_did_is_no_unchanged() {
        let mut overlap = Overlap::new(&racing());
        overlap.add_trial(&met(Side::Before, 0.0), "before-000");
        overlap.add_trial(&met(Side::Before, 20.0), "before-001");
        overlap.add_trial(&apart(Side::After), "after-000");
        overlap.sort();
        let [pair] = &overlap.pairs[..] else { panic!("{overlap:#?}") };
        assert_eq!((pair.trials, pair.longest.before), (Sides { before: 2, after: 0 }, Some(25_000.0)));
        assert_eq!(pair.example, Sides { before: Some("before-001".into()), after: None });
        let reason = "never overlapped: offline_pages and _cpu_up after";
        assert_eq!(weighed(&overlap, Verdict::Unchanged), (Verdict::Inconclusive, reason.into()));
        for other in [Verdict::Regressed, Verdict::Fixed, Verdict::Inconclusive] {
            assert_eq!(weighed(&overlap, other), (other, "0 new".into()));
        }
        overlap.add_trial(&met(Side::After, 0.0), "after-001");
        assert_eq!(weighed(&overlap, Verdict::Unchanged).0, Verdict::Unchanged);
    }

    #[test]
    fn what_cannot_be_traced_was_not_entered_no_times_but_never_asked() {
        let mut overlap = Overlap::new(&racing());
        overlap.add_trial(&apart(Side::Before), "before-000");
        let entered: Vec<Option<u64>> = overlap.traced.iter().map(|one| one.entered.before).collect();
        assert_eq!(entered, [Some(1), Some(1), None]);
        assert_eq!(overlap.calls.before, 2);
    }

    #[test]
    fn others_that_met_come_behind_what_was_wanted() {
        let mut overlap = Overlap::new(&racing());
        let calls = vec![call("_cpu_up", 1, 0.0, 9.0), call("_cpu_up", 2, 5.0, 50.0)];
        overlap.add_trial(&trial(Side::After, calls), "after-000");
        overlap.sort();
        let pairs: Vec<(String, bool)> = overlap
            .pairs
            .iter()
            .map(|pair| (format!("{} {}", pair.first, pair.second), pair.is_wanted))
            .collect();
        assert_eq!(pairs, [("offline_pages _cpu_up".into(), true), ("_cpu_up _cpu_up".into(), false)]);
        assert_eq!(overlap.never().count(), 1);
    }
}
