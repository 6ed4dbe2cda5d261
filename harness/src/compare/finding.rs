//! What was found, one entry for each signature, with how often each side showed it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::exact::fisher_two_sided;
use crate::kreport::{self, KnownIssues};
use crate::side::Side;
use crate::trial::{Outcome, Seen, TrialOutcome, TrialRecord};

/// The chance of crying wolf over one comparison of equal kernels, all its findings together (Holm's correction).
pub(super) const ALPHA: f64 = 0.05;

/// Where a finding was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Only after.
    New,
    /// Only before.
    Fixed,
    /// On both sides.
    Common,
}

/// In how many trials something was seen, of those that could have shown it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Trials that showed it.
    pub seen: u32,
    /// Trials that showed it or were watched well enough to show it: a trial that ends early, loses records, or for
    /// what only lockdep sees ends disarmed, is no evidence of absence.
    pub trials: u32,
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.seen, self.trials)
    }
}

/// One kernel report, or one thing that the harness itself saw go wrong, over all trials.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finding {
    /// Where it was seen.
    pub class: Class,
    /// What makes two of them the same: a short hash.
    pub signature: String,
    /// The signature's readable key.
    pub key: String,
    /// The kernel checker's kind, or `hung`, `refused`, `accounting-mismatch` for what the harness saw.
    pub kind: String,
    /// One line.
    pub title: String,
    /// Functions of the call stack, innermost first, without those the unwinder marked `?`.
    pub frames: Vec<String>,
    /// The same with file, line and inlined callers, where the kernel's vmlinux tells them.
    pub call_path: Vec<kreport::Frame>,
    /// The function to blame, `None` where the kernel named none.
    pub blame: Option<String>,
    /// Trials without the patch.
    pub before: Count,
    /// Trials with it.
    pub after: Count,
    /// Fisher's exact test, two-sided, of the two rates.
    pub p: f64,
    /// `p` holds after Holm's correction for all findings of this comparison, at 0.05. Never of what is known.
    pub decided: bool,
    /// How often it came in the trial that showed it most.
    pub times: u64,
    /// Why it is tolerated, where the file of known issues names it. It then has no say in the verdict.
    pub known: Option<String>,
    /// Operations that were in flight when the example was collected, in words.
    pub during: String,
    /// Folder of a trial that shows it, below the run's.
    pub example: String,
}

impl Finding {
    /// The patch made it likelier, beyond chance.
    pub fn is_worse(&self) -> bool {
        self.decided && rate(self.after) > rate(self.before)
    }

    /// The patch made it rarer, beyond chance.
    pub fn is_better(&self) -> bool {
        self.decided && rate(self.after) < rate(self.before)
    }
}

fn rate(count: Count) -> f64 {
    if count.trials == 0 { 0.0 } else { f64::from(count.seen) / f64::from(count.trials) }
}

/// The trials that showed something, and how often each.
type Times<'a> = Vec<(&'a TrialRecord, u64)>;

/// Something one trial showed.
struct Shown {
    signature: String,
    key: String,
    kind: String,
    title: String,
    call_path: Vec<kreport::Frame>,
    blame: Option<String>,
    known: Option<String>,
    needs_armed: bool,
    /// Only a complete kernel log shows that it was not there.
    needs_log: bool,
    during: String,
}

