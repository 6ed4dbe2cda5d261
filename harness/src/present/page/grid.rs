//! Every trial as a square, and some trials in full.

use std::collections::BTreeSet;

use hotplug_side::{Side, Sides};
use maud::{Markup, html};
use serde::Deserialize;

use super::lanes;
use crate::compare::Tally;
use crate::text::word;
use crate::trial::{TrialOutcome, TrialRecord};

/// The part of a trial's record that a square needs. The record is far longer.
#[derive(Debug, Clone, Deserialize)]
pub struct Square {
    /// The side of its kernel.
    pub side: Side,
    /// The name of its folder.
    pub folder: String,
    /// The name of its scenario. Records of older versions lack it.
    #[serde(default)]
    pub scenario: String,
    /// The outcome.
    pub outcome: TrialOutcome,
    /// The outcome in words.
    pub why: String,
}

/// The section. `trials` has the number of all trials; shards keep only the first clean trial of
/// each side.
pub(super) fn section(trials: &Sides<Tally>, squares: &[Square], shown: &[TrialRecord]) -> Markup {
    let scenarios: BTreeSet<&str> = squares.iter().map(|square| square.scenario.as_str()).collect();
    html! {
        @for side in Side::BOTH {
            @let kept = squares.iter().filter(|square| square.side == side).count();
            @let gone = usize::try_from(trials.of(side).all()).unwrap_or(0).saturating_sub(kept);
            h3 { (side) @if gone > 0 { ", without " (gone) " that were not kept" } }
            @for scenario in &scenarios {
                @if scenarios.len() > 1 { h4 { (scenario) } }
                ul.grid {
                    @for square in squares.iter().filter(|square| square.side == side && square.scenario == **scenario) {
                        @let is_shown = shown.iter().any(|trial| trial.folder == square.folder);
                        li class=(word(&square.outcome)) title={ (square.folder) ": " (square.outcome) } {
                            @if is_shown { a href={ "#" (square.folder) } aria-label={ (square.folder) ", " (square.outcome) } { (letter(square.outcome)) } }
                            @else { (letter(square.outcome)) }
                        }
                    }
                }
            }
        }
        p.soft {
            "One square a trial: " code { "·" } " clean, " code { "R" } " reported, " code { "P" } " panicked, " code { "H" } " hung, "
            code { "M" } " accounting mismatch, " code { "B" } " blind, " code { "I" } " infrastructure. Those that are links are shown below; "
            "all of them are in the run's folder."
        }
        @for (place, trial) in shown.iter().enumerate() { (full(trial, place == 0)) }
    }
}

/// The letter of an outcome, so that it does not depend on the colour alone.
fn letter(outcome: TrialOutcome) -> &'static str {
    match outcome {
        TrialOutcome::Clean => "·",
        TrialOutcome::Reported => "R",
        TrialOutcome::Panicked => "P",
        TrialOutcome::Hung => "H",
        TrialOutcome::AccountingMismatch => "M",
        TrialOutcome::Blind => "B",
        TrialOutcome::Infrastructure => "I",
    }
}

fn full(trial: &TrialRecord, is_open: bool) -> Markup {
    html! {
        details open[is_open] {
            summary { (trial.folder) ": " (trial.outcome) ", " (trial.why) }
            // A browser opens a closed element when a link leads to a place inside it, but not when
            // the link leads to the element itself.
            div id=(trial.folder) {
                (lanes::drawing(trial))
                @for mismatch in &trial.mismatches { p.bad { "After " (mismatch.after) ": " (mismatch.what) } }
                p.soft { "Again: " code { "hotplug replay RUN/trials/" (trial.folder) } ", seed " code { (trial.seed.0) } }
            }
        }
    }
}
