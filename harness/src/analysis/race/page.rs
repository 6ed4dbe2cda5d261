//! The results of the holds as a table, before and after.

use hotplug_side::Side;
use maud::{Markup, html};

use super::full;
use crate::rendezvous::{Cell, MeetingCount, Race};

pub(super) fn section(told: &Race) -> Markup {
    html! {
        section aria-labelledby="race" {
            h2 id="race" { "Races made on purpose" }
            @if !told.cells.is_empty() {
                p { "A task that came to the first place was held there until another task came to the second." }
                div.wide tabindex="0" {
                    table {
                        thead { tr { th scope="col" { "held at" } th scope="col" { "until" } th.before scope="col" { "before" } th.after scope="col" { "after" } } }
                        tbody { @for cell in &told.cells { (row(cell)) } }
                    }
                }
            }
            @for one in &told.delays {
                p { code { (one.at) } " was delayed " (one.holds.before) " times before, " (one.holds.after) " after." }
            }
            details { summary { "as text, with examples" } pre tabindex="0" { (full(told)) } }
        }
    }
}

fn row(cell: &Cell) -> Markup {
    html! {
        tr {
            th scope="row" { code { (cell.hold) } }
            td { code { (cell.until) } }
            @for side in Side::BOTH { (outcome(cell.count.of(side))) }
        }
    }
}

fn outcome(count: &MeetingCount) -> Markup {
    let words = count.words();
    let example = count.example.as_deref().unwrap_or_default();
    html! { td.met[count.met > 0] title=(example) { @if words.is_empty() { "not tried" } @else { (words) } } }
}
