//! The page of a run: one self-contained file that needs no network. Its only script is ours, and
//! the page is complete without it.
//!
//! Every text from a guest passes through [`maud`], which escapes it, or is part of a drawing that
//! is shown as an image, which runs no scripts.

mod diff;
mod findings;
mod grid;
mod lanes;
mod of_run;
mod past;

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hotplug_side::Sides;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::{duration, host_line, mail, of_arch, silence_of_guests, vmcores};
use crate::compare::{Verdict, lacking};
use crate::record::{RunResult, Settled};
use crate::trial::TrialRecord;
use crate::vmm::shell_word;

pub use diff::Diff;
pub use findings::Evidence;
pub use grid::Square;
pub use of_run::{FILE, html, write};
pub use past::ScenarioHistory;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The parts of a page beside the result.
#[derive(Debug, Default)]
pub struct Parts {
    /// The run's folder.
    pub folder: PathBuf,
    /// The purpose of the scenario.
    pub about: String,
    /// Every trial, sorted by the names of the folders.
    pub squares: Vec<Square>,
    /// The trials that are shown in full: examples of each finding and of each outcome, and others
    /// up to a limit.
    pub shown: Vec<TrialRecord>,
    /// The evidence of each finding, in the same order; `None` if its trial is not available.
    pub evidence: Vec<Option<Evidence>>,
    /// The patches as they were given.
    pub diffs: Vec<Diff>,
    /// Earlier runs.
    pub past: ScenarioHistory,
}

/// The page.
pub fn page(result: &RunResult, parts: &Parts) -> String {
    let run = &result.run;
    let (word, class) = verdict(result);
    let title = format!("{word}: {} on Linux {}", subject(result), run.kernels.before.release);
    let body = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // If a guest's text got in here unescaped, it could still neither fetch nor run
                // anything: a script runs only if its hash matches.
                meta http-equiv="Content-Security-Policy" content=(policy());
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#findings" { "to the findings" }
                header {
                    h1 { span class={ "verdict " (class) } { (word) } " " (result.reason) }
                    p { (subject(result)) " on Linux " (run.kernels.before.release) " (" (run.kernels.before.source) (of_arch(&run.kernels.before)) ")" }
                    @for text in super::about_kernels(&run.kernels) { p.soft { (text) } }
                    @if let Some(settled) = &result.settled { (without_trials(settled)) } @else { (arithmetic(result, &parts.about)) }
                    @if let Some(told) = &result.no_boot {
                        p { "The end of the console of the " (told.shown_by()) " kernel:" }
                        pre tabindex="0" { (told.console.join("\n")) }
                    }
                    (applied(result))
                    @if let Some(notes) = &result.vmcores {
                        pre tabindex="0" { (vmcores::lines(notes, &parts.folder).join("\n")) }
                    }
                }
                main {
                    section aria-labelledby="findings" { h2 id="findings" { "Findings" } (findings::section(result, &parts.evidence)) }
                    @for conclusion in result.conclusions() { (conclusion.page(&parts.folder)) }
                    (diff::section(&run.kernels, &parts.diffs))
                    section aria-labelledby="trials" { h2 id="trials" { "Trials" } (grid::section(&result.trials, &parts.squares, &parts.shown)) }
                    (past::section(&parts.past, &run.id))
                    (again(result))
                }
                footer { p.soft { "hotplug " (run.hotplug) ", " (run.started.strftime("%Y-%m-%d %H:%M UTC").to_string()) } }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    body.into_string()
}

fn policy() -> String {
    let hash = STANDARD.encode(Sha256::digest(SCRIPT));
    format!("default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{hash}'")
}

fn verdict(result: &RunResult) -> (String, &'static str) {
    match result.verdict {
        Some(verdict @ Verdict::Regressed) => (verdict.to_string(), "bad"),
        Some(verdict @ (Verdict::Fixed | Verdict::Unchanged)) => (verdict.to_string(), "good"),
        Some(verdict @ Verdict::Inconclusive) => (verdict.to_string(), "odd"),
        None => ("NO VERDICT".to_owned(), "odd"),
    }
}

fn subject(result: &RunResult) -> String {
    let run = &result.run;
    match run.patches.as_slice() {
        [] if run.kernels.before.id == run.kernels.after.id => "the same kernel on both sides".to_owned(),
        [] => run.kernels.after.source.clone(),
        patches => patches.iter().map(|patch| mail::name(patch)).collect::<Vec<_>>().join(", "),
    }
}

/// Why no trial was needed.
fn without_trials(settled: &Settled) -> Markup {
    match settled {
        Settled::Identical { .. } => {
            html! { p { "Guests of both sides would run the same code, so no trial ran." } }
        }
        Settled::DoesNotCompile { lines, log, .. } => html! {
            p { "The kernel with the patch does not compile. The whole output of make is in " code { (log) } "." }
            pre tabindex="0" { (lines.join("\n")) }
        },
    }
}

/// The patches by their subjects, and what was left out of their files.
fn applied(result: &RunResult) -> Markup {
    let run = &result.run;
    html! {
        @if run.series.len() > 1 {
            ol {
                @for patch in &run.series { li { (patch.subject.as_deref().unwrap_or_else(|| mail::name(&patch.file))) } }
            }
        }
        @for note in &run.notes { p.soft { "Note: " (note) } }
    }
}

