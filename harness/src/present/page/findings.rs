//! The findings: the number of trials on each side, the cycle of locks, the call path, and the
//! kernel's own text.

use hotplug_kreport::Locks;
use maud::{Markup, html};

use crate::compare::{Class, Finding};
use crate::present::cases::call_path;
use crate::record::RunResult;

/// The evidence for a finding from its example trial.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The locks in lockdep's report.
    pub locks: Option<Locks>,
    /// The report's lines of the kernel log.
    pub log: String,
}

pub(super) fn section(result: &RunResult, evidence: &[Option<Evidence>]) -> Markup {
    html! {
        @if result.reports.is_empty() { p { "Nothing was reported, by either kernel." } }
        @for (place, finding) in result.reports.iter().enumerate() {
            (card(finding, evidence.get(place).and_then(Option::as_ref), result))
        }
    }
}

fn card(finding: &Finding, evidence: Option<&Evidence>, result: &RunResult) -> Markup {
    // The evidence of a single finding is what a reader has come for.
    let is_alone = result.reports.len() == 1;
    let (word, class) = match (&finding.known, finding.class) {
        (Some(_), _) => ("known", "known"),
        (None, Class::New) => ("new", "new"),
        (None, Class::Fixed) => ("fixed", "fixed"),
        (None, Class::Common) => ("on both sides", "common"),
    };
    let ring = evidence.and_then(|evidence| evidence.locks.as_ref());
    html! {
        article class={ "card " (class) } {
            h3 { (word) ": " (finding.title) }
            p {
                "Before in " strong { (finding.before) } " trials, after in " strong { (finding.after) } ", " (finding.certainty())
                @if !finding.decided { " (may be chance)" }
                @if !finding.during.is_empty() { "; during " (finding.during) }
                @if finding.times > 1 { "; up to " (finding.times) " times a trial" }
                "."
            }
            @if result.has_several_scenarios() {
                p {
                    "Scenarios: "
                    @for (place, seen) in finding.scenarios.iter().enumerate() {
                        @if place > 0 { "; " }
                        (seen.scenario) " " (seen.before) " before, " (seen.after) " after"
                    }
                    "."
                }
            }
            @if let Some(reason) = &finding.known { p { "Known: " (reason) } }
            @if let Some(locks) = ring.filter(|locks| !locks.cycle.is_empty()) {
                p { "Each lock was taken while the one before it was held, and the first while the last was:" }
                ol.ring { @for lock in &locks.cycle { li.mono { (lock.class) @if lock.subclass > 0 { "/" (lock.subclass) } } } }
            }
            @let path = call_path(finding);
            @if !path.is_empty() {
                details open[is_alone || path.len() <= 16] {
                    summary { "call path, innermost first (" (path.len()) " frames)" }
                    pre tabindex="0" { (path.join("\n")) }
                }
            }
            @if let Some(evidence) = evidence.filter(|evidence| !evidence.log.is_empty()) {
                details open[is_alone] {
                    summary { "as the console prints it; raw in " code { (finding.example) "/kmsg.log" } }
                    pre.copy tabindex="0" { (evidence.log) }
                }
            }
            p.soft { "Signature " code { (finding.signature) } " " code { (finding.key) } "; first seen in " code { (finding.example) } }
        }
    }
}
