//! How the control and the further analyses weigh in the verdict of the trials.

use hotplug_side::Side;

use super::{Judgement, Verdict};
use crate::latency::{Latency, Told};
use crate::overlap::{Overlap, Pair};
use crate::rendezvous::Race;
use crate::scenario::Critical;

/// What an analysis means for the verdict that the trials gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weight {
    /// It leaves the verdict as it is.
    Nothing,
    /// It shows a regression, in these words.
    Regression(String),
    /// The trials do not show that nothing changed, for this reason: `unchanged` becomes `inconclusive`.
    Unproven(String),
    /// The trials miss what is there, for this reason: neither `unchanged` nor `fixed` stands.
    Blind(String),
}

impl Judgement {
    /// Lets an analysis weigh in.
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
    /// A metric that is slower is a regression.
    pub fn weight(&self) -> Weight {
        let percent = |ratio: f64| (ratio - 1.0) * 100.0;
        let slower = self.told(Told::Slower);
        let slower: Vec<String> =
            slower.map(|metric| format!("{} {:+.1} %", metric.name, percent(metric.ratio))).collect();
        if slower.is_empty() {
            Weight::Nothing
        } else {
            Weight::Regression(format!("slower: {}", slower.join(", ")))
        }
    }
}

impl Overlap {
    /// Where functions that the scenario races never overlapped, the trials show nothing of that race. A pair that a
    /// lock keeps apart, as `race` shows, need not overlap.
    pub fn weight(&self, race: Option<&Race>) -> Weight {
        if self.none.is_some() {
            return Weight::Nothing;
        }
        let is_excluded = |pair: &Pair, side: Side| match (race, &pair.first, &pair.second) {
            (Some(race), Critical::Function(a), Critical::Function(b)) => race.excludes(side, a, b),
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