/// All findings of a comparison: new first, then fixed, then common, the surest first; known ones last.
pub fn findings(records: &[TrialRecord], known: &mut KnownIssues) -> Vec<Finding> {
    let usable: Vec<&TrialRecord> =
        records.iter().filter(|r| r.outcome != TrialOutcome::Infrastructure).collect();
    let mut shown: Vec<(Shown, Times<'_>)> = kernel_reports(&usable, known);
    let mut own: BTreeMap<String, (Shown, Times<'_>)> = BTreeMap::new();
    for record in &usable {
        for (what, times) in seen_by_the_harness(record) {
            own.entry(what.signature.clone()).or_insert_with(|| (what, Vec::new())).1.push((record, times));
        }
    }
    shown.extend(own.into_values());
    let mut all: Vec<Finding> = shown
        .into_iter()
        .map(|(what, by)| {
            let count = |side: Side| {
                let seen = by.iter().filter(|(r, _)| r.side == side).count();
                let could = |r: &&&TrialRecord| {
                    r.side == side
                        && !by.iter().any(|(s, _)| s.number == r.number && s.side == side)
                        && (!what.needs_log || r.watched_to_the_end())
                        && (!what.needs_armed || r.armed_to_the_end())
                };
                let clean = usable.iter().filter(could).count();
                let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                Count { seen: number(seen), trials: number(seen + clean) }
            };
            let (before, after) = (count(Side::Before), count(Side::After));
            let class = match (before.seen, after.seen) {
                (0, _) => Class::New,
                (_, 0) => Class::Fixed,
                _ => Class::Common,
            };
            let (example, _) = by[0];
            Finding {
                class,
                signature: what.signature,
                key: what.key,
                kind: what.kind,
                title: what.title,
                frames: what.call_path.iter().filter(|f| !f.inlined).map(|f| f.function.clone()).collect(),
                call_path: what.call_path,
                blame: what.blame,
                known: what.known,
                before,
                after,
                p: fisher_two_sided(before.seen, before.trials, after.seen, after.trials),
                decided: false,
                times: by.iter().map(|(_, times)| *times).max().unwrap_or(0),
                during: what.during,
                example: format!("trials/{}", example.folder),
            }
        })
        .collect();
    decide(&mut all);
    let order = |f: &Finding| (f.known.is_some(), f.class, f.p);
    all.sort_by(|a, b| order(a).partial_cmp(&order(b)).unwrap_or(std::cmp::Ordering::Equal));
    all
}

/// Holm's step-down: the smallest p against alpha / n, the next against alpha / (n - 1), until one fails.
fn decide(findings: &mut [Finding]) {
    let mut order: Vec<usize> = (0..findings.len()).filter(|i| findings[*i].known.is_none()).collect();
    order.sort_by(|a, b| findings[*a].p.total_cmp(&findings[*b].p));
    let mut left = u32::try_from(order.len()).unwrap_or(u32::MAX);
    for index in order {
        if findings[index].p > ALPHA / f64::from(left) {
            break;
        }
        findings[index].decided = true;
        left -= 1;
    }
}

/// What the kernels reported, one entry for each bug, whichever side and print of it came first.
fn kernel_reports<'a>(records: &[&'a TrialRecord], known: &mut KnownIssues) -> Vec<(Shown, Times<'a>)> {
    let all: Vec<(&TrialRecord, &Seen)> =
        records.iter().flat_map(|r| r.reports.iter().map(move |seen| (*r, seen))).collect();
    kreport::fold(all.iter().map(|(_, seen)| &seen.first))
        .into_iter()
        .map(|group| {
            let report = group.first;
            let during = group.members.iter().map(|i| &all[*i].1.during).find(|during| !during.is_empty());
            let shown = Shown {
                signature: report.signature.hash.clone(),
                key: report.signature.key.clone(),
                kind: report.kind.to_string(),
                title: report.title.clone(),
                call_path: report.frames.iter().filter(|frame| frame.reliable).cloned().collect(),
                blame: report.blame.clone(),
                known: known.find(report).map(|issue| issue.reason.clone()),
                needs_armed: report.needs_armed_lockdep(),
                needs_log: true,
                during: during.cloned().unwrap_or_default(),
            };
            // Two prints of one bug in one trial are one trial.
            let mut by: Times<'_> = Vec::new();
            for (record, seen) in group.members.iter().map(|i| all[*i]) {
                match by.iter_mut().find(|(known, _)| std::ptr::eq(*known, record)) {
                    Some((_, times)) => *times += seen.times,
                    None => by.push((record, seen.times)),
                }
            }
            (shown, by)
        })
        .collect()
}

/// What went wrong in one trial without a word of the kernel, and how often.
fn seen_by_the_harness(record: &TrialRecord) -> Vec<(Shown, u64)> {
    let mut all = Vec::new();
    if record.outcome == TrialOutcome::Hung {
        let stuck = record.operations.iter().find(|o| o.outcome == Outcome::TimedOut);
        let place = stuck.map_or_else(|| record.why.clone(), |o| format!("{} {}", o.verb, o.device.group()));
        all.push(own("hung", &place, record.why.clone()));
    }
    for operation in &record.operations {
        if let Outcome::RefusedByGuest { how } = &operation.outcome {
            let what = format!("{} {}", operation.verb, operation.device.group());
            all.push(own("refused", &what, format!("the guest refused to {what}: {how}")));
        }
    }
    for wrong in &record.mismatches {
        let counter = wrong.what.split(" is ").next().unwrap_or(&wrong.what);
        let counter: String = counter.chars().filter(|c| !c.is_ascii_digit()).collect();
        all.push(own(
            "accounting-mismatch",
            counter.trim(),
            format!("after {}: {}", wrong.after, wrong.what),
        ));
    }
    let mut once: BTreeMap<String, (Shown, u64)> = BTreeMap::new();
    for shown in all {
        once.entry(shown.signature.clone()).and_modify(|(_, times)| *times += 1).or_insert((shown, 1));
    }
    once.into_values().collect()
}

/// A finding of the harness's own.
fn own(kind: &str, what: &str, title: String) -> Shown {
    let key = format!("{kind}: {what}");
    Shown {
        signature: blake3::hash(key.as_bytes()).to_hex()[..12].to_owned(),
        key,
        kind: kind.into(),
        title,
        call_path: Vec::new(),
        blame: None,
        known: None,
        needs_armed: false,
        needs_log: false,
        during: String::new(),
    }
}
