//! The verdict: its derivation from the findings, and its certainty.

use std::collections::{BTreeMap, BTreeSet};

use hotplug_kreport::{KnownIssues, Report};
use hotplug_side::{Side, Sides};
use hotplug_statistics::{Table, stratified_two_sided};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::boot::{Boots, NoBoot};
use super::early::Bet;
use super::evidence::{ALPHA, Evidence};
use super::finding::{Class, Count, Finding};
use super::stratum::{ScenarioTally, Stratum, Tally};
use crate::rendezvous::Race;
use crate::trial::TrialRecord;

/// The four verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Something is new, or more frequent than before, beyond chance.
    Regressed,
    /// Something is gone or less frequent, beyond chance, and nothing is new.
    Fixed,
    /// Nothing differs, and both sides were observed well enough.
    Unchanged,
    /// The trials do not decide; the reason is given.
    Inconclusive,
}

impl Verdict {
    /// The exit status of `hotplug compare`.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Unchanged | Self::Fixed => 0,
            Self::Regressed => 1,
            Self::Inconclusive => 3,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Regressed => "REGRESSED",
            Self::Fixed => "FIXED",
            Self::Unchanged => "UNCHANGED",
            Self::Inconclusive => "INCONCLUSIVE",
        })
    }
}

/// The exit status of several comparisons together. A regression takes precedence, then comparisons
/// that could not be judged.
pub fn worst_exit_status(statuses: impl IntoIterator<Item = u8>) -> u8 {
    let badness = |status: &u8| [0, 3, 4, 1].iter().position(|known| known == status);
    statuses.into_iter().max_by_key(badness).unwrap_or(0)
}

/// A verdict with its statistics.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Judgement {
    /// The verdict; `None` if too many trials failed because of infrastructure.
    pub verdict: Option<Verdict>,
    /// The reason, in one sentence.
    pub reason: String,
    /// All findings.
    pub findings: Vec<Finding>,
    /// How the trials ended.
    pub tally: Sides<Tally>,
    /// How the trials of each scenario ended, in the order of their names.
    pub scenarios: Vec<ScenarioTally>,
    /// Remarks: entries of the file of known issues that have expired or matched nothing, and
    /// reports of which it is not known whether the kernel or the emulator is at fault.
    pub remarks: Vec<String>,
    /// The results of the holds; `None` if the scenario has none.
    pub race: Option<Race>,
    /// A kernel that does not boot.
    #[serde(default)]
    pub no_boot: Option<NoBoot>,
}

impl Judgement {
    /// The exit status of `hotplug compare`.
    pub fn exit_status(&self) -> u8 {
        self.verdict.map_or(4, Verdict::exit_status)
    }
}

/// Judges trials as they end. Its size grows with the number of findings, not with the number of
/// trials.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Judge {
    evidence: Evidence,
    /// By the name of the scenario.
    strata: BTreeMap<String, Stratum>,
    race: Race,
}

impl Judge {
    /// Starts without trials. Findings that `known` lists do not affect the verdict.
    pub fn new(known: KnownIssues) -> Self {
        Self { evidence: Evidence::new(known), ..Self::default() }
    }

    /// Shares the probability of a false alarm among this many judgements. After the first one,
    /// scenarios with undecided findings may get more trials ([`Judge::open_scenarios`]).
    #[must_use]
    pub fn in_looks(self, looks: u32) -> Self {
        Self { evidence: self.evidence.in_looks(looks), ..self }
    }

    /// Tests the findings after each trial, too ([`Judge::is_decided`]), if the number of the first
    /// trial of each scenario is given.
    #[must_use]
    pub fn at_any_time(self, first: Option<u32>) -> Self {
        Self { evidence: self.evidence.at_any_time(first), ..self }
    }

    /// Whether known issues may become more frequent without an effect on the verdict.
    #[must_use]
    pub fn known_may_worsen(self, may: bool) -> Self {
        Self { evidence: self.evidence.known_may_worsen(may), ..self }
    }

