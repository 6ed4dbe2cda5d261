//! What came of an entry, and of all of them.

use hotplug_side::Sides;
use serde::{Deserialize, Serialize};

use crate::compare::{Class, Count, Finding, Tally};
use crate::known_bugs::{Card, Expected, Follows, Group, Series};
use crate::latency::{Latency, MetricResult, Told};

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sight {
    /// What is expected was seen with the patch, and never without.
    Found,
    /// It was not, whatever else was.
    NotFound,
    /// Nothing was seen only with a patch that changes nothing.
    Silent,
    /// Something was: a false report.
    FalseReport,
    /// It counts nowhere.
    LeftOut {
        /// Because of this.
        why: String,
    },
    /// It could not be tried.
    Failed {
        /// Because of this.
        why: String,
    },
}

/// The comparison of the unmodified kernel and an entry's, in one scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tried {
    /// The scenario's name.
    pub scenario: String,
    /// The run's folder, below the proof's.
    pub run: String,
    /// How the trials ended.
    pub trials: Sides<Tally>,
    /// All that was seen.
    pub findings: Vec<Finding>,
    /// What took longer or shorter; null where that is not what the entry is for.
    #[serde(default)]
    pub latency: Option<Latency>,
    /// From when its first boot began until the first trial could, seconds.
    pub start_seconds: f64,
    /// Seconds of trials.
    pub trials_seconds: f64,
}

/// What came of an entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EntryResult {
    /// Its name.
    pub name: String,
    /// What goes wrong.
    pub about: String,
    /// What counts it.
    pub group: Group,
    /// What became of it.
    pub sight: Sight,
    /// Where its card says that it is not to be seen: what was tried, and why.
    pub not_found: Option<String>,
    /// What it was expected to bring.
    pub expect: Vec<Expected>,
    /// What may come of it and proves nothing by itself.
    pub follows: Vec<Follows>,
    /// Metrics that were expected to be told slower.
    #[serde(default)]
    pub slower: Vec<String>,
    /// Of what is expected, what was seen in the most trials.
    pub seen: Option<Finding>,
    /// From the first boot of the scenario that showed it until it was seen, seconds.
    pub seconds: Option<f64>,
    /// Everything that was seen and neither expected nor follows.
    pub other: Vec<Finding>,
    /// The comparisons, up to the one that found it.
    pub tried: Vec<Tried>,
    /// Kernels built for it, and the seconds that took.
    pub builds: u32,
    /// See `builds`.
    pub build_seconds: f64,
}

impl EntryResult {
    /// Before anything was tried.
    pub fn new(name: &str, group: Group, card: &Card, series: &str) -> Self {
        let mut all = Self {
            name: name.to_owned(),
            about: card.about.clone(),
            group,
            sight: if group == Group::Clean { Sight::Silent } else { Sight::NotFound },
            not_found: None,
            expect: Vec::new(),
            follows: Vec::new(),
            slower: Vec::new(),
            seen: None,
            seconds: None,
            other: Vec::new(),
            tried: Vec::new(),
            builds: 0,
            build_seconds: 0.0,
        };
        match card.on.get(series) {
            None => all.sight = Sight::LeftOut { why: format!("it has no patch for {series}") },
            Some(Series::Absent(why)) => all.sight = Sight::LeftOut { why: why.clone() },
            Some(Series::There { expect, follows, slower, not_found, .. }) => {
                (all.expect, all.follows) = (expect.clone(), follows.clone());
                (all.slower, all.not_found) = (slower.clone(), not_found.clone());
            }
        }
        all
    }

    /// Whether nothing is to be tried.
    pub fn is_left_out(&self) -> bool {
        matches!(self.sight, Sight::LeftOut { .. })
    }

    /// Takes in one comparison.
    pub fn add(&mut self, tried: Tried) {
        let expected = |f: &Finding| f.class == Class::New && self.expect.iter().any(|e| e.is(f));
        let best = tried.findings.iter().filter(|f| expected(f)).max_by_key(|f| f.after.seen).cloned();
        if self.group == Group::Clean {
            if tried.findings.iter().any(|f| f.class == Class::New) {
                self.sight = Sight::FalseReport;
            }
        } else if let Some(best) = best {
            self.sight = Sight::Found;
            self.seconds = best.first_seen_seconds.map(|seconds| tried.start_seconds + seconds);
            self.seen = Some(best);
        } else if !self.slower.is_empty() && self.slower.iter().all(|name| is_slower(&tried, name)) {
            self.sight = Sight::Found;
        }
        let follows = |f: &Finding| f.class == Class::New && self.follows.iter().any(|e| e.has(f));
        let other: Vec<Finding> =
            tried.findings.iter().filter(|f| !expected(f) && !follows(f)).cloned().collect();
        self.other.extend(other);
        self.tried.push(tried);
    }

    /// In how many trials what is expected was seen, of those that could have shown it.
    pub fn count(&self) -> Count {
        let trials = || self.tried.iter().map(|tried| tried.trials.after.trials).sum();
        self.seen.as_ref().map_or_else(|| Count { seen: 0, trials: trials() }, |finding| finding.after)
    }

    /// What took longer or shorter in the last comparison.
    pub fn latency(&self) -> Option<&Latency> {
        self.tried.last()?.latency.as_ref()
    }

    /// The metrics that were told slower, as was expected.
    pub fn told_slower(&self) -> impl Iterator<Item = &MetricResult> {
        self.latency()
            .into_iter()
            .flat_map(|all| all.told(Told::Slower))
            .filter(|m| self.slower.contains(&m.name))
    }

    /// Of what was seen, what is no fault of its patch: reports of the unmodified kernel, and all that a patch brings
    /// which changes nothing.
    pub fn false_reports(&self) -> impl Iterator<Item = &Finding> {
        let clean = self.group == Group::Clean;
        let all = self.tried.iter().flat_map(|tried| &tried.findings);
        all.filter(move |f| f.before.seen > 0 || clean && f.after.seen > 0)
    }
}

fn is_slower(tried: &Tried, name: &str) -> bool {
    tried.latency.iter().flat_map(|all| all.told(Told::Slower)).any(|metric| metric.name == name)
}

/// All entries together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Real bugs found, of those tried.
    pub real: (u32, u32),
    /// Planted ones.
    pub planted: (u32, u32),
    /// Clean kernels that nothing was reported of, of those tried.
    pub clean: (u32, u32),
    /// What was reported of clean and unmodified kernels, once a comparison.
    pub false_reports: u32,
    /// Trials of clean and unmodified kernels.
    pub clean_trials: u32,
    /// Trials of kernels with bugs.
    pub bug_trials: u32,
    /// Entries that could not be tried.
    pub failed: u32,
    /// Entries that should have been found, and were not.
    pub missed: u32,
    /// Kernels that were built.
    pub builds: u32,
    /// How long that took, seconds.
    pub build_seconds: f64,
    /// How long boots and trials took, seconds.
    pub run_seconds: f64,
}

impl Totals {
    /// Counts them.
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
        all
    }

    /// 0 when everything was as it should be, 1 when a bug was missed or something reported falsely, 4 when something
    /// could not be tried.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self { failed: 1.., .. } => 4,
            Self { missed: 1.., .. } | Self { false_reports: 1.., .. } => 1,
            _ => 0,
        }
    }
}
