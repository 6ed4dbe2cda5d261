//! A comparison as test cases, for files that CI systems read: one case for each expectation of the
//! patch.
//!
//! The names are the same in every run, so that a CI system can track them. Each finding is an
//! additional case, named by its signature.

use hotplug_side::{Side, Sides};

use crate::compare::{Class, Finding, NoBoot, ScenarioTally, Verdict, lacking};
use crate::conclusion::{Case, CaseOutcome, Conclusion, LONGEST};
use crate::record::{RunResult, Settled};
use crate::text::harmless;

/// The cases of a comparison that every format has.
pub fn cases(result: &RunResult) -> Vec<Case> {
    let mut all = of_comparison(result);
    all.extend(result.scenarios.iter().filter(|_| result.has_several_scenarios()).map(scenario));
    all.extend(result.reports.iter().map(finding));
    all
}

/// The same cases in suites: one suite, or one for the comparison and one for each scenario. A
/// finding is in the suite of each scenario that showed it.
pub fn suites(result: &RunResult) -> Vec<(String, Vec<Case>)> {
    let run = &result.run;
    if !result.has_several_scenarios() {
        return vec![(run.scenario.clone(), cases(result))];
    }
    let mut all = vec![(run.scenario.clone(), of_comparison(result))];
    all.extend(result.scenarios.iter().map(|one| {
        let name = &one.scenario;
        let seen = result.reports.iter().filter_map(|found| {
            let seen = found.scenarios.iter().find(|seen| seen.scenario == *name)?;
            let mut case = finding(found);
            let here = format!("here before {}, after {}; in all ", seen.before, seen.after);
            case.outcome = case.outcome.after(&here);
            // The example is of one of its scenarios.
            let prefix = format!("trials/{name}-");
            case.trial = case.trial.filter(|trial| trial.starts_with(&prefix));
            Some(case)
        });
        (name.clone(), std::iter::once(scenario(one)).chain(seen).collect())
    }));
    all
}

/// The cases of the comparison as a whole.
fn of_comparison(result: &RunResult) -> Vec<Case> {
    let mut all = vec![
        Case::new(VERDICT, verdict(result)),
        Case::new(BUILDS, builds(result)),
        Case::new(BOOTS, boots(result)),
        Case::new("the trials ran", ran(result)),
        Case::new("lockdep was armed to the end", armed(result)),
    ];
    all.extend(result.conclusions().filter_map(Conclusion::case));
    all
}

/// The names of cases that some formats single out.
pub(super) const VERDICT: &str = "the verdict";
pub(super) const BUILDS: &str = "it builds";
pub(super) const BOOTS: &str = "it boots";

fn verdict(result: &RunResult) -> CaseOutcome {
    let reason = harmless(&result.reason, LONGEST);
    match result.verdict {
        Some(Verdict::Unchanged | Verdict::Fixed) => CaseOutcome::Passed,
        Some(Verdict::Regressed) => CaseOutcome::failed(reason, Vec::new()),
        Some(Verdict::Inconclusive) => CaseOutcome::skipped(reason),
        None => CaseOutcome::Broken { why: reason },
    }
}

/// Whether the kernel with the patch compiles.
fn builds(result: &RunResult) -> CaseOutcome {
    match &result.settled {
        Some(Settled::DoesNotCompile { first, lines, .. }) => {
            let lines = lines.iter().map(|line| harmless(line, LONGEST)).collect();
            CaseOutcome::failed(harmless(first, LONGEST), lines)
        }
        _ => CaseOutcome::Passed,
    }
}

/// Whether the kernel with the patch boots.
fn boots(result: &RunResult) -> CaseOutcome {
    let lines = |told: &NoBoot| told.console.iter().map(|line| harmless(line, LONGEST)).collect();
    match &result.no_boot {
        _ if result.settled.is_some() => CaseOutcome::skipped("no guest was started"),
        Some(told) if told.side == Some(Side::After) => {
            CaseOutcome::failed(format!("{told}, in {} of {} boots", told.boots, told.boots), lines(told))
        }
        Some(told) => CaseOutcome::skipped(told.to_string()),
        None => CaseOutcome::Passed,
    }
}

fn ran(result: &RunResult) -> CaseOutcome {
    if let Some(settled) = &result.settled {
        return CaseOutcome::skipped(format!("no trial ran: {}", harmless(&settled.to_string(), LONGEST)));
    }
    let Sides { before, after } = &result.trials;
    match before.infrastructure + after.infrastructure {
        0 => CaseOutcome::Passed,
        spoilt => {
            CaseOutcome::Broken { why: format!("{spoilt} trials were spoilt, each time they were tried") }
        }
    }
}

fn armed(result: &RunResult) -> CaseOutcome {
    if result.settled.is_some() {
        return CaseOutcome::skipped("no trial ran");
    }
    let Sides { before, after } = &result.trials;
    let (armed, all) = (before.armed + after.armed, before.trials + after.trials);
    if let Some(lacking) = lacking(&result.trials) {
        CaseOutcome::skipped(lacking)
    } else if armed == all {
        CaseOutcome::Passed
    } else {
        CaseOutcome::skipped(format!("in {armed} of {all} trials"))
    }
}

/// Whether the silence of a scenario is evidence.
fn scenario(one: &ScenarioTally) -> Case {
    let outcome = match &one.untested {
        None => CaseOutcome::Passed,
        Some(why) => CaseOutcome::skipped(harmless(why, LONGEST)),
    };
    Case::new(&format!("scenario {}", harmless(&one.scenario, LONGEST)), outcome)
}

fn finding(finding: &Finding) -> Case {
    let name = format!("{} [{}]", harmless(&finding.title, LONGEST), harmless(&finding.signature, 20));
    let rates = format!("before {}, after {}, {}", finding.before, finding.after, finding.certainty());
    let outcome = match (&finding.known, finding.class) {
        (Some(_), _) if finding.is_worse() => {
            CaseOutcome::failed(format!("known, and more frequent: {rates}"), call_path(finding))
        }
        (Some(reason), _) => CaseOutcome::skipped(format!("known: {}", harmless(reason, LONGEST))),
        (None, _) if finding.is_worse() => CaseOutcome::failed(rates, call_path(finding)),
        (None, Class::Fixed) => CaseOutcome::Passed,
        (None, Class::Common) => {
            CaseOutcome::skipped(format!("the kernel without the patch has it too: {rates}"))
        }
        (None, Class::New) => CaseOutcome::skipped(format!("may be chance: {rates}")),
    };
    let trial = Some(finding.example.clone()).filter(|example| !example.is_empty());
    Case { name, outcome, trial }
}

/// The call path, innermost first, one frame a line, with file and line if they are known.
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
