//! The evidence of all trials: one finding for each signature, counted trial by trial.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use hotplug_kreport::{Bugs, KnownIssues, Report};
use hotplug_side::{Side, Sides};
use hotplug_statistics::stratified_two_sided;
use serde::{Deserialize, Serialize};

use super::early::{ALPHA_AT_ANY_TIME, Bet, Early};
use super::failure::{Failure, seen_by_the_harness};
use super::finding::{Class, Count, Finding, SeenIn};
use super::watched::{Evident, Watched};
use crate::trial::{StaleBreakpoint, TrialRecord};

/// The probability of a false alarm in one comparison of equal kernels, over all of its findings
/// together (Holm's correction).
pub(super) const ALPHA: f64 = 0.05;

/// Values of each round of a scenario: of the trials that their guests took first, second and so on.
/// The trials of one guest share its luck. No two trials of one guest are in one round, so the
/// trials of a round are independent of each other.
type Rounds<T> = BTreeMap<u32, T>;

/// The number of trials of one scenario that showed a finding.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Shown {
    seen: Sides<u32>,
    /// Of these, the trials that would otherwise have been evidence of its absence.
    evidently: Sides<u32>,
}

/// A finding and its counts, updated trial by trial.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    /// The signature, key, kind, title, frames, and everything else that does not change.
    what: What,
    evident: Evident,
    /// The trials that showed it, by the name of their scenario.
    shown: BTreeMap<String, Rounds<Shown>>,
    times: u64,
    during: String,
    /// The side of the first trial that showed it, and its folder below the run's.
    example: (Side, String),
    /// Seconds of trials until that trial had ended.
    first_seen: f64,
}

/// Identifies a finding among the evidence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FoundId {
    /// A kernel report: the number of its bug.
    Report(usize),
    /// A failure that the harness detected: its key.
    Own(String),
}

#[derive(Debug, Serialize, Deserialize)]
enum What {
    /// A kernel report, and why it is tolerated.
    Report(Box<Report>, Option<String>),
    /// A failure that the harness detected: its kind, a key and a title, and the value of the kernel's
    /// state that was left changed, if it is that.
    Own {
        kind: Cow<'static, str>,
        key: String,
        title: String,
        #[serde(default)]
        value: Option<String>,
    },
}

/// The findings of all trials so far. Its size grows with the number of findings, not with the
/// number of trials.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Evidence {
    #[serde(skip)]
    known: KnownIssues,
    /// The number of times that the findings are judged, beyond the first.
    #[serde(default)]
    further_looks: u32,
    /// Known issues may become more frequent.
    #[serde(default)]
    known_may_worsen: bool,
    /// The test after each trial, if the comparison may end early. Parts of a fleet never do.
    #[serde(skip)]
    early: Option<Early>,
    bugs: Bugs,
    /// Kernel reports, indexed by the number of their bug.
    reports: Vec<Found>,
    /// The findings of the harness itself, by their key.
    own: BTreeMap<String, Found>,
    /// Reports of which it is not known whether the kernel or the emulator is at fault, in words.
    #[serde(default)]
    unknown: BTreeSet<String>,
    /// Operations that had never ended before and got less time, in words, with the number of
    /// trials.
    #[serde(default)]
    shortened: BTreeMap<String, u32>,
    /// By the name of the scenario.
    watched: BTreeMap<String, Rounds<Sides<Watched>>>,
}

impl Evidence {
    pub(super) fn new(known: KnownIssues) -> Self {
        Self { known, ..Self::default() }
    }

    /// Shares the probability of a false alarm among this many judgements.
    pub(super) fn in_looks(mut self, looks: u32) -> Self {
        self.further_looks = looks.saturating_sub(1);
        self
    }

    /// Tests the findings after each trial, too, if the number of the first trial of each scenario is
    /// given.
    pub(super) fn at_any_time(mut self, first: Option<u32>) -> Self {
        self.early = first.map(Early::new);
        self
    }

    /// Known issues may become more frequent with the patch, or less, without an effect on the verdict.
    pub(super) fn known_may_worsen(mut self, may: bool) -> Self {
        self.known_may_worsen = may;
        self
    }

    /// Whether a finding counts in the verdict if its rate differs.
    fn counts(&self, finding: &Finding) -> bool {
        finding.known.is_none() || !self.known_may_worsen
    }

