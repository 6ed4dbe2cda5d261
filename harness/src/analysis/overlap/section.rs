//! The output of the overlap analysis: which critical sections ran at the same time.

use std::fmt::Write;
use std::path::Path;

use hotplug_side::{Side, Sides};

use maud::{Markup, html};

use super::page;
use crate::compare::{Judgement, Weight};
use crate::conclusion::{Case, CaseOutcome, Conclusion, labelled, unavailable_line};
use crate::overlap::{Overlap, Pair};
use crate::text::{harmless, nanoseconds};

/// Widest line, in characters.
const WIDTH: usize = 100;

/// The number of other pairs on the screen of a comparison.
const SHOWN: usize = 3;

impl Conclusion for Overlap {
    fn weight(&self, judgement: &Judgement) -> Weight {
        self.weight(judgement.race.as_ref())
    }

    fn screen(&self) -> Vec<String> {
        short(self)
    }

    fn case(&self) -> Option<Case> {
        let outcome = match &self.none {
            Some(why) => CaseOutcome::unavailable(why),
            None if self.never().next().is_some() => {
                CaseOutcome::failed("some pairs that the scenario races never overlapped", short(self))
            }
            None => CaseOutcome::Passed,
        };
        Some(Case::new("all pairs that the scenario races overlapped", outcome))
    }

    fn page(&self, _: &Path) -> Markup {
        html! {
            section aria-labelledby="overlap" {
                h2 id="overlap" { "What ran at the same time" }
                @if let Some(why) = &self.none { p { "Not traced: " (&**why) "." } } @else { (page::matrix(self)) }
            }
        }
    }
}

/// The lines of a comparison's screen.
fn short(told: &Overlap) -> Vec<String> {
    if let Some(why) = &told.none {
        return unavailable_line("overlap", "not looked at", why);
    }
    let mut lines = vec![head(told)];
    lines.extend(left_out(told));
    let wanted = told.pairs.iter().filter(|pair| pair.is_wanted);
    lines.extend(wanted.map(|pair| format!("{}, wanted: {}", names(pair), met(told, pair))));
    let others: Vec<&Pair> = told.pairs.iter().filter(|pair| !pair.is_wanted).collect();
    lines.extend(others.iter().take(SHOWN).map(|pair| format!("{}: {}", names(pair), met(told, pair))));
    if others.len() > SHOWN {
        lines.push(format!("and {} other pairs", others.len() - SHOWN));
    }
    labelled("overlap", lines.into_iter().map(|line| harmless(&line, WIDTH)))
}

fn head(told: &Overlap) -> String {
    let met = told.pairs.iter().filter(|pair| pair.trials.before + pair.trials.after > 0).count();
    format!(
        "of {} functions and sections {met} {} met, in {} + {} trials",
        told.traced.len(),
        if met == 1 { "pair" } else { "pairs" },
        told.trials.before,
        told.trials.after
    )
}

fn left_out(told: &Overlap) -> Option<String> {
    let Sides { before, after } = told.left_out;
    let why = told.left_out_why.as_deref().unwrap_or_default();
    (before + after > 0).then(|| format!("{before} + {after} trials left out: {}", harmless(why, WIDTH - 36)))
}

fn names(pair: &Pair) -> String {
    if pair.first == pair.second {
        format!("{} in two tasks", pair.first)
    } else {
        format!("{} and {}", pair.first, pair.second)
    }
}

fn met(told: &Overlap, pair: &Pair) -> String {
    let of = |side: Side| format!("{} of {}", pair.trials.of(side), told.trials.of(side));
    format!("{} -> {} trials", of(Side::Before), of(Side::After))
}

/// The full text: every pair, and the traced functions.
pub fn full(told: &Overlap) -> String {
    if told.none.is_some() {
        return short(told).join("\n") + "\n";
    }
    let mut out = format!("{}\n", head(told));
    if let Some(left_out) = left_out(told) {
        let _ = writeln!(out, "{left_out}");
    }
    let width = told.pairs.iter().map(|pair| names(pair).len()).max().unwrap_or(4).min(60);
    let _ = writeln!(
        out,
        "\n{:<width$}  {:>9}  {:>9}  {:>10}  {:>10}  example",
        "at once, in trials", "before", "after", "max before", "max after"
    );
    for pair in &told.pairs {
        let trials = |side: Side| format!("{} of {}", pair.trials.of(side), told.trials.of(side));
        let longest = |side: Side| pair.longest.of(side).map_or_else(|| "-".to_owned(), nanoseconds);
        let example = pair.example.after.as_ref().or(pair.example.before.as_ref());
        let wanted = if pair.is_wanted { "  (wanted)" } else { "" };
        let _ = writeln!(
            out,
            "{:<width$}  {:>9}  {:>9}  {:>10}  {:>10}  {}{wanted}",
            harmless(&names(pair), 60),
            trials(Side::Before),
            trials(Side::After),
            longest(Side::Before),
            longest(Side::After),
            harmless(example.map_or("-", String::as_str), 60)
        );
    }
    let _ = writeln!(out, "\n{:<width$}  {:>9}  {:>9}", "entered, times in all", "before", "after");
    for one in &told.traced {
        let entered =
            |side: Side| one.entered.of(side).map_or_else(|| "no such".to_owned(), |times| times.to_string());
        let name = one.what.to_string();
        let _ = writeln!(out, "{name:<width$}  {:>9}  {:>9}", entered(Side::Before), entered(Side::After));
    }
    let a_trial = |side: Side| told.calls.of(side) / u64::from((*told.trials.of(side)).max(1));
    let _ = writeln!(
        out,
        "\n{} + {} calls a trial were traced; see docs/races.md for the cost.",
        a_trial(Side::Before),
        a_trial(Side::After)
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlap::Traced;
    use crate::unavailable::Unavailable;

    fn told() -> Overlap {
        let pair = |first: &str, second: &str, is_wanted, before, after| Pair {
            first: first.parse().unwrap(),
            second: second.parse().unwrap(),
            is_wanted,
            trials: Sides { before, after },
            longest: Sides { before: Some(1_234_567.0), after: (after > 0).then_some(2e3) },
            example: Sides { before: Some("overlap/trials/before-000".into()), after: None },
        };
        let entered = Sides { before: Some(12), after: None };
        Overlap {
            trials: Sides { before: 10, after: 9 },
            left_out: Sides { before: 0, after: 1 },
            left_out_why: Some("after: after-003: its trace lost events on CPU 0: overrun: 12".into()),
            calls: Sides { before: 1000, after: 900 },
            traced: vec![Traced { what: "_cpu_up".parse().unwrap(), entered }],
            pairs: vec![
                pair("offline_pages", "_cpu_up", true, 10, 0),
                pair("_cpu_up", "_cpu_up", false, 3, 4),
            ],
            ..Overlap::default()
        }
    }

    #[test]
    fn the_screen_has_what_was_wanted_first() {
        let expected = [
            "overlap   of 1 functions and sections 2 pairs met, in 10 + 9 trials",
            "          0 + 1 trials left out: after: after-003: its trace lost events on CPU 0: overrun: 12",
            "          offline_pages and _cpu_up, wanted: 10 of 10 -> 0 of 9 trials",
            "          _cpu_up in two tasks: 3 of 10 -> 4 of 9 trials",
        ];
        assert_eq!(short(&told()), expected);
        assert_eq!(short(&Overlap::none(Unavailable::because("x\ny"))), ["overlap   not looked at: x"]);
    }

    #[test]
    fn all_of_it_has_the_longest_and_who_has_no_such_function() {
        insta::assert_snapshot!(full(&told()));
    }
}
