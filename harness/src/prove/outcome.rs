//! The results of single entries, and of all together.

use hotplug_side::Sides;
use serde::{Deserialize, Serialize};

use crate::compare::{Class, Count, Finding, Tally};
use crate::known_bugs::{Card, Expected, Follows, Group, SeriesPatches};
use crate::latency::{Latency, MetricResult, MetricVerdict};

/// The outcome of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sight {
    /// An expected finding was seen with the patch, and never without it.
    Found,
    /// No expected finding was seen. Other findings do not count.
    NotFound,
    /// Nothing was seen only with a patch that changes nothing.
    Silent,
    /// Something was seen only with a patch that changes nothing: a false report.
    FalseReport,
    /// The entry is not counted.
    LeftOut {
        /// The reason.
        why: String,
    },
    /// The entry could not be tried.
    Failed {
        /// The reason.
        why: String,
    },
}

/// The comparison of the unmodified kernel with an entry's kernel, in one scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ComparedEntry {
    /// The scenario's name.
    pub scenario: String,
    /// The run's folder, below the proof's.
    pub run: String,
    /// How the trials ended.
    pub trials: Sides<Tally>,
    /// All findings.
    pub findings: Vec<Finding>,
    /// What took longer or shorter. Null if the entry is not found by latency.
    #[serde(default)]
    pub latency: Option<Latency>,
    /// The time from the start of the first boot until the first trial could begin, in seconds.
    pub start_seconds: f64,
    /// The time that the trials took, in seconds.
    pub trials_seconds: f64,
}

/// The result of an entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EntryResult {
    /// The entry's name.
    pub name: String,
    /// What goes wrong.
    pub about: String,
    /// The group that the entry is counted in.
    pub group: Group,
    /// The outcome.
    pub sight: Sight,
    /// What was tried, and why the bug cannot be seen, if its card states that.
    pub not_found: Option<String>,
    /// The findings that were expected of it.
    pub expect: Vec<Expected>,
    /// Findings that may follow from the bug and prove nothing by themselves.
    pub follows: Vec<Follows>,
    /// Functions, locks and accounts that lead from a finding to the bug.
    #[serde(default)]
    pub traces: Vec<String>,
    /// Metrics that were expected to be slower.
    #[serde(default)]
    pub slower: Vec<String>,
    /// The expected finding that was seen in the most trials. In a blind proof, the finding that
    /// leads to the bug.
    pub seen: Option<Finding>,
    /// Why a blind proof did not find it: the reason of the comparison's verdict.
    #[serde(default)]
    pub missed: Option<String>,
    /// The time from the first boot of the scenario that showed the bug until the bug was seen, in
    /// seconds.
    pub seconds: Option<f64>,
    /// All findings that were neither expected nor follow from the bug.
    pub other: Vec<Finding>,
    /// The comparisons, up to the one that found it.
    pub tried: Vec<ComparedEntry>,
    /// The number of kernels that were built for it.
    pub builds: u32,
    /// The time that these builds took, in seconds.
    pub build_seconds: f64,
}

impl EntryResult {
    /// The result before the entry is tried.
    pub fn new(name: &str, group: Group, card: &Card, series: &str) -> Self {
        let mut all = Self {
            name: name.to_owned(),
            about: card.about.clone(),
            group,
            sight: if group == Group::Clean { Sight::Silent } else { Sight::NotFound },
            not_found: None,
            expect: Vec::new(),
            follows: Vec::new(),
            traces: Vec::new(),
            slower: Vec::new(),
            seen: None,
            missed: None,
            seconds: None,
            other: Vec::new(),
            tried: Vec::new(),
            builds: 0,
            build_seconds: 0.0,
        };
        match card.on.get(series) {
            None => all.sight = Sight::LeftOut { why: format!("it has no patch for {series}") },
            Some(SeriesPatches::Absent(why)) => all.sight = Sight::LeftOut { why: why.clone() },
            Some(SeriesPatches::There { expect, follows, traces, slower, not_found, .. }) => {
                (all.expect, all.follows, all.traces) = (expect.clone(), follows.clone(), traces.clone());
                (all.slower, all.not_found) = (slower.clone(), not_found.clone());
            }
        }
        all
    }

    /// Whether the entry is not to be tried.
    pub fn is_left_out(&self) -> bool {
        matches!(self.sight, Sight::LeftOut { .. })
    }

    /// Adds a comparison.
    pub fn add(&mut self, tried: ComparedEntry) {
        let (expect, traces) = (self.expect.clone(), self.traces.clone());
        let expected = |f: &Finding| f.class == Class::New && leads_to_it(&expect, &traces, f);
        let best = tried.findings.iter().filter(|f| expected(f)).max_by_key(|f| f.after.seen).cloned();
        if self.group == Group::Clean {
            if tried.findings.iter().any(|f| f.class == Class::New) {
                self.sight = Sight::FalseReport;
            }
        } else if let Some(best) = best {
            self.found(best, tried.start_seconds);
        } else if !self.slower.is_empty() && self.slower.iter().all(|name| is_slower(&tried, name)) {
            self.sight = Sight::Found;
        }
        let follows = |f: &Finding| f.class == Class::New && self.follows.iter().any(|e| e.has(f));
        let other: Vec<Finding> =
            tried.findings.iter().filter(|f| !expected(f) && !follows(f)).cloned().collect();
        self.other.extend(other);
        self.tried.push(tried);
    }

