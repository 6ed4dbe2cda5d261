//! How the control and the analyses affect the verdict of the trials.

use hotplug_side::Side;

use super::{Judgement, Verdict};
use crate::latency::{Latency, MetricVerdict};
use crate::overlap::{Overlap, Pair};
use crate::reach::Reach;
use crate::rendezvous::Race;
use crate::scenario::{CriticalSection, DEFAULT};

/// The effect of an analysis on the verdict that the trials gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weight {
    /// The verdict stays as it is.
    Nothing,
    /// The analysis shows a regression, described by this text.
    Regression(String),
    /// The trials do not show that nothing changed, for this reason. `unchanged` becomes
    /// `inconclusive`.
    Unproven(String),
    /// The trials miss existing bugs, for this reason. `unchanged` and `fixed` become
    /// `inconclusive`.
    Blind(String),
}

impl Judgement {
    /// Takes `unchanged` and `fixed` away, for this reason: the trials are no evidence of silence.
    pub fn without_silence(&mut self, reason: impl FnOnce(&str) -> String) {
        if matches!(self.verdict, Some(Verdict::Unchanged | Verdict::Fixed)) {
            self.reason = reason(&self.reason);
            self.verdict = Some(Verdict::Inconclusive);
        }
    }

    /// That of trials that did not all run, for this reason.
    #[must_use]
    pub fn stopped(self, reason: String) -> Self {
        Self { verdict: Some(Verdict::Inconclusive), reason, ..self }
    }

    /// Applies the weight of an analysis to the verdict.
    pub fn weigh(&mut self, weight: Weight) {
        let (verdict, reason) = match (weight, self.verdict) {
            (Weight::Regression(words), Some(Verdict::Regressed)) => {
                (Verdict::Regressed, format!("{}; {words}", self.reason))
            }
            (Weight::Regression(words), Some(_)) => (Verdict::Regressed, words),
            (Weight::Unproven(why) | Weight::Blind(why), Some(Verdict::Unchanged))
            | (Weight::Blind(why), Some(Verdict::Fixed)) => (Verdict::Inconclusive, why),
            _ => return,
        };
        (self.verdict, self.reason) = (Some(verdict), reason);
    }
}

impl Latency {
    /// A metric that became slower is a regression.
    pub fn weight(&self) -> Weight {
        let percent = |ratio: f64| (ratio - 1.0) * 100.0;
        let slower = self.told(MetricVerdict::Slower);
        let slower: Vec<String> =
            slower.map(|metric| format!("{} {:+.1} %", metric.name, percent(metric.ratio))).collect();
        if slower.is_empty() {
            Weight::Nothing
        } else {
            Weight::Regression(format!("slower: {}", slower.join(", ")))
        }
    }
}

/// The most callbacks that the reason for a verdict names.
const NAMED: usize = 4;

impl Reach {
    /// Silence about a changed lock means nothing for callbacks under it that never ran, or of
    /// which it is not known whether they ran.
    pub fn weight(&self) -> Weight {
        let memory = self.not_reached();
        let cpus: Vec<_> = self.cpus_not_reached().collect();
        let mut names: Vec<&str> = memory.iter().map(|one| one.function.as_str()).collect();
        names.extend(cpus.iter().map(|(function, _)| *function));
        if names.is_empty() {
            return self.not_known().map_or(Weight::Nothing, Weight::Unproven);
        }
        let more = format!("{} more", names.len().saturating_sub(NAMED));
        if names.len() > NAMED {
            names.truncate(NAMED);
            names.push(&more);
        }
        let mut scenarios: Vec<_> = memory.iter().filter_map(|one| one.chain.scenario()).collect();
        scenarios.extend(cpus.first().map(|_| DEFAULT));
        scenarios.sort_unstable();
        scenarios.dedup();
        let help = match scenarios.as_slice() {
            [] => String::new(),
            some => format!("; --scenario {} calls them", some.join(" --scenario ")),
        };
        let names = names.join(", ");
        Weight::Unproven(format!("not reached: under the changed lock, {names} never ran{help}"))
    }
}

impl Overlap {
    /// If functions that the scenario races against each other never overlapped, the trials show
    /// nothing about that race. A pair that a lock keeps apart, according to `race`, need not
    /// overlap.
    pub fn weight(&self, race: Option<&Race>) -> Weight {
        if self.none.is_some() {
            return Weight::Nothing;
        }
        let is_excluded = |pair: &Pair, side: Side| match (race, &pair.first, &pair.second) {
            (Some(race), CriticalSection::Function(a), CriticalSection::Function(b)) => {
                race.excludes(side, a, b)
            }
            _ => false,
        };
        let mut never = Vec::new();
        for (pair, mut sides) in self.never() {
            sides.retain(|side| !is_excluded(pair, *side));
            let side = match sides[..] {
                [] => continue,
                [side] => format!(" {side}"),
                _ => String::new(),
            };
            never.push(format!("{} and {}{side}", pair.first, pair.second));
        }
        if never.is_empty() {
            Weight::Nothing
        } else {
            Weight::Unproven(format!("never overlapped: {}", never.join("; ")))
        }
    }
}
