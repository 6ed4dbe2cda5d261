//! The result as checks for Patchwork, which shows them beside a patch: a list, of which each entry
//! is the body of one request to `/api/patches/ID/checks/` (patchwork/api/check.py).

use serde::Serialize;

use super::cases::{BOOTS, BUILDS, VERDICT};
use crate::conclusion::{Case, CaseOutcome};
use crate::record::RunResult;
use crate::text::harmless;
use crate::{Error, Result};

/// One check.
#[derive(Debug, Serialize)]
struct Check<'a> {
    /// One of `CHECK_STATES`.
    state: &'static str,
    /// A slug. Patchwork shows the newest check of each context.
    context: &'static str,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_url: Option<&'a str>,
}

/// The cases that have a check.
const CHECKS: [(&str, &str); 3] =
    [(VERDICT, "hotplug"), (BUILDS, "hotplug-builds"), (BOOTS, "hotplug-boots")];

/// Longest description, in characters. A table shows it.
const LONGEST: usize = 200;

/// The file. `url` is where the page of the result is.
pub fn checks(result: &RunResult, cases: &[Case], url: Option<&str>) -> Result<String> {
    let check = |(name, context): (&str, &'static str)| {
        let case = cases.iter().find(|case| case.name == name)?;
        // An undecided verdict is no success. Nor is a failure of the machine one of the patch.
        let (state, why) = match &case.outcome {
            CaseOutcome::Passed => ("success", None),
            CaseOutcome::Failed { why, .. } => ("fail", Some(why)),
            CaseOutcome::Skipped { why } | CaseOutcome::Broken { why } => ("warning", Some(why)),
        };
        let verdict = result.verdict.map_or_else(|| "NO VERDICT".to_owned(), |verdict| verdict.to_string());
        let description = match why {
            _ if name == VERDICT => format!("{verdict}: {}", result.reason),
            Some(why) => why.clone(),
            None => name.to_owned(),
        };
        Some(Check { state, context, description: harmless(&description, LONGEST), target_url: url })
    };
    let all: Vec<Check<'_>> = CHECKS.into_iter().filter_map(check).collect();
    Ok(serde_json::to_string_pretty(&all).map_err(Error::infrastructure)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Verdict;
    use crate::present::cases::cases;

    #[test]
    fn only_what_was_shown_is_a_success() {
        let text = include_str!("../../tests/fixtures/results/seed-6.12/result.json");
        let mut result: RunResult = serde_json::from_str(text).unwrap();
        let states = |result: &RunResult, url| {
            let text = checks(result, &cases(result), url).unwrap();
            let all: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            all.iter()
                .map(|check| (check["context"].to_string(), check["state"].to_string()))
                .collect::<Vec<_>>()
        };
        let told = |state: &str| {
            [("hotplug", state), ("hotplug-builds", "success"), ("hotplug-boots", "success")]
                .map(|(context, state)| (format!("{context:?}"), format!("{state:?}")))
        };
        assert_eq!(states(&result, None), told("fail"));
        for (verdict, state) in [
            (Some(Verdict::Unchanged), "success"),
            (Some(Verdict::Fixed), "success"),
            (Some(Verdict::Inconclusive), "warning"),
            (None, "warning"),
        ] {
            result.verdict = verdict;
            assert_eq!(states(&result, None), told(state), "{verdict:?}");
        }
        result.reason = "\u{1b}[2J".repeat(300);
        let text = checks(&result, &cases(&result), Some("https://ci.example.org/1")).unwrap();
        assert!(text.contains("\"target_url\": \"https://ci.example.org/1\"") && !text.contains('\u{1b}'));
        assert!(text.len() < 1200, "{text}");
    }
}