    /// The probability of a false alarm in one judgement.
    fn alpha(&self) -> f64 {
        let used = if self.early.is_some() { ALPHA_AT_ANY_TIME } else { 0.0 };
        (ALPHA - used) / f64::from(self.further_looks + 1)
    }

    /// Adds a trial that infrastructure spoilt.
    pub(super) fn add_spoilt(&mut self, record: &TrialRecord) {
        if let Some(early) = &mut self.early {
            early.add_spoilt(record);
        }
    }

    /// Adds a trial that infrastructure did not spoil. `seconds` is the time from the start of the
    /// first trial to the end of this one.
    pub(super) fn add(&mut self, record: &TrialRecord, seconds: f64) {
        let watched = self.watched.entry(record.scenario.clone()).or_default();
        watched.entry(record.round).or_default().of_mut(record.side).merge(Watched::of_one(record));
        if let Some(stale @ StaleBreakpoint::Unknown { .. }) = &record.stale_breakpoint {
            self.unknown.insert(stale.to_string());
        }
        for operation in &record.operations {
            if let Some(limit) = operation.short_limit {
                let words = limit.words(record.side, &record.scenario, &operation.operation);
                *self.shortened.entry(words).or_default() += 1;
            }
        }
        // Several reports of one bug in one trial count as one trial.
        let mut shown: BTreeMap<usize, u64> = BTreeMap::new();
        for seen in &record.reports {
            let number = self.bugs.number(&seen.first);
            if number == self.reports.len() {
                let report = &seen.first;
                let evident =
                    if report.needs_armed_lockdep() { Evident::WithLockdep } else { Evident::WithLog };
                let known = self.known.find(report).map(|issue| issue.reason.clone());
                let what = What::Report(Box::new(report.clone()), known);
                self.reports.push(Found::new(what, evident, record, seconds));
            }
            let found = &mut self.reports[number];
            if found.during.is_empty() {
                found.during.clone_from(&seen.during);
            }
            *shown.entry(number).or_default() += seen.times;
        }
        let mut counted = Vec::new();
        for (number, times) in shown {
            let found = &mut self.reports[number];
            found.count(record, times);
            if !(self.known_may_worsen && found.is_known()) {
                counted.push((FoundId::Report(number), found.evident));
            }
        }
        let mut own: BTreeMap<String, u64> = BTreeMap::new();
        for what in seen_by_the_harness(record) {
            let Failure { kind, key, title, value } = what;
            *own.entry(key.clone()).or_default() += 1;
            let evident = if value.is_some() { Evident::AtRest } else { Evident::Always };
            let what = What::Own { kind: kind.into(), key: key.clone(), title, value };
            self.own.entry(key).or_insert_with(|| Found::new(what, evident, record, seconds));
        }
        for (key, times) in own {
            if let Some(found) = self.own.get_mut(&key) {
                found.count(record, times);
                if found.value().is_none() {
                    counted.push((FoundId::Own(key), found.evident));
                }
            }
        }
        if let Some(early) = &mut self.early {
            early.add(record, counted);
        }
    }

    /// Adds the evidence of other trials, all of which came later.
    pub(super) fn merge(&mut self, later: Self) {
        self.unknown.extend(later.unknown);
        for (words, trials) in later.shortened {
            *self.shortened.entry(words).or_default() += trials;
        }
        for (scenario, watched) in later.watched {
            let own = self.watched.entry(scenario).or_default();
            for (round, watched) in watched {
                let own = own.entry(round).or_default();
                for side in Side::BOTH {
                    own.of_mut(side).merge(*watched.of(side));
                }
            }
        }
        for found in later.reports {
            let What::Report(report, _) = &found.what else { continue };
            // This marks the issue as matched, so that the remarks cover the merged trials too.
            self.known.find(report);
            let number = self.bugs.number(report);
            match self.reports.get_mut(number) {
                Some(known) => known.merge(found),
                None => self.reports.push(found),
            }
        }
        for (key, found) in later.own {
            match self.own.get_mut(&key) {
                Some(known) => known.merge(found),
                None => {
                    self.own.insert(key, found);
                }
            }
        }
    }

    /// The first report of each bug that `side` showed first. The vmlinux of that side's kernel can
    /// add lines to their frames.
    pub(super) fn examples_mut(&mut self, side: Side) -> impl Iterator<Item = &mut Report> {
        self.reports.iter_mut().filter(move |found| found.example.0 == side).filter_map(|found| {
            match &mut found.what {
                What::Report(report, _) => Some(&mut **report),
                What::Own { .. } => None,
            }
        })
    }

