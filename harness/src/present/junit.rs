//! The result as `JUnit` XML for CI systems: each scenario is a test suite, and its cases are test
//! cases. If there are several scenarios, the comparison as a whole is one, too.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::cases::suites;
use crate::Error;
use crate::conclusion::{Case, CaseOutcome, LONGEST};
use crate::record::RunResult;
use crate::text::harmless;

/// The file.
pub fn junit(result: &RunResult) -> crate::Result<String> {
    xml(result, &suites(result))
}

fn xml(result: &RunResult, suites: &[(String, Vec<Case>)]) -> crate::Result<String> {
    let mut report = Report::new("hotplug");
    // The schemas require a time without a zone.
    let started = result.run.started.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    for (number, (name, cases)) in suites.iter().enumerate() {
        let mut suite = TestSuite::new(plain(name));
        suite.extra.insert("timestamp".into(), started.as_str().into());
        // The first suite is that of the comparison.
        if number == 0 {
            for (name, value) in properties(result) {
                suite.add_property((plain(name), plain(&value)));
            }
            suite.set_time(std::time::Duration::from_secs_f64(result.trials_seconds.max(0.0)));
        } else {
            suite.add_property(("run", plain(&result.run.id).as_str()));
            suite.set_time(std::time::Duration::ZERO);
        }
        suite.add_test_cases(cases.iter().map(|case| test_case(case, name, result)));
        report.add_test_suite(suite);
    }
    Ok(skipped(&report.to_string().map_err(Error::infrastructure)?))
}

fn test_case(case: &Case, suite: &str, result: &RunResult) -> TestCase {
    let status = match &case.outcome {
        CaseOutcome::Passed => TestCaseStatus::success(),
        CaseOutcome::Failed { why, more } => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(plain(why));
            status.set_description(plain(&more.join("\n")));
            status
        }
        CaseOutcome::Broken { why } => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_message(plain(why));
            status
        }
        CaseOutcome::Skipped { why } => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(plain(why));
            status
        }
    };
    let mut one = TestCase::new(plain(&case.name), status);
    one.set_classname(plain(&format!("hotplug.{suite}")));
    if let Some(trial) = &case.trial {
        let folder = result.run.spec.running.results.join(&result.run.id).join(trial);
        let folder = harmless(&folder.display().to_string(), LONGEST);
        // Jenkins makes links of files that are named like this (JUnit Attachments Plugin).
        one.set_system_out(plain(&format!("trial {folder}\n[[ATTACHMENT|{folder}/kmsg.log]]")));
    }
    one
}

/// The file of a comparison that failed before its run began: one case, which is an error.
pub fn failed(error: &Error) -> crate::Result<String> {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    status.set_message(plain(&harmless(&error.in_one_line(), LONGEST)));
    status.set_description(plain(&error.to_string()));
    let mut suite = TestSuite::new("hotplug");
    suite
        .extra
        .insert("timestamp".into(), jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S").to_string().into());
    suite.set_time(std::time::Duration::ZERO);
    let mut case = TestCase::new("the comparison ran", status);
    case.set_classname("hotplug");
    suite.add_test_case(case);
    let mut report = Report::new("hotplug");
    report.add_test_suite(suite);
    Ok(skipped(&report.to_string().map_err(Error::infrastructure)?))
}

/// What a CI system shows with the suite: what was compared, where, and how to repeat it.
fn properties(result: &RunResult) -> Vec<(&'static str, String)> {
    let run = &result.run;
    let (before, after) = (&run.kernels.before, &run.kernels.after);
    let kernels = &run.spec.kernels;
    let mut all = vec![
        ("run", run.id.clone()),
        ("verdict", result.verdict.map_or_else(|| "none".to_owned(), |verdict| verdict.to_string())),
        ("reason", result.reason.clone()),
        ("kernel.before", before.id.clone()),
        ("kernel.after", after.id.clone()),
        ("release.before", before.release.clone()),
        ("release.after", after.release.clone()),
        ("source.before", before.source.clone()),
        ("source.after", after.source.clone()),
        ("seed", run.seed.0.to_string()),
        ("qemu", run.host.qemu.clone()),
        ("accelerator", run.host.accelerator.clone()),
        ("host", run.host.machine()),
        ("hotplug", run.hotplug.clone()),
        ("page", super::page::FILE.to_owned()),
    ];
    let revisions = [("revision.before", &kernels.before), ("revision.after", &kernels.after)];
    all.extend(revisions.into_iter().filter_map(|(name, revision)| Some((name, revision.clone()?))));
    all.extend(run.patches.iter().map(|patch| ("patch", patch.clone())));
    all.extend(run.series.iter().filter_map(|patch| Some(("subject", patch.subject.clone()?))));
    all.extend(run.notes.iter().map(|note| ("note", note.clone())));
    all.retain(|(_, value)| !value.is_empty());
    for (_, value) in &mut all {
        *value = harmless(value, LONGEST);
    }
    all
}

/// Renames an attribute of suites. The library writes the number of skipped cases as `disabled`,
/// which Jenkins' schema does not allow there. That schema, and the tools that follow it, expect
/// `skipped`. No line of text can begin like a suite, because `<` is `&lt;` in text.
fn skipped(xml: &str) -> String {
    let suite = |line: &str| line.trim_start().starts_with("<testsuite ");
    let renamed = |line: &str| line.replacen(" disabled=\"", " skipped=\"", 1);
    xml.split_inclusive('\n').map(|line| if suite(line) { renamed(line) } else { line.to_owned() }).collect()
}

/// Removes the two characters that XML does not allow (1.0, 2.2 Characters) and that the library
/// does not remove.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !['\u{fffe}', '\u{ffff}'].contains(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conclusion::Case;

    /// A small valid result.
    fn result() -> RunResult {
        let text = include_str!("../../tests/fixtures/results/seed-6.12/result.json");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_guest_cannot_break_the_file() {
        let hostile = "]]></failure><x a='\"'>\u{1b}[31m\u{0}\u{fffe}&amp;";
        let failed = CaseOutcome::Failed { why: hostile.into(), more: vec![hostile.into()] };
        let case = Case { trial: Some(hostile.into()), ..Case::new(hostile, failed) };
        let text = xml(&result(), &[(hostile.into(), vec![case])]).unwrap();
        // The schemas require a time without a zone, but this reader requires one.
        let at = "2026-11-27T09:22:07";
        assert!(text.contains("<property name=\"seed\" value=\"17520682115816431323\"/>"), "{text}");
        assert!(text.contains(at) && !text.contains('\u{fffe}'), "{text}");
        let text = text.replace(at, "2026-11-27T09:22:07Z").replace(" skipped=\"", " disabled=\"");
        let report = Report::deserialize_from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let case = &report.test_suites[0].test_cases[0];
        assert!(case.name.contains("]]></failure><x a=") && !text.contains('\u{1b}'), "{text}");
    }
}
