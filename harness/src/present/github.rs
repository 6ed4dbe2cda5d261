//! The output for GitHub: the job's summary in Markdown, and annotations (workflow commands on
//! standard output).

use std::fmt::Write;

use hotplug_kreport::{Frame, plain_name};

use super::{duration, host_line};
use crate::conclusion::{Case, CaseOutcome};
use crate::record::{RunResult, Settled};
use crate::text::harmless;

/// The text for `$GITHUB_STEP_SUMMARY`.
pub fn summary(result: &RunResult, cases: &[Case]) -> String {
    let mut out = String::new();
    let verdict = result.verdict.map_or_else(|| "NO VERDICT".to_owned(), |verdict| verdict.to_string());
    let patches = match result.run.patches.as_slice() {
        [] => "no patch".to_owned(),
        all => all.iter().map(|patch| code(patch)).collect::<Vec<_>>().join(", "),
    };
    let _ = writeln!(out, "## {verdict}: {}\n", markdown(&result.reason));
    let _ = writeln!(
        out,
        "{patches} on {} ({}), scenario {}: {} + {} trials in {}\n",
        code(&result.run.kernels.before.release),
        markdown(&result.run.kernels.before.source),
        code(&result.run.scenario),
        result.trials.before.trials,
        result.trials.after.trials,
        duration(result.trials_seconds)
    );
    let _ = writeln!(out, "| | expected | |\n| --- | --- | --- |");
    for case in cases {
        let (word, why) = match &case.outcome {
            CaseOutcome::Passed => ("pass", String::new()),
            CaseOutcome::Failed { why, .. } => ("**FAIL**", markdown(why)),
            CaseOutcome::Skipped { why } => ("skip", markdown(why)),
            CaseOutcome::Broken { why } => ("**ERROR**", markdown(why)),
        };
        let _ = writeln!(out, "| {word} | {} | {why} |", markdown(&case.name));
    }
    let _ = writeln!(out, "\n{}", markdown(&host_line(&result.run.host)));
    out
}

/// One line for each case that failed.
pub fn annotations(result: &RunResult, cases: &[Case]) -> String {
    let mut out = String::new();
    for case in cases {
        let (kind, why, more) = match &case.outcome {
            CaseOutcome::Failed { why, more } => ("error", why, more.as_slice()),
            CaseOutcome::Broken { why } => ("warning", why, [].as_slice()),
            CaseOutcome::Passed | CaseOutcome::Skipped { .. } => continue,
        };
        let title = format!("{} ({})", case.name, result.run.scenario);
        let message = std::iter::once(why).chain(more).cloned().collect::<Vec<_>>().join("\n");
        let place = place_of(result, case)
            .map_or_else(String::new, |(file, line)| format!("file={},line={line},", property(&file)));
        let _ = writeln!(out, "::{kind} {place}title={}::{}", property(&title), data(&message));
    }
    out
}

/// The file and the line that a case is about: the function to blame of a finding, or the
/// compiler's first error.
pub(super) fn place_of(result: &RunResult, case: &Case) -> Option<(String, u32)> {
    if let (Some(Settled::DoesNotCompile { first, .. }), "it builds") = (&result.settled, &*case.name) {
        return file_and_line(first);
    }
    let finding = result.reports.iter().find(|finding| {
        let signature = format!("[{}]", harmless(&finding.signature, 20));
        !finding.signature.is_empty() && case.name.ends_with(&signature)
    })?;
    let blame = finding.blame.as_deref();
    let of_blame = |frame: &&Frame| Some(plain_name(&frame.function)) == blame && frame.source.is_some();
    let frame = finding.call_path.iter().find(of_blame);
    let frame = frame.or_else(|| finding.call_path.iter().find(|frame| frame.source.is_some()))?;
    file_and_line(frame.source.as_deref()?)
}

/// `mm/slub.c` and 2771 of `mm/slub.c:2771`, or of `mm/slub.c:2771:9: error: ...`.
fn file_and_line(place: &str) -> Option<(String, u32)> {
    let (file, rest) = place.split_once(':')?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((harmless(file, 200), digits.parse().ok()?))
}

/// Escapes a guest's text, because Markdown interprets HTML, links and the bars of tables.
fn markdown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' | '@' => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", markdown(text))
}

/// Escapes the data of a workflow command (actions/toolkit, `escapeData`).
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_can_neither_mark_up_nor_command() {
        assert_eq!(markdown("<script>|a`b\n[x](y)"), "&lt;script&gt;&#124;a&#96;b&#91;x&#93;(y)");
        assert_eq!(file_and_line("mm/x.c:17:9: error: y"), Some(("mm/x.c".into(), 17)));
        assert_eq!(file_and_line("nowhere"), None);
        assert_eq!(property("a:b,c%\n::error::"), "a%3Ab%2Cc%25%0A%3A%3Aerror%3A%3A");
    }
}
