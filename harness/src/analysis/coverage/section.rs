//! The output of the coverage analysis: whether the changed lines ran.

use std::fmt::Write;
use std::path::Path;

use hotplug_side::{Side, Sides};

use maud::{Markup, html};

use crate::compare::{ChangedLine, Coverage, FileCoverage, Judgement, Weight};
use crate::conclusion::{Case, CaseOutcome, Conclusion, labelled, unavailable_line};
use crate::coverage::Executed;
use crate::kernel::Counting;
use crate::text::harmless;

/// Widest line, in characters.
const WIDTH: usize = 100;

/// Lines on the screen of a comparison. `hotplug coverage` prints all.
const SHOWN: usize = 3;

impl Conclusion for Coverage {
    fn weight(&self, _: &Judgement) -> Weight {
        self.weight()
    }

    fn screen(&self) -> Vec<String> {
        short(self)
    }

    fn case(&self) -> Option<Case> {
        let outcome = match &self.none {
            Some(why) => CaseOutcome::unavailable(why),
            None if !self.not_reached().is_empty() => {
                CaseOutcome::failed("some changed code never ran", short(self))
            }
            None if !self.maybe_reached().is_empty() => {
                CaseOutcome::skipped(format!("not known of some lines: {}", cut(self)))
            }
            None => CaseOutcome::Passed,
        };
        Some(Case::new("all changed lines ran", outcome))
    }

    fn page(&self, _: &Path) -> Markup {
        html! {
            section aria-labelledby="coverage" {
                h2 id="coverage" { "Did the changed lines run?" }
                @for line in short(self) { p { (line.trim_start_matches("coverage").trim()) } }
                @if self.none.is_none() { details { summary { "line by line" } pre tabindex="0" { (full(self)) } } }
            }
        }
    }
}

/// The lines of a comparison's screen.
fn short(coverage: &Coverage) -> Vec<String> {
    if let Some(why) = &coverage.none {
        return unavailable_line("coverage", "not counted", why);
    }
    let (ran, all) = coverage.lines();
    let Sides { before, after } = coverage.trials;
    let mut lines = vec![match all {
        0 => "no changed line carries code that is counted".to_owned(),
        _ => format!("{ran} of {all} changed lines ran{}, in {before} + {after} trials", known(coverage)),
    }];
    let missed = coverage.not_reached();
    lines.extend(
        missed.iter().take(SHOWN).map(|place| format!("not reached: {}", harmless(place, WIDTH - 23))),
    );
    if missed.len() > SHOWN {
        lines.push(format!("and {} more files: hotplug coverage", missed.len() - SHOWN));
    }
    let maybe = coverage.maybe_reached();
    if !maybe.is_empty() {
        lines.push(format!("not known: {}", harmless(&maybe.join(", "), WIDTH - 21)));
        lines.push(cut(coverage));
    }
    let unknown: Vec<&str> =
        coverage.files.iter().filter(|file| file.is_unknown()).map(|file| file.path.as_str()).collect();
    if !unknown.is_empty() {
        lines.push(format!("not counted: {}", harmless(&unknown.join(", "), WIDTH - 23)));
    }
    labelled("coverage", lines)
}

/// That more lines may have run.
fn known(coverage: &Coverage) -> &'static str {
    if coverage.maybe_reached().is_empty() { "" } else { ", as far as is known" }
}

/// Why it is not known of some lines whether they ran.
fn cut(coverage: &Coverage) -> String {
    let Sides { before, after } = coverage.cut;
    match before + after {
        0 => coverage.why_unknown().to_owned(),
        _ => format!("{before} + {after} {}: what ran last in them is lost", coverage.why_unknown()),
    }
}

