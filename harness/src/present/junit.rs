//! The result as `JUnit` XML for CI systems: the scenario is a test suite, and its cases are test
//! cases.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::conclusion::{Case, CaseOutcome};
use crate::record::RunResult;

/// The file.
pub fn junit(result: &RunResult, cases: &[Case]) -> crate::Result<String> {
    let mut suite = TestSuite::new(result.run.scenario.as_str());
    // The schemas require a time without a zone.
    let started = result.run.started.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    suite.extra.insert("timestamp".into(), started.as_str().into());
    suite.set_time(std::time::Duration::from_secs_f64(result.trials_seconds.max(0.0)));
    for case in cases {
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
        one.set_classname(format!("hotplug.{}", result.run.scenario));
        suite.add_test_case(one);
    }
    let mut report = Report::new("hotplug");
    report.add_test_suite(suite);
    Ok(skipped(&report.to_string().map_err(crate::Error::infrastructure)?))
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
        let text = junit(&result(), &[Case { name: hostile.into(), outcome: failed }]).unwrap();
        // The schemas require a time without a zone, but this reader requires one.
        let at = "2026-11-27T09:22:07";
        assert!(text.contains(at) && !text.contains('\u{fffe}'), "{text}");
        let text = text.replace(at, "2026-11-27T09:22:07Z").replace(" skipped=\"", " disabled=\"");
        let report = Report::deserialize_from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let case = &report.test_suites[0].test_cases[0];
        assert!(case.name.contains("]]></failure><x a=") && !text.contains('\u{1b}'), "{text}");
    }
}
