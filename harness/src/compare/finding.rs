//! A finding of a comparison, with the number of trials of each side that showed it.

use hotplug_side::{Side, Sides};
use hotplug_statistics::{Table, stratified_two_sided};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::early::Bet;
use crate::text::{probability, significant};

/// The sides on which a finding was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Only after.
    New,
    /// Only before.
    Fixed,
    /// On both sides.
    Common,
}

/// The number of trials that showed something, and of trials that could have shown it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Count {
    /// Trials that showed it.
    pub seen: u32,
    /// Trials that showed it, and trials that would have shown it. A trial that ends early or loses
    /// records is no evidence of absence. For reports that only lockdep prints, neither is a trial
    /// in which lockdep turned itself off.
    pub trials: u32,
}

impl Count {
    /// The share of trials that showed it, of those that could have; 0 if there are none.
    pub fn rate(self) -> f64 {
        if self.trials == 0 { 0.0 } else { f64::from(self.seen) / f64::from(self.trials) }
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.seen, self.trials)
    }
}

/// The trials of one scenario that showed a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SeenIn {
    /// The name of the scenario.
    pub scenario: String,
    /// Trials without the patch.
    pub before: Count,
    /// Trials with the patch.
    pub after: Count,
    /// The same counts for each round, if guests took several trials: the trials that their guests
    /// took first, second and so on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<Sides<Count>>,
}

/// One kernel report, or one failure that the harness itself detected, over all trials.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The sides on which it was seen.
    pub class: Class,
    /// Identifies the finding across trials: a short hash.
    pub signature: String,
    /// The signature's readable key.
    pub key: String,
    /// The kernel checker's kind. For failures that the harness detected: `hung`, `refused`,
    /// `not-refused`, `program`, `accounting-mismatch`, `not-restored`.
    pub kind: String,
    /// A summary of one line.
    pub title: String,
    /// The functions of the call stack, innermost first, without those that the unwinder marked
    /// `?`.
    pub frames: Vec<String>,
    /// The same functions with file, line and inlined callers, if the kernel's vmlinux has them.
    pub call_path: Vec<hotplug_kreport::Frame>,
    /// The function to blame; `None` if the report names none.
    pub blame: Option<String>,
    /// The checker's own text in the first such report, such as the text of a WARN.
    #[serde(default)]
    pub detail: Option<String>,
    /// Trials without the patch, of the scenarios in which it was seen.
    pub before: Count,
    /// Trials with the patch, of the scenarios in which it was seen.
    pub after: Count,
    /// The same counts for each scenario in which it was seen, in the order of their names. Results
    /// of older versions lack them.
    #[serde(default)]
    pub scenarios: Vec<SeenIn>,
    /// The p-value of the exact test, two-sided, of the two rates, with each round of each scenario as
    /// a stratum. A guest ends with the trial that shows a finding, so this is the exact form of the
    /// log-rank test, with guests that end. With one scenario, and one trial a guest, it is Fisher's
    /// exact test.
    pub p: f64,
    /// The test after each trial. Only a comparison that may end early (`--until-decided`) has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bet: Option<Bet>,
    /// Whether `p` is significant at 0.05 after Holm's correction for all findings of this
    /// comparison. A comparison that may be judged twice (`looks` of its plan) divides the 0.05 by
    /// two. In a comparison that may end early, the level is 0.03 instead of 0.05, and a `bet` that
    /// is won decides, too. Known issues are not decided if they may worsen (`--known-may-worsen`).
    pub decided: bool,
    /// The most occurrences in one trial.
    pub times: u64,
    /// Why the finding is tolerated, if the file of known issues lists it. It then does not affect
    /// the verdict.
    pub known: Option<String>,
    /// The operations that were in flight at its first occurrence, in words.
    pub during: String,
    /// The folder of the first trial that showed it, below the run's folder.
    pub example: String,
    /// Seconds from the start of the first trial to the end of that trial. Runs of older versions
    /// lack it.
    #[serde(default)]
    pub first_seen_seconds: Option<f64>,
}

impl SeenIn {
    /// The counts of all rounds together.
    pub(super) fn of_rounds(scenario: String, rounds: Vec<Sides<Count>>) -> Self {
        let sum = |side: Side| {
            rounds.iter().map(|round| *round.of(side)).fold(Count::default(), |all, one| Count {
                seen: all.seen + one.seen,
                trials: all.trials + one.trials,
            })
        };
        let (before, after) = (sum(Side::Before), sum(Side::After));
        Self { scenario, before, after, rounds: if rounds.len() > 1 { rounds } else { Vec::new() } }
    }

    /// The counts as tables for an exact test, one for each round.
    pub(super) fn tables(&self) -> Vec<Table> {
        let table = |before: Count, after: Count| Table {
            a: before.seen,
            n: before.trials,
            b: after.seen,
            m: after.trials,
        };
        if self.rounds.is_empty() {
            return vec![table(self.before, self.after)];
        }
        self.rounds.iter().map(|round| table(round.before, round.after)).collect()
    }
}

impl Finding {
    /// Whether the patch made it more frequent, beyond chance.
    pub fn is_worse(&self) -> bool {
        self.decided && self.after.rate() > self.before.rate()
    }

    /// The certainty that the two rates differ, in words. In a comparison that may end early, the
    /// e-value counts, because trials that end with a result make `p` smaller than it should be.
    pub fn certainty(&self) -> String {
        let p = format!("p = {}", probability(self.p));
        match self.bet {
            None => p,
            Some(Bet { e_value, needed }) => {
                format!("{p}, e = {} (decided at {needed:.0})", significant(e_value))
            }
        }
    }

    /// The lowest p that so many trials with it could have had: all of them on one side.
    pub(super) fn lowest_p(&self) -> f64 {
        let tables: Vec<Table> = self.scenarios.iter().flat_map(SeenIn::tables).collect();
        let after = |t: &Table| Table { a: (t.a + t.b).saturating_sub(t.m), b: (t.a + t.b).min(t.m), ..*t };
        let before = |t: &Table| Table { a: (t.a + t.b).min(t.n), b: (t.a + t.b).saturating_sub(t.n), ..*t };
        let p = |all: Vec<Table>| stratified_two_sided(&all);
        p(tables.iter().map(after).collect()).min(p(tables.iter().map(before).collect()))
    }

    /// Whether one side showed it in all of its trials, of which there are three or more, and the
    /// other side never.
    pub(super) fn is_of_one_side(&self) -> bool {
        const FEW: u32 = 3;
        let is = |always: Count, never: Count| {
            always.seen == always.trials && always.trials >= FEW && never.seen == 0 && never.trials > 0
        };
        is(self.after, self.before) || is(self.before, self.after)
    }

    /// Whether `words` select this finding: its signature or the start of it, or a part of its
    /// title, its key or the checker's text.
    pub fn is_called(&self, words: &str) -> bool {
        let short = words.len() >= 6 && self.signature.starts_with(words);
        let texts = [Some(&self.title), Some(&self.key), self.detail.as_ref()];
        !words.is_empty() && (short || texts.into_iter().flatten().any(|text| text.contains(words)))
    }

    /// Whether the patch made it less frequent, beyond chance.
    pub fn is_better(&self) -> bool {
        self.decided && self.after.rate() < self.before.rate()
    }
}
