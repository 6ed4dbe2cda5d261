//! The result as KTAP for the kernel developers' tools (Documentation/dev-tools/ktap.rst): the
//! scenario is a test, and its cases are subtests.

use std::fmt::Write;

use crate::conclusion::{Case, CaseOutcome};

/// The file.
pub fn ktap(suite: &str, cases: &[Case]) -> String {
    let mut out = String::from("KTAP version 1\n1..1\n");
    let _ = writeln!(out, "    KTAP version 1\n    # Subtest: {}\n    1..{}", plain(suite), cases.len());
    for (number, case) in (1..).zip(cases) {
        let name = plain(&case.name);
        let (word, directive, more) = match &case.outcome {
            CaseOutcome::Passed => ("ok", String::new(), [].as_slice()),
            CaseOutcome::Failed { why, more } => {
                ("not ok", format!("\n    # {}", plain(why)), more.as_slice())
            }
            // An undecided case neither passes nor fails.
            CaseOutcome::Skipped { why } => ("ok", format!(" # SKIP {}", plain(why)), [].as_slice()),
            CaseOutcome::Broken { why } => ("not ok", format!("\n    # {}", plain(why)), [].as_slice()),
        };
        let _ = writeln!(out, "    {word} {number} {name}{directive}");
        for line in more {
            let _ = writeln!(out, "    #   {}", plain(line));
        }
    }
    let is_bad =
        |case: &Case| matches!(case.outcome, CaseOutcome::Failed { .. } | CaseOutcome::Broken { .. });
    let word = if cases.iter().any(is_bad) { "not ok" } else { "ok" };
    let _ = writeln!(out, "{word} 1 {}", plain(suite));
    out
}

/// Removes the characters that begin a directive or a line.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).map(|c| if c == '#' { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_add_lines_or_directives() {
        let case = Case::new;
        let text = ktap(
            "a # SKIP b",
            &[
                case("x\nok 2 y", CaseOutcome::Passed),
                case("z", CaseOutcome::Failed { why: "w\n# more".into(), more: vec!["f()".into()] }),
                case("s", CaseOutcome::Skipped { why: "inconclusive".into() }),
            ],
        );
        let expected = "KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: a _ SKIP b\n    1..3\n    \
            ok 1 xok 2 y\n    not ok 2 z\n    # w_ more\n    #   f()\n    ok 3 s # SKIP inconclusive\n\
            not ok 1 a _ SKIP b\n";
        assert_eq!(text, expected);
    }
}
