//! A comparison as test cases: what it expects of a patch, one by one, for files that CI systems read.
//!
//! Names stay the same from run to run, so that a CI system can follow them; each finding is a case of its own beside them,
//! named by its signature.

use hotplug_side::{Side, Sides};

use super::{coverage, latency, overlap};
use crate::compare::{Class, Control, Finding, Verdict};
use crate::latency::{MetricResult, Told};
use crate::record::RunResult;
use crate::rendezvous::Count;
use crate::text::harmless;

/// Longest line of a case, characters.
const LONGEST: usize = 400;

/// One expectation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub outcome: CaseOutcome,
}

/// What became of an expectation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseOutcome {
    /// It holds.
    Passed,
    /// It does not.
    Failed {
        /// In one line.
        why: String,
        /// More lines: a call path, lines that never ran.
        more: Vec<String>,
    },
    /// It could not be decided.
    Skipped {
        /// In one line.
        why: String,
    },
    /// The harness or the machine failed.
    Broken {
        /// In one line.
        why: String,
    },
}

fn failed(why: impl Into<String>, more: Vec<String>) -> CaseOutcome {
    CaseOutcome::Failed { why: why.into(), more }
}

fn skipped(why: impl Into<String>) -> CaseOutcome {
    CaseOutcome::Skipped { why: why.into() }
}

/// All of a comparison.
pub fn cases(result: &RunResult) -> Vec<Case> {
    let case = |name: &str, outcome| Case { name: name.to_owned(), outcome };
    let mut all = vec![
        case("the verdict", verdict(result)),
        case("the trials ran", ran(result)),
        case("lockdep was armed to the end", armed(result)),
    ];
    all.extend(result.control.as_ref().map(|control| case("planted bugs are found", planted(control))));
    if let Some(told) = &result.coverage {
        let missed = told.not_reached();
        let outcome = match &told.none {
            Some(why) => skipped(harmless(why, LONGEST)),
            None if missed.is_empty() => CaseOutcome::Passed,
            None => failed("some changed code never ran", coverage::short(told)),
        };
        all.push(case("all changed lines ran", outcome));
    }
    if let Some(told) = result.race.as_ref().filter(|told| !told.cells.is_empty()) {
        let is_open = |count: &Count| count.trials > 0 && count.met == 0 && count.kept_apart_by().is_none();
        let open =
            told.cells.iter().filter(|cell| Side::BOTH.iter().any(|side| is_open(cell.count.of(*side))));
        let outcome = match open.count() {
            0 => CaseOutcome::Passed,
            some => skipped(format!("inconclusive for {some} of {} pairs", told.cells.len())),
        };
        all.push(case("pairs raced on purpose met or are kept apart by a lock", outcome));
    }
    if let Some(told) = &result.overlap {
        let outcome = match &told.none {
            Some(why) => skipped(harmless(why, LONGEST)),
            None if told.never().next().is_some() => {
                failed("what the scenario wants to race never met", overlap::short(told))
            }
            None => CaseOutcome::Passed,
        };
        all.push(case("what is wanted to race met", outcome));
    }
    if let Some(told) = &result.latency {
        let slower: Vec<String> = told.told(Told::Slower).map(MetricResult::in_short).collect();
        let outcome = match &told.none {
            Some(why) => skipped(harmless(why, LONGEST)),
            None if !slower.is_empty() => {
                failed(format!("slower: {}", slower.join(", ")), latency::short(told))
            }
            None if told.told(Told::CannotTell).next().is_some() => skipped("inconclusive for some metrics"),
            None => CaseOutcome::Passed,
        };
        all.push(case("nothing is slower", outcome));
    }
    all.extend(result.reports.iter().map(finding));
    all
}

fn verdict(result: &RunResult) -> CaseOutcome {
    let reason = harmless(&result.reason, LONGEST);
    match result.verdict {
        Some(Verdict::Unchanged | Verdict::Fixed) => CaseOutcome::Passed,
        Some(Verdict::Regressed) => failed(reason, Vec::new()),
        Some(Verdict::Inconclusive) => skipped(reason),
        None => CaseOutcome::Broken { why: reason },
    }
}

