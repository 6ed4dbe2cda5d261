//! A trial on a time axis: the operations of each lane, their phases, and the reports of the
//! kernel.

use maud::{Markup, html};

use crate::drawing::axis::{self, Axis, Bar, Row};
use crate::event_log::OperationOutcome;
use crate::text::word;
use crate::trial::{OperationRecord, TrialRecord};

/// The maximum number of operations that are drawn. A trial of random moves may have hundreds.
const MOST: usize = 200;

pub(super) fn drawing(trial: &TrialRecord) -> Markup {
    let operations: Vec<&OperationRecord> = trial.operations.iter().take(MOST).collect();
    let Some(begin) = operations.iter().map(|operation| operation.asked.0).min() else {
        return html! { p { "No operation began." } };
    };
    html! {
        (axis::drawing(&on_axis(trial, &operations, begin)))
        p.soft { "A bar is an operation, from its request to its end; those in red were not done. The lines in it are its phases: accepted, notified, online or offline, ejected." }
        @if trial.operations.len() > MOST { p.soft { "The first " (MOST) " of " (trial.operations.len()) " operations." } }
        @if !trial.reports.is_empty() {
            p { "Dashed: when the kernel first printed " @for (place, seen) in trial.reports.iter().enumerate() { @if place > 0 { "; " } (seen.first.title) } "." }
        }
        details {
            summary { "as a table, milliseconds of the host's clock" }
            div.wide tabindex="0" {
                table {
                    thead { tr { th { "lane" } th { "operation" } th.number { "asked" } th.number { "took" } th { "phases" } th { "outcome" } } }
                    tbody {
                        @for operation in &operations {
                            tr {
                                td { (operation.lane) } td { (operation.operation) }
                                td.number { (ms(operation.asked.0.saturating_sub(begin))) }
                                td.number { @if let Some(ended) = operation.ended { (ms(ended.0.saturating_sub(operation.asked.0))) } }
                                td { @for (phase, at) in &operation.phases { (word(phase)) " +" (ms(at.0.saturating_sub(operation.asked.0))) " " } }
                                td { (how(&operation.outcome)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn on_axis(trial: &TrialRecord, operations: &[&OperationRecord], begin: u64) -> Axis {
    #[expect(clippy::cast_precision_loss, reason = "below 2^52 us, which are 142 years")]
    let us = |at: u64| at as f64;
    let end = trial.ended.0.max(begin + 1);
    let mut lanes: Vec<&str> = Vec::new();
    for operation in operations {
        if !lanes.contains(&operation.lane.as_str()) {
            lanes.push(&operation.lane);
        }
    }
    // Several operations of one lane may be in flight, so each has a row of its own.
    let mut rows = Vec::new();
    for lane in &lanes {
        let mut name = *lane;
        for operation in operations.iter().filter(|one| one.lane == *lane) {
            let bar = Bar {
                title: format!(
                    "{}: {}{}",
                    operation.operation,
                    how(&operation.outcome),
                    times(operation, begin)
                ),
                class: if operation.outcome == OperationOutcome::Done { "done" } else { "not-done" },
                from: us(operation.asked.0),
                to: us(operation.ended.map_or(end, |at| at.0)),
                marks: operation.phases.iter().map(|(_, at)| us(at.0)).collect(),
                words: Some(operation.operation.to_string()),
            };
            rows.push(Row { name: std::mem::take(&mut name).to_owned(), bars: vec![bar] });
        }
    }
    let seconds = us(end - begin) / 1e6;
    let reports = trial.reports.iter().filter_map(|seen| Some((us(seen.at?.0), seen.first.title.clone())));
    Axis {
        label: format!("{} operations in {} lanes over {seconds:.2} s", operations.len(), lanes.len()),
        begin: us(begin),
        end: us(end),
        rows,
        moments: reports.collect(),
    }
}

/// The times of the request, of each phase, and of the end.
fn times(operation: &OperationRecord, begin: u64) -> String {
    let asked = operation.asked.0;
    let after = |at: u64| ms(at.saturating_sub(asked));
    let phases = operation.phases.iter().map(|(phase, at)| format!(", {} +{}", word(phase), after(at.0)));
    let ended = operation.ended.map(|at| format!(", ended +{}", after(at.0))).unwrap_or_default();
    format!("; asked at {} ms{}{ended} ms", ms(asked.saturating_sub(begin)), phases.collect::<String>())
}

fn ms(us: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a trial")]
    let ms = us as f64 / 1e3;
    format!("{ms:.1}")
}

fn how(outcome: &OperationOutcome) -> String {
    match outcome {
        OperationOutcome::Done => "done".into(),
        OperationOutcome::RefusedByGuest { how } => format!("refused by the guest: {how}"),
        OperationOutcome::FailedInQemu { error } => format!("refused by QEMU: {error}"),
        OperationOutcome::TimedOut => "never ended".into(),
        OperationOutcome::Skipped { why } => format!("not asked for: {why}"),
        OperationOutcome::CutOff => "cut off".into(),
    }
}