    /// The remarks on the file of known issues, on reports that may be the emulator's, and on
    /// operations that got less time.
    pub(super) fn remarks(&self) -> Vec<String> {
        let shortened = self.shortened.iter().map(|(words, trials)| format!("{words} ({trials} trials)"));
        self.known.remarks().into_iter().chain(self.unknown.iter().cloned()).chain(shortened).collect()
    }

    /// All findings: new, then fixed, then common ones, each by ascending p; known issues last.
    pub(super) fn findings<'a>(&'a self) -> Vec<Finding> {
        let reports = self.reports.iter().enumerate().map(|(number, found)| (FoundId::Report(number), found));
        let own = self.own.iter().map(|(key, found)| (FoundId::Own(key.clone()), found));
        let finding = |(id, found): (FoundId, &'a Found)| {
            let bet = self.early.as_ref().and_then(|early| early.of(&id));
            (found.value(), Finding { bet, ..found.finding(&self.watched) })
        };
        let mut all: Vec<(Option<&str>, Finding)> = reports.chain(own).map(finding).collect();
        let alpha = self.alpha();
        // A value of the state that could not be told apart anyway takes part in nothing (Tarone,
        // Biometrics 46, 1990): one that changes in nearly every trial, or in nearly none.
        let may_differ = |value: Option<&str>, f: &Finding| value.is_none() || f.lowest_p() <= alpha;
        let tested = all.iter_mut().filter(|(value, f)| self.counts(f) && may_differ(*value, f));
        decide(tested.map(|(_, finding)| finding).collect(), alpha);
        for (_, finding) in &mut all {
            finding.decided |= finding.bet.is_some_and(Bet::is_won);
        }
        let of_both = changed_by_both(&all);
        let is_listed = |value: Option<&str>, f: &Finding| {
            value.is_none_or(|value| (f.decided || f.is_of_one_side()) && !of_both.contains(value))
        };
        let listed = all.into_iter().filter(|(value, finding)| is_listed(*value, finding));
        let mut all: Vec<Finding> = listed.map(|(_, finding)| finding).collect();
        // Ties are broken by signature. The order of arrival is chance if several guests run at
        // once.
        let order = |f: &Finding| (f.known.is_some(), f.class, f.p, f.signature.clone());
        all.sort_by(|a, b| order(a).partial_cmp(&order(b)).unwrap_or(std::cmp::Ordering::Equal));
        all
    }
}

impl Found {
    fn new(what: What, evident: Evident, first: &TrialRecord, seconds: f64) -> Self {
        Self {
            what,
            evident,
            shown: BTreeMap::new(),
            times: 0,
            during: String::new(),
            example: (first.side, format!("trials/{}", first.folder)),
            first_seen: seconds,
        }
    }

    /// Adds the counts of the same finding in later trials.
    fn merge(&mut self, later: Self) {
        for (scenario, shown) in later.shown {
            let own = self.shown.entry(scenario).or_default();
            for (round, shown) in shown {
                let own = own.entry(round).or_default();
                for side in Side::BOTH {
                    *own.seen.of_mut(side) += shown.seen.of(side);
                    *own.evidently.of_mut(side) += shown.evidently.of(side);
                }
            }
        }
        self.times = self.times.max(later.times);
        if self.during.is_empty() {
            self.during = later.during;
        }
    }

    /// The value of the kernel's state that was left changed, if it is that.
    fn value(&self) -> Option<&str> {
        match &self.what {
            What::Own { value, .. } => value.as_deref(),
            What::Report(..) => None,
        }
    }

    /// Whether the file of known issues lists it.
    fn is_known(&self) -> bool {
        matches!(self.what, What::Report(_, Some(_)))
    }

    /// Adds one trial that showed the finding `times` times.
    fn count(&mut self, record: &TrialRecord, times: u64) {
        let shown = self.shown.entry(record.scenario.clone()).or_default();
        let shown = shown.entry(record.round).or_default();
        *shown.seen.of_mut(record.side) += 1;
        *shown.evidently.of_mut(record.side) += u32::from(self.evident.is_met_by(record));
        self.times = self.times.max(times);
    }