/// The figures behind the verdict.
fn arithmetic(result: &RunResult, about: &str) -> Markup {
    let (before, after) = (&result.trials.before, &result.trials.after);
    let rate = before.detectable_rate.max(after.detectable_rate) * 100.0;
    html! {
        table {
            thead { tr { td {} th.number { "before" } th.number { "after" } } }
            tbody {
                tr { th scope="row" { "trials" } td.number { (before.trials) } td.number { (after.trials) } }
                @if before.shares_guests() || after.shares_guests() {
                    tr { th scope="row" { "guests that took them" } td.number { (before.guests) } td.number { (after.guests) } }
                }
                @if before.not_at_rest + after.not_at_rest > 0 {
                    tr { th scope="row" { "guests with something left of a clean trial" } td.number { (before.not_at_rest) } td.number { (after.not_at_rest) } }
                }
                tr { th scope="row" { "clean" } td.number { (before.clean) } td.number { (after.clean) } }
                tr { th scope="row" { "lockdep armed to the end" } td.number { (before.armed) } td.number { (after.armed) } }
                tr { th scope="row" { "state of the kernel compared" } td.number { (before.state_compared) } td.number { (after.state_compared) } }
                tr { th scope="row" { "operations done" } td.number { (before.operations_done) } td.number { (after.operations_done) } }
                tr { th scope="row" { "refused by the guest" } td.number { (before.operations_refused) } td.number { (after.operations_refused) } }
                tr { th scope="row" { "spoilt by infrastructure" } td.number { (before.infrastructure) } td.number { (after.infrastructure) } }
                @if before.emulator_faults + after.emulator_faults > 0 {
                    tr { th scope="row" { "faults of the emulator" } td.number { (before.emulator_faults) } td.number { (after.emulator_faults) } }
                }
            }
        }
        @if result.has_several_scenarios() { (scenarios(result)) }
        p.soft {
            @if result.has_several_scenarios() { "Scenarios: " strong { (result.run.scenario) } } @else { "Scenario " strong { (result.run.scenario) } }
            @if !about.is_empty() { ": " (about) } ". "
            "Trials took " (duration(result.trials_seconds)) ". " (host_line(&result.run.host).trim_start_matches("host").trim()) "."
        }
        @if matches!(result.verdict, Some(Verdict::Unchanged | Verdict::Fixed)) {
            p { "A report in fewer than " (format!("{rate:.0}")) " % of such trials may have been missed (at 95 %)." }
            @if let Some(words) = silence_of_guests(result) { p { (words) "." } }
            @if let Some(lacking) = lacking(&result.trials) { p { "What lockdep would report is not known: " (lacking) "." } }
        }
        @for remark in &result.remarks { p { "Note: " (remark) } }
    }
}

/// The trials of each scenario, and what their silence means.
fn scenarios(result: &RunResult) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label="scenarios" {
            table {
                thead { tr { th scope="col" { "scenario" } th.number { "before" } th.number { "after" } th.number { "armed" } th scope="col" { "silence" } } }
                tbody {
                    @for one in &result.scenarios {
                        @let Sides { before, after } = &one.trials;
                        tr {
                            th scope="row" { (one.scenario) }
                            td.number { (before.trials) } td.number { (after.trials) } td.number { (before.armed + after.armed) }
                            @match &one.untested {
                                None => { td { "is evidence" } }
                                Some(why) => { td.odd { "says nothing: " (why) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn again(result: &RunResult) -> Markup {
    html! {
        section aria-labelledby="again" {
            h2 id="again" { "To repeat it" }
            p { "The same trials, from the kernels on:" }
            pre.copy tabindex="0" { (mail::command(result, mail::Reader::Here)) }
            @if !result.reports.is_empty() {
                p { "Only what was found, on the same kernels:" }
                pre.copy tabindex="0" { "hotplug replay " (folder(result)) }
            }
            p { "As it was run:" }
            pre.copy tabindex="0" { (result.run.command.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")) }
        }
    }
}

/// The run's folder, as a word of a command. Results of older versions do not have it.
fn folder(result: &RunResult) -> String {
    shell_word(&result.run.spec.running.results.join(&result.run.id).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::TrialOutcome;
    use hotplug_side::Side;

    const HOSTILE: &str = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&";

    fn result() -> RunResult {
        let text = include_str!("../../../tests/fixtures/results/seed-6.12/result.json");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_guest_cannot_mark_up_the_page() {
        let mut result = result();
        result.reason = HOSTILE.into();
        result.run.scenario = HOSTILE.into();
        result.reports[0].title = HOSTILE.into();
        result.reports[0].call_path[0].function = HOSTILE.into();
        let evidence = Evidence { locks: None, log: HOSTILE.into() };
        let square = Square {
            side: Side::After,
            folder: HOSTILE.into(),
            scenario: HOSTILE.into(),
            outcome: TrialOutcome::Reported,
            why: HOSTILE.into(),
        };
        let parts = Parts {
            about: HOSTILE.into(),
            squares: vec![square],
            evidence: vec![Some(evidence)],
            ..Parts::default()
        };
        let page = page(&result, &parts);
        let scripts: Vec<&str> = page.split("<script").skip(1).collect();
        assert_eq!(scripts, [format!(">{SCRIPT}</script></body></html>")]);
        assert!(!page.contains("<img src=x"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;alert(1)").count(), 7, "{page}");
    }

    #[test]
    fn ten_thousand_trials_fit() {
        let outcome =
            |number: u32| if number.is_multiple_of(3) { TrialOutcome::Reported } else { TrialOutcome::Clean };
        let square = |number: u32| Square {
            side: if number.is_multiple_of(2) { Side::Before } else { Side::After },
            folder: format!("before-{number:04}"),
            scenario: String::new(),
            outcome: outcome(number),
            why: "WARNING in a function with a name of some length".into(),
        };
        let parts = Parts { squares: (0..10_000).map(square).collect(), ..Parts::default() };
        assert!(page(&result(), &parts).len() < 2 << 20);
    }
}