    /// Adds the comparison of a blind proof, and the reason of its verdict. The bug is found if a
    /// decided finding leads to it: an expected one, or one that names a trace of its card.
    pub fn add_blind(&mut self, tried: ComparedEntry, reason: String) {
        let leads = |f: &&Finding| f.is_worse() && leads_to_it(&self.expect, &self.traces, f);
        let best = tried.findings.iter().filter(leads).max_by_key(|f| f.after.seen).cloned();
        let is_other = |f: &&Finding| {
            f.is_worse()
                && !leads_to_it(&self.expect, &self.traces, f)
                && !self.follows.iter().any(|e| e.has(f))
        };
        self.other = tried.findings.iter().filter(is_other).cloned().collect();
        match best {
            Some(best) => self.found(best, tried.start_seconds),
            None => self.missed = Some(reason),
        }
        self.tried.push(tried);
    }

    fn found(&mut self, finding: Finding, start_seconds: f64) {
        self.sight = Sight::Found;
        self.seconds = finding.first_seen_seconds.map(|seconds| start_seconds + seconds);
        self.seen = Some(finding);
    }

    /// The trials that showed the expected finding, of those that could have shown it.
    pub fn count(&self) -> Count {
        let trials = || self.tried.iter().map(|tried| tried.trials.after.trials).sum();
        self.seen.as_ref().map_or_else(|| Count { seen: 0, trials: trials() }, |finding| finding.after)
    }

    /// What took longer or shorter in the last comparison.
    pub fn latency(&self) -> Option<&Latency> {
        self.tried.last()?.latency.as_ref()
    }

    /// The metrics that were slower, as expected.
    pub fn told_slower(&self) -> impl Iterator<Item = &MetricResult> {
        self.latency()
            .into_iter()
            .flat_map(|all| all.told(MetricVerdict::Slower))
            .filter(|m| self.slower.contains(&m.name))
    }

    /// The findings that the patch did not cause: those of the unmodified kernel, and all findings
    /// of a patch that changes nothing.
    pub fn false_reports(&self) -> impl Iterator<Item = &Finding> {
        let clean = self.group == Group::Clean;
        let all = self.tried.iter().flat_map(|tried| &tried.findings);
        all.filter(move |f| f.before.seen > 0 || clean && f.after.seen > 0)
    }
}

/// Whether the finding is an expected one, or names a trace.
fn leads_to_it(expect: &[Expected], traces: &[String], finding: &Finding) -> bool {
    let is_traced = |words: &String| finding.is_called(words) || finding.frames.contains(words);
    expect.iter().any(|e| e.is(finding)) || traces.iter().any(is_traced)
}

fn is_slower(tried: &ComparedEntry, name: &str) -> bool {
    tried.latency.iter().flat_map(|all| all.told(MetricVerdict::Slower)).any(|metric| metric.name == name)
}

/// All entries together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Real bugs found, of those tried.
    pub real: (u32, u32),
    /// The exact 95 % interval of the share of real bugs that are found (Clopper and Pearson).
    #[serde(default)]
    pub real_interval: (f64, f64),
    /// Planted bugs found, of those tried.
    pub planted: (u32, u32),
    /// Clean kernels without a report, of those tried.
    pub clean: (u32, u32),
    /// Reports of clean and unmodified kernels, each counted once in a comparison.
    pub false_reports: u32,
    /// Trials of clean and unmodified kernels.
    pub clean_trials: u32,
    /// Trials of kernels with bugs.
    pub bug_trials: u32,
    /// Entries that could not be tried.
    pub failed: u32,
    /// Entries that should have been found and were not.
    pub missed: u32,
    /// The number of kernels that were built.
    pub builds: u32,
    /// The time that these builds took, in seconds.
    pub build_seconds: f64,
    /// The time that boots and trials took, in seconds.
    pub run_seconds: f64,
}

impl Totals {
    /// Counts the entries.
    pub fn of(entries: &[EntryResult]) -> Self {
        let mut all = Self::default();
        for entry in entries {
            all.builds += entry.builds;
            all.build_seconds += entry.build_seconds;
            all.false_reports += u32::try_from(entry.false_reports().count()).unwrap_or(u32::MAX);
            for tried in &entry.tried {
                all.run_seconds += tried.start_seconds + tried.trials_seconds;
                all.clean_trials += tried.trials.before.trials;
                let after = tried.trials.after.trials;
                *(if entry.group == Group::Clean { &mut all.clean_trials } else { &mut all.bug_trials }) +=
                    after;
            }
            let good = match entry.sight {
                Sight::LeftOut { .. } => continue,
                Sight::Found | Sight::Silent => true,
                Sight::NotFound | Sight::FalseReport => false,
                Sight::Failed { .. } => {
                    all.failed += 1;
                    false
                }
            };
            all.missed += u32::from(entry.sight == Sight::NotFound && entry.not_found.is_none());
            let count = match entry.group {
                Group::Real => &mut all.real,
                Group::Planted => &mut all.planted,
                Group::Clean => &mut all.clean,
            };
            count.0 += u32::from(good);
            count.1 += 1;
        }
        all.real_interval = hotplug_statistics::interval(all.real.0, all.real.1);
        all
    }

    /// The number of entries that were tried.
    pub fn tried(&self) -> u32 {
        self.real.1 + self.planted.1 + self.clean.1
    }

    /// 0 if everything was as expected, 1 if a bug was missed or there was a false report, 4 if an
    /// entry could not be tried, or none was.
    pub fn exit_status(&self) -> u8 {
        match self {
            _ if self.tried() == 0 => 4,
            Self { failed: 1.., .. } => 4,
            Self { missed: 1.., .. } | Self { false_reports: 1.., .. } => 1,
            _ => 0,
        }
    }
}
