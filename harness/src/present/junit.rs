//! `JUnit` XML, as CI systems read it: the scenario is a suite, its cases are test cases.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::conclusion::{Case, CaseOutcome};
use crate::record::RunResult;

/// The file.
pub fn junit(result: &RunResult, cases: &[Case]) -> crate::Result<String> {
    let mut suite = TestSuite::new(result.run.scenario.as_str());
    // Without a zone, as the schemas want it.
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

/// The library calls what was skipped in a suite `disabled`, of which Jenkins' schema knows nothing there; it, and those
/// who read by it, know `skipped`. No text begins a line so: in a text `<` is `&lt;`.
fn skipped(xml: &str) -> String {
    let suite = |line: &str| line.trim_start().starts_with("<testsuite ");
    let renamed = |line: &str| line.replacen(" disabled=\"", " skipped=\"", 1);
    xml.split_inclusive('\n').map(|line| if suite(line) { renamed(line) } else { line.to_owned() }).collect()
}

/// Without the two characters that XML has not (1.0, 2.2 Characters) and the library lets through.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !['\u{fffe}', '\u{ffff}'].contains(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conclusion::Case;

    /// The least that can be read as a result.
    fn result() -> RunResult {
        let text = include_str!("../../tests/fixtures/results/seed-6.12/result.json");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_guest_cannot_break_the_file() {
        let hostile = "]]></failure><x a='\"'>\u{1b}[31m\u{0}\u{fffe}&amp;";
        let failed = CaseOutcome::Failed { why: hostile.into(), more: vec![hostile.into()] };
        let text = junit(&result(), &[Case { name: hostile.into(), outcome: failed }]).unwrap();
        // The schemas want no zone, this reader does.
        let at = "2026-11-27T09:22:07";
        assert!(text.contains(at) && !text.contains('\u{fffe}'), "{text}");
        let text = text.replace(at, "2026-11-27T09:22:07Z").replace(" skipped=\"", " disabled=\"");
        let report = Report::deserialize_from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let case = &report.test_suites[0].test_cases[0];
        assert!(case.name.contains("]]></failure><x a=") && !text.contains('\u{1b}'), "{text}");
    }
}