/// The full text: each file's functions, then its changed lines.
pub fn full(coverage: &Coverage) -> String {
    let mut out = String::new();
    if let Some(why) = &coverage.none {
        let _ = writeln!(out, "nothing was counted: {}", harmless(why, 200));
        return out;
    }
    let (ran, all) = coverage.lines();
    let Sides { before, after } = coverage.trials;
    let known = known(coverage);
    let _ = writeln!(
        out,
        "{ran} of {all} changed lines that carry code ran{known}, in {before} + {after} trials"
    );
    if coverage.cut != Sides::default() {
        let _ = writeln!(out, "{}", cut(coverage));
    }
    for file in &coverage.files {
        let _ = writeln!(out, "\n{}{}", harmless(&file.path, WIDTH), note(file));
        for (name, sides) in &file.functions {
            let _ = writeln!(out, "  {}()", harmless(name, 80));
            for (side, ran) in [(Side::Before, &sides.before), (Side::After, &sides.after)] {
                let _ = match ran {
                    Some(ran) => writeln!(out, "    {side:<6} {}", words(ran)),
                    None => writeln!(out, "    {side:<6} does not have it"),
                };
            }
        }
        if !file.lines.is_empty() {
            let _ = writeln!(out, "  {:>12}", "times");
        }
        for ChangedLine { side, line, text, ran } in &file.lines {
            let sign = if *side == Side::Before { '-' } else { '+' };
            let times = ran.as_ref().map_or_else(String::new, |ran| match ran.times {
                0 if ran.is_unknown => "UNKNOWN".to_owned(),
                0 => "NEVER".to_owned(),
                times => times.to_string(),
            });
            let _ = writeln!(
                out,
                "  {times:>12} {line:>6} {sign}{}",
                harmless(&text.replace('\t', "    "), WIDTH)
            );
        }
    }
    out
}

/// The reason why a file's lines are not counted, if they are not.
fn note(file: &FileCoverage) -> &'static str {
    let is = |counting| [file.counting.before, file.counting.after].contains(&counting);
    if is(Counting::NotBuilt) {
        "   not built by this config: nothing of it can run"
    } else if is(Counting::Forbidden) {
        "   not counted: its makefile forbids it"
    } else if is(Counting::NotC) {
        "   not counted: no C"
    } else if is(Counting::Header) {
        "   a header: counted where a counted file uses it"
    } else {
        ""
    }
}

/// Formats executions as `24 times: unplug dimm 16, plug dimm 8, boot 2`.
fn words(ran: &Executed) -> String {
    if ran.times == 0 {
        return if ran.is_unknown { "not known".into() } else { "never".into() };
    }
    let mut kinds: Vec<(&str, u64)> =
        ran.during.iter().map(|(kind, times)| (kind.as_str(), *times)).collect();
    if ran.boot > 0 {
        kinds.push(("boot", ran.boot));
    }
    kinds.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    let kinds: Vec<String> =
        kinds.into_iter().map(|(kind, times)| format!("{} {times}", harmless(kind, 40))).collect();
    let colon = if kinds.is_empty() { "" } else { ": " };
    let s = if ran.times == 1 { "" } else { "s" };
    format!("{} time{s}{colon}{}", ran.times, kinds.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_in_words() {
        let during = [("plug dimm".to_owned(), 8), ("unplug dimm".to_owned(), 16)].into();
        let ran = Executed { times: 26, boot: 2, during, is_unknown: false };
        assert_eq!(words(&ran), "26 times: unplug dimm 16, plug dimm 8, boot 2");
        assert_eq!(words(&Executed { times: 1, ..Executed::default() }), "1 time");
        assert_eq!(words(&Executed::default()), "never");
    }

    #[test]
    fn what_a_panic_took_along_is_no_failure() {
        let text = include_str!("../../../tests/fixtures/results/seed-6.12/result.json");
        let result: crate::record::RunResult = serde_json::from_str(text).unwrap();
        let mut coverage = result.coverage.unwrap();
        coverage.cut.after = 1;
        let line = coverage.files.iter_mut().flat_map(|file| &mut file.lines).find(|line| line.ran.is_some());
        let line = line.unwrap();
        let place = line.line;
        line.ran = Some(Executed { is_unknown: true, ..Executed::default() });
        let screen = short(&coverage).join("\n");
        assert!(screen.contains("not known: ") && !screen.contains("not reached"), "{screen}");
        assert!(screen.contains("0 + 1 counted trials panicked or hung"), "{screen}");
        assert!(full(&coverage).contains(&format!("UNKNOWN {place:>6} ")), "{}", full(&coverage));
        let CaseOutcome::Skipped { why } = coverage.case().unwrap().outcome else { panic!("{coverage:?}") };
        assert!(why.contains("0 + 1 counted trials"), "{why}");
    }
}