    /// The counts of each scenario in which it was seen.
    fn scenarios(&self, watched: &BTreeMap<String, Rounds<Sides<Watched>>>) -> Vec<SeenIn> {
        let none = Rounds::new();
        let of = |(scenario, shown): (&String, &Rounds<Shown>)| {
            let watched = watched.get(scenario).unwrap_or(&none);
            let last = watched.keys().chain(shown.keys()).max().copied().unwrap_or(0);
            let of_round = |round: u32| {
                let shown = shown.get(&round).copied().unwrap_or_default();
                let count = |side: Side| {
                    let seen = *shown.seen.of(side);
                    let all = watched.get(&round).map_or(0, |watched| watched.of(side).of(self.evident));
                    Count { seen, trials: seen + all.saturating_sub(*shown.evidently.of(side)) }
                };
                Sides { before: count(Side::Before), after: count(Side::After) }
            };
            SeenIn::of_rounds(scenario.clone(), (1..=last).map(of_round).collect())
        };
        self.shown.iter().map(of).collect()
    }

    fn finding(&self, watched: &BTreeMap<String, Rounds<Sides<Watched>>>) -> Finding {
        let scenarios = self.scenarios(watched);
        let sum = |of: fn(&SeenIn) -> Count| {
            scenarios.iter().map(of).fold(Count::default(), |all, one| Count {
                seen: all.seen + one.seen,
                trials: all.trials + one.trials,
            })
        };
        let (before, after) = (sum(|seen| seen.before), sum(|seen| seen.after));
        let class = match (before.seen, after.seen) {
            (0, _) => Class::New,
            (_, 0) => Class::Fixed,
            _ => Class::Common,
        };
        let named = match &self.what {
            What::Report(report, known) => Named {
                signature: report.signature.hash.clone(),
                key: report.signature.key.clone(),
                kind: report.kind.to_string(),
                title: report.title.clone(),
                call_path: report.frames.iter().filter(|frame| frame.reliable).cloned().collect(),
                blame: report.blame.clone(),
                detail: report.detail.clone(),
                known: known.clone(),
            },
            What::Own { kind, key, title, value: _ } => Named {
                signature: blake3::hash(key.as_bytes()).to_hex()[..12].to_owned(),
                key: key.clone(),
                kind: kind.clone().into_owned(),
                title: title.clone(),
                ..Named::default()
            },
        };
        let Named { signature, key, kind, title, call_path, blame, detail, known } = named;
        Finding {
            class,
            signature,
            key,
            kind,
            title,
            frames: call_path.iter().filter(|f| !f.inlined).map(|f| f.function.clone()).collect(),
            call_path,
            blame,
            detail,
            known,
            before,
            after,
            p: stratified_two_sided(&scenarios.iter().flat_map(SeenIn::tables).collect::<Vec<_>>()),
            scenarios,
            bet: None,
            decided: false,
            times: self.times,
            during: self.during.clone(),
            example: self.example.1.clone(),
            first_seen_seconds: Some(self.first_seen),
        }
    }
}

/// The identifying part of a finding.
#[derive(Default)]
struct Named {
    signature: String,
    key: String,
    kind: String,
    title: String,
    call_path: Vec<hotplug_kreport::Frame>,
    blame: Option<String>,
    detail: Option<String>,
    known: Option<String>,
}

/// The values of the kernel's state that both kernels change, by whatever amount: that of the
/// watermarks depends on the size of the image, and all trials of a side share it.
fn changed_by_both<'a>(all: &[(Option<&'a str>, Finding)]) -> BTreeSet<&'a str> {
    let by = |of: fn(&Finding) -> Count| -> BTreeSet<&'a str> {
        all.iter().filter(|(_, finding)| of(finding).seen > 0).filter_map(|(value, _)| *value).collect()
    };
    let (before, after) = (by(|finding| finding.before), by(|finding| finding.after));
    &before & &after
}

/// Holm's step-down: the smallest p against alpha / n, the next against alpha / (n - 1), until one
/// fails.
fn decide(mut findings: Vec<&mut Finding>, alpha: f64) {
    findings.sort_by(|a, b| a.p.total_cmp(&b.p));
    let mut left = u32::try_from(findings.len()).unwrap_or(u32::MAX);
    for finding in findings {
        if finding.p > alpha / f64::from(left) {
            break;
        }
        finding.decided = true;
        left -= 1;
    }
}