    /// Records that a scenario has no trials, for this reason.
    pub fn leave_out(&mut self, scenario: &str, why: impl Into<String>) {
        self.strata.entry(scenario.to_owned()).or_default().left_out = Some(why.into());
    }

    /// Adds one trial. `seconds` is the time from the start of the first trial to the end of this
    /// one.
    pub fn add(&mut self, record: &TrialRecord, seconds: f64) {
        if self.strata.entry(record.scenario.clone()).or_default().add(record) {
            self.race.add(record.side, &record.folder, &record.holds);
            self.evidence.add(record, seconds);
        } else {
            self.evidence.add_spoilt(record);
        }
    }

    /// Adds a trial that does not count, because it is tried again.
    pub fn add_repeated(&mut self, record: &TrialRecord) {
        self.strata.entry(record.scenario.clone()).or_default().add_repeated(record);
    }

    /// Adds what another judge has taken in: later trials of the same kernels and scenarios. The
    /// judgement is then the same as if one judge had taken in all of them.
    pub fn merge(&mut self, later: Self) {
        for (scenario, stratum) in later.strata {
            self.strata.entry(scenario).or_default().merge(stratum);
        }
        self.race.merge(later.race);
        self.evidence.merge(later.evidence);
    }

    /// The first report of each bug that `side` showed first. The vmlinux of that side's kernel can
    /// add lines to them.
    pub fn examples_mut(&mut self, side: Side) -> impl Iterator<Item = &mut Report> {
        self.evidence.examples_mut(side)
    }

    /// The verdict over the trials so far.
    pub fn judgement(&self) -> Judgement {
        let mut findings = self.evidence.findings();
        let no_boot = self.no_boot();
        if no_boot.as_ref().is_some_and(|told| told.side == Some(Side::After)) {
            // Every boot of the one kernel shows it, and no boot of the other: that is no chance.
            for finding in findings.iter_mut().filter(|f| f.known.is_none() && f.class == Class::New) {
                finding.decided |= finding.after.seen == finding.after.trials;
            }
        }
        let (verdict, reason) = self.decide(&findings);
        let race = Some(&self.race).filter(|race| !race.is_empty()).cloned();
        let of = |(scenario, stratum): (&String, &Stratum)| ScenarioTally {
            scenario: scenario.clone(),
            trials: stratum.tally,
            untested: stratum.untested(&Side::BOTH),
        };
        Judgement {
            verdict,
            reason,
            findings,
            tally: self.tally(),
            scenarios: self.strata.iter().map(of).collect(),
            remarks: self.evidence.remarks(),
            race,
            no_boot,
        }
    }

    /// Whether a kernel does not boot in any trial. More trials would show nothing else.
    pub fn no_boot(&self) -> Option<NoBoot> {
        let mut all: Sides<Boots> = Sides::default();
        for (stratum, side) in self.strata.values().flat_map(|one| Side::BOTH.map(|side| (one, side))) {
            all.of_mut(side).merge(*stratum.boots.of(side));
        }
        NoBoot::of(&all)
    }

    /// How the trials so far ended. The detectable rate is that of the scenario with the fewest
    /// armed trials, because a report may need that scenario. Scenarios whose silence is no
    /// evidence do not count, unless there are no others.
    pub fn tally(&self) -> Sides<Tally> {
        let mut all: Sides<Tally> = Sides::default();
        for side in Side::BOTH {
            let all = all.of_mut(side);
            self.strata.values().for_each(|stratum| all.merge(*stratum.tally.of(side)));
            let ran = || self.strata.values().filter(|stratum| stratum.tally.of(side).trials > 0);
            let tested = || ran().filter(|stratum| stratum.untested(&[side]).is_none());
            let rate = |stratum: &Stratum| stratum.tally.of(side).detectable_rate;
            let worst = tested().map(rate).reduce(f64::max);
            all.detectable_rate = worst.or_else(|| ran().map(rate).reduce(f64::max)).unwrap_or(0.0);
        }
        all
    }