fn ran(result: &RunResult) -> CaseOutcome {
    let Sides { before, after } = &result.trials;
    match before.infrastructure + after.infrastructure {
        0 => CaseOutcome::Passed,
        spoilt => {
            CaseOutcome::Broken { why: format!("{spoilt} trials were spoilt, each time they were tried") }
        }
    }
}

fn armed(result: &RunResult) -> CaseOutcome {
    let Sides { before, after } = &result.trials;
    let (armed, all) = (before.armed + after.armed, before.trials + after.trials);
    if armed == all { CaseOutcome::Passed } else { skipped(format!("in {armed} of {all} trials")) }
}

fn planted(control: &Control) -> CaseOutcome {
    match control {
        Control::None { why } => skipped(harmless(why, LONGEST)),
        Control::Ran { missed, .. } if missed.is_empty() => CaseOutcome::Passed,
        Control::Ran { missed, .. } => failed(format!("not found: {}", missed.join(", ")), Vec::new()),
    }
}

fn finding(finding: &Finding) -> Case {
    let name = format!("{} [{}]", harmless(&finding.title, LONGEST), harmless(&finding.signature, 20));
    let rates = format!(
        "before {}, after {}, p = {}",
        finding.before,
        finding.after,
        crate::text::probability(finding.p)
    );
    let outcome = match (&finding.known, finding.class) {
        (Some(reason), _) => skipped(format!("known: {}", harmless(reason, LONGEST))),
        (None, _) if finding.is_worse() => failed(rates, call_path(finding)),
        (None, Class::Fixed) => CaseOutcome::Passed,
        (None, Class::Common) => skipped(format!("the kernel without the patch has it too: {rates}")),
        (None, Class::New) => skipped(format!("may be chance: {rates}")),
    };
    Case { name, outcome }
}

/// The call path, innermost first, one frame a line, with file and line where they are known.
pub(super) fn call_path(finding: &Finding) -> Vec<String> {
    let line = |frame: &hotplug_kreport::Frame| {
        let source = frame.source.as_deref().map_or_else(String::new, |source| format!(" at {source}"));
        harmless(&format!("{}{source}", frame.function), LONGEST)
    };
    match finding.call_path.as_slice() {
        [] => finding.frames.iter().map(|frame| harmless(frame, LONGEST)).collect(),
        frames => frames.iter().map(line).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> RunResult {
        let text = include_str!("../../tests/fixtures/results/seed-6.12/result.json");
        serde_json::from_str(text).unwrap()
    }

    fn outcome(result: &RunResult, name: &str) -> CaseOutcome {
        let all = cases(result);
        all.into_iter().find(|case| case.name.starts_with(name)).map(|case| case.outcome).unwrap()
    }

    #[test]
    fn what_nobody_can_tell_neither_passes_nor_fails() {
        let mut result = result();
        assert!(matches!(outcome(&result, "the verdict"), CaseOutcome::Failed { .. }));
        let found = "WARNING: lockdep_assert_cpus_held in flush";
        let CaseOutcome::Failed { why, more } = outcome(&result, found) else { panic!("{result:?}") };
        assert_eq!(why, "before 0/10, after 10/10, p = 0.000011");
        assert_eq!(more[2], "flush_all_cpus_locked at mm/slub.c:3406");
        for finding in &mut result.reports {
            finding.decided = false;
        }
        assert!(
            matches!(outcome(&result, found), CaseOutcome::Skipped { why } if why.starts_with("may be chance"))
        );
        result.reports.iter_mut().for_each(|finding| finding.known = Some("an old friend".into()));
        assert_eq!(outcome(&result, found), CaseOutcome::Skipped { why: "known: an old friend".into() });
        result.verdict = Some(Verdict::Inconclusive);
        assert!(matches!(outcome(&result, "the verdict"), CaseOutcome::Skipped { .. }));
        result.verdict = None;
        result.trials.before.infrastructure = 2;
        assert!(matches!(outcome(&result, "the verdict"), CaseOutcome::Broken { .. }));
        assert!(matches!(outcome(&result, "the trials ran"), CaseOutcome::Broken { .. }));
        result.trials.after.armed = 3;
        assert_eq!(
            outcome(&result, "lockdep was armed"),
            CaseOutcome::Skipped { why: "in 13 of 20 trials".into() }
        );
    }
}
