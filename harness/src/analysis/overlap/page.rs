//! The overlaps as a matrix: the number of trials of each side.

use hotplug_side::Side;
use maud::{Markup, html};

use super::full;
use crate::overlap::{Overlap, Pair};
use crate::scenario::CriticalSection;
use crate::text::nanoseconds;

pub(super) fn matrix(told: &Overlap) -> Markup {
    // A function that was never entered cannot overlap.
    let entered = |one: &&crate::overlap::Traced| one.entered.before.max(one.entered.after) > Some(0);
    let all: Vec<&CriticalSection> = told.traced.iter().filter(entered).map(|one| &one.what).collect();
    let idle: Vec<String> =
        told.traced.iter().filter(|one| !entered(one)).map(|one| one.what.to_string()).collect();
    html! {
        p {
            "In how many of " (told.trials.before) " + " (told.trials.after) " traced trials two tasks were inside of both at once: "
            span.before { "before" } " → " span.after { "after" } "."
        }
        @for (pair, sides) in told.never() {
            p.odd {
                "Raced by the scenario, but never overlapped " @if let [side] = sides[..] { (side) } @else { "on either side" } ": " (pair.first) " and " (pair.second) "."
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
        details { summary { "as text, with the longest times and their trials" } pre tabindex="0" { (full(told)) } }
    }
}

fn cell(told: &Overlap, first: &CriticalSection, second: &CriticalSection) -> Markup {
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