    /// How the trials of a scenario ended so far.
    pub fn tally_of(&self, scenario: &str) -> Sides<Tally> {
        self.strata.get(scenario).map(|stratum| stratum.tally).unwrap_or_default()
    }

    /// Whether more trials of this scenario are futile: since `then`, infrastructure has spoilt
    /// three trials of a side, each after all retries, and left no valid one.
    pub fn is_hopeless(&self, scenario: &str, then: &Sides<Tally>) -> bool {
        const MANY: u32 = 3;
        let now = self.tally_of(scenario);
        Side::BOTH.into_iter().any(|side| {
            let (then, now) = (then.of(side), now.of(side));
            now.trials == then.trials && now.infrastructure >= then.infrastructure + MANY
        })
    }

    /// Whether every trial of this scenario hung, on both sides. More such trials take minutes and
    /// show nothing about a difference.
    pub fn always_hangs(&self, scenario: &str) -> bool {
        self.strata.get(scenario).is_some_and(Stratum::always_hangs)
    }

    /// Whether there is a finding that is not a known issue.
    pub fn has_findings(&self) -> bool {
        self.evidence.findings().iter().any(|f| f.known.is_none())
    }

    /// The scenarios of which more trials may decide a finding that only one side showed.
    pub fn open_scenarios(&self) -> BTreeSet<String> {
        let all = self.evidence.findings().into_iter();
        // Where trials end with a decision, the test of the last trial does not end them.
        let is_decided = |f: &Finding| f.bet.map_or(f.decided, Bet::is_won);
        let open = all.filter(|f| f.known.is_none() && f.class != Class::Common && !is_decided(f));
        open.flat_map(|f| f.scenarios).map(|seen| seen.scenario).collect()
    }

    /// The number of trials of both sides with a finding that matches `called`
    /// ([`Finding::is_called`]), and of those that could have shown it. If several findings match,
    /// the most frequent one counts.
    pub fn seen(&self, called: &str) -> Count {
        let all = self.evidence.findings();
        let sum = |f: &Finding| Count {
            seen: f.before.seen + f.after.seen,
            trials: f.before.trials + f.after.trials,
        };
        let most = all.iter().filter(|f| f.is_called(called)).map(sum).max_by_key(|count| count.seen);
        let tally = self.tally();
        most.unwrap_or(Count { seen: 0, trials: tally.before.trials + tally.after.trials })
    }

    /// Whether a regression is decided. Further trials cannot take that back: the test after each
    /// trial keeps its own share of false alarms.
    pub fn is_decided(&self) -> bool {
        self.evidence.findings().iter().any(|f| f.is_worse() && f.bet.is_some_and(Bet::is_won))
    }

