//! What ran at the same time, as a matrix: before and after in how many trials.

use hotplug_side::Side;
use maud::{Markup, html};

use crate::overlap::{Overlap, Pair};
use crate::present::latency::nanoseconds;
use crate::present::overlap;
use crate::record::RunResult;
use crate::scenario::Critical;

pub(super) fn section(result: &RunResult) -> Markup {
    let Some(told) = &result.overlap else { return html! {} };
    html! {
        section aria-labelledby="overlap" {
            h2 id="overlap" { "What ran at the same time" }
            @if let Some(why) = &told.none { p { "Not looked at: " (why) "." } } @else { (matrix(told)) }
        }
    }
}

fn matrix(told: &Overlap) -> Markup {
    // Who was never inside has nothing to be beside.
    let entered = |one: &&crate::overlap::Traced| one.entered.before.max(one.entered.after) > Some(0);
    let all: Vec<&Critical> = told.traced.iter().filter(entered).map(|one| &one.what).collect();
    let idle: Vec<String> =
        told.traced.iter().filter(|one| !entered(one)).map(|one| one.what.to_string()).collect();
    html! {
        p {
            "In how many of " (told.trials.before) " + " (told.trials.after) " traced trials two tasks were inside of both at once: "
            span.before { "before" } " → " span.after { "after" } "."
        }
        @for (pair, sides) in told.never() {
            p.odd {
                "Wanted, and never met " @if let [side] = sides[..] { (side) } @else { "on either side" } ": " (pair.first) " and " (pair.second) "."
            }
        }
        div.wide tabindex="0" {
            table.matrix {
                thead { tr { td {} @for (place, _) in all.iter().enumerate() { th.number scope="col" { (place + 1) } } } }
                tbody {
                    @for (row, first) in all.iter().enumerate() {
                        tr {
                            th scope="row" { (row + 1) " " code { (first) } }
                            @for second in &all[..=row] { (cell(told, first, second)) }
                        }
                    }
                }
            }
        }
        @if !idle.is_empty() { p.soft { "Never entered, or not traceable: " (idle.join(", ")) "." } }
        details { summary { "as text, with the longest times and their trials" } pre tabindex="0" { (overlap::full(told)) } }
    }
}

fn cell(told: &Overlap, first: &Critical, second: &Critical) -> Markup {
    let Some(pair) = told.pairs.iter().find(|pair| pair.is(first, second)) else {
        return html! { td.number.soft { "·" } };
    };
    let Pair { trials, longest, is_wanted, .. } = pair;
    let told_of = |side: Side| {
        let longest =
            longest.of(side).map_or_else(String::new, |time| format!(", longest {}", nanoseconds(time)));
        format!("{side} in {} trials{longest}", trials.of(side))
    };
    let title = format!("{first} and {second}: {}; {}", told_of(Side::Before), told_of(Side::After));
    html! {
        td.number.wanted[*is_wanted] title=(title) {
            span.before { (trials.before) } " → " span.after { (trials.after) }
        }
    }
}
