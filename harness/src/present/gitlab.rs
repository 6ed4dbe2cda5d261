//! The output for GitLab: a Code Quality report, which a merge request shows at the lines it names.
//! GitLab reads `JUnit`, too.

use serde::Serialize;

use super::github::place_of;
use crate::conclusion::{Case, CaseOutcome};
use crate::record::RunResult;
use crate::{Error, Result};

/// One entry.
#[derive(Debug, Serialize)]
struct Issue<'a> {
    description: String,
    check_name: &'a str,
    /// The same for the same finding in every run.
    fingerprint: String,
    severity: &'static str,
    location: Location,
}

#[derive(Debug, Serialize)]
struct Location {
    path: String,
    lines: Lines,
}

#[derive(Debug, Serialize)]
struct Lines {
    begin: u32,
}

/// The report: every failed case. A case without a line of its own is about the first patch.
pub fn code_quality(result: &RunResult, cases: &[Case]) -> Result<String> {
    let failed = cases.iter().filter_map(|case| {
        let (why, severity) = match &case.outcome {
            CaseOutcome::Failed { why, .. } => (why, "critical"),
            CaseOutcome::Broken { why } => (why, "major"),
            CaseOutcome::Passed | CaseOutcome::Skipped { .. } => return None,
        };
        let (path, begin) = place_of(result, case).unwrap_or_else(|| {
            let patch = result.run.patches.first();
            (patch.map_or_else(|| "Makefile".to_owned(), Clone::clone), 1)
        });
        Some(Issue {
            description: format!("{}: {why}", case.name),
            check_name: "hotplug",
            fingerprint: blake3::hash(format!("{} {}", result.run.scenario, case.name).as_bytes())
                .to_hex()
                .to_string(),
            severity,
            location: Location { path, lines: Lines { begin } },
        })
    });
    let all: Vec<Issue<'_>> = failed.collect();
    Ok(serde_json::to_string_pretty(&all).map_err(Error::infrastructure)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::present::cases::cases;

    #[test]
    fn a_finding_is_at_the_line_to_blame() {
        let text = include_str!("../../tests/fixtures/results/seed-6.12/result.json");
        let result: RunResult = serde_json::from_str(text).unwrap();
        let text = code_quality(&result, &cases(&result)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let all = value.as_array().unwrap();
        assert_eq!(all.len(), 3, "{text}");
        let at = |path: &str, line: u32| {
            all.iter().any(|one| one["location"]["path"] == path && one["location"]["lines"]["begin"] == line)
        };
        assert!(at("mm/slub.c", 3406), "{text}");
    }
}