    fn decide(&self, findings: &[Finding]) -> (Option<Verdict>, String) {
        let tally = self.tally();
        if let Some(told) = self.no_boot() {
            let verdict =
                if told.side == Some(Side::After) { Verdict::Regressed } else { Verdict::Inconclusive };
            return (Some(verdict), told.to_string());
        }
        for side in Side::BOTH {
            let t = tally.of(side);
            if t.all() == 0 {
                // The run ended early, for example because of `--until-report`, or no scenario
                // fits.
                let left_out = self.strata.values().find_map(|stratum| stratum.left_out.as_ref());
                let no_trial = || format!("no {side} trial has ended");
                return (Some(Verdict::Inconclusive), left_out.map_or_else(no_trial, String::clone));
            }
            if t.trials == 0 || t.infrastructure > t.trials {
                let failed = self.strata.values().find_map(|stratum| stratum.failed(side));
                return (None, failed.unwrap_or_default());
            }
        }
        let unknown = || findings.iter().filter(|f| f.known.is_none());
        let count = |class: Class| unknown().filter(|f| f.class == class).count();
        let counts = format!(
            "{} new, {} fixed, {} common",
            count(Class::New),
            count(Class::Fixed),
            count(Class::Common)
        );
        if findings.iter().any(Finding::is_worse) {
            let known = findings.iter().find(|f| f.known.is_some() && f.is_worse());
            let known = known.map(|f| {
                format!("; a known issue is more frequent, {} -> {}: {}", f.before, f.after, f.title)
            });
            return (Some(Verdict::Regressed), counts + known.as_deref().unwrap_or_default());
        }
        if let Some(f) = unknown().find(|f| f.class == Class::New) {
            if f.before.trials == 0 && tally.before.lacks_lockdep() {
                let reason = "only the after kernel has lockdep, so that its reports cannot be compared";
                return (Some(Verdict::Inconclusive), reason.into());
            }
            let reason = format!(
                "seen only after, but {} against {} may be chance: run more trials",
                f.after, f.before
            );
            return (Some(Verdict::Inconclusive), reason);
        }
        if let Some(why) = emulator_differs(&tally) {
            return (Some(Verdict::Inconclusive), why);
        }
        let is_better = unknown().any(Finding::is_better);
        // The report that is gone may be what disarmed lockdep or stopped operations before. The
        // after side has no new report that this could have hidden.
        let watched: &[Side] = if is_better { &[Side::After] } else { &Side::BOTH };
        let named = |scenario: &str, why: String| {
            if self.strata.len() == 1 { why } else { format!("{scenario}: {why}") }
        };
        for (scenario, stratum) in &self.strata {
            // What works on the other side and never on this one may be what the patch broke.
            if let Some(why) = watched.iter().find_map(|side| stratum.only_elsewhere(*side)) {
                return (Some(Verdict::Inconclusive), named(scenario, why));
            }
        }
        let untested: Vec<(&String, String)> = self
            .strata
            .iter()
            .filter_map(|(scenario, stratum)| Some((scenario, stratum.untested(watched)?)))
            .collect();
        let counts = match lacking(&tally) {
            Some(lacking) => format!("{counts}; {lacking}"),
            None => counts,
        };
        let reason = match untested.as_slice() {
            [] => counts,
            [(scenario, why), ..] if untested.len() == self.strata.len() => {
                return (Some(Verdict::Inconclusive), named(scenario, why.clone()));
            }
            // The others are evidence, and the reason names those that are not.
            some => {
                let silent: Vec<_> = some.iter().map(|(scenario, _)| scenario.as_str()).collect();
                format!("{counts}; says nothing about {}", silent.join(", "))
            }
        };
        (Some(if is_better { Verdict::Fixed } else { Verdict::Unchanged }), reason)
    }
}

/// Says so if the faults of the emulator are more frequent after, beyond chance. A patch that breaks
/// the kernel's own handling of its breakpoints would look like that.
fn emulator_differs(trials: &Sides<Tally>) -> Option<String> {
    let Sides { before, after } = trials;
    let (n, m) = (before.trials + before.emulator_faults, after.trials + after.emulator_faults);
    let table = Table { a: before.emulator_faults, n, b: after.emulator_faults, m };
    let more = f64::from(table.b) * f64::from(n) > f64::from(table.a) * f64::from(m);
    (more && stratified_two_sided(&[table]) <= ALPHA).then(|| {
        format!(
            "int3 faults that look like the emulator's came in {} of {m} attempts after and {} of {n} before: KVM tells whether the patch causes them",
            table.b, table.a
        )
    })
}

/// The kernels that have no lockdep, in words, if there are any.
pub(crate) fn lacking(trials: &Sides<Tally>) -> Option<String> {
    let lacking = Side::BOTH.into_iter().find(|side| trials.of(*side).lacks_lockdep())?;
    let other = lacking.other();
    let Tally { armed, .. } = trials.of(other);
    Some(match (trials.of(other).lacks_lockdep(), armed) {
        (true, _) => "these kernels have no lockdep".into(),
        // Its trials hung, or lockdep went off in all of them.
        (false, 0) => {
            format!("the {lacking} kernel has no lockdep, and no {other} trial was armed to its end")
        }
        (false, _) => format!("the {lacking} kernel has no lockdep"),
    })
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "verdict_standing_tests.rs"]
mod standing_tests;

#[cfg(test)]
#[path = "verdict_cut_tests.rs"]
mod cut_tests;
