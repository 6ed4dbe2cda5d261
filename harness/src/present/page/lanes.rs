//! A trial on one axis of time: each lane's operations, their phases, and when the kernel reported.

use maud::{Markup, html};

use super::scale::px;
use crate::present::word;
use crate::trial::{OperationRecord, Outcome, TrialRecord};

/// Of the drawing, pixels.
const WIDTH: f64 = 1000.0;
/// Left of the axis, for the lanes' names.
const NAMES: f64 = 130.0;
/// Of the axis.
const AXIS: f64 = WIDTH - NAMES - 10.0;
/// Parts the axis is divided in.
const TICKS: u32 = 5;
/// Of an operation.
const ROW: f64 = 16.0;
/// Operations that are drawn; a trial of random moves may have hundreds.
const MOST: usize = 200;

pub(super) fn drawing(trial: &TrialRecord) -> Markup {
    let operations: Vec<&OperationRecord> = trial.operations.iter().take(MOST).collect();
    if operations.is_empty() {
        return html! { p { "No operation began." } };
    }
    let begin = operations.iter().map(|operation| operation.asked.0).min().unwrap_or(0);
    let end = trial.ended.0.max(begin + 1);
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a trial")]
    let x = |at: u64| at.saturating_sub(begin) as f64 / (end - begin) as f64 * AXIS;
    let mut lanes: Vec<&str> = Vec::new();
    for operation in &operations {
        if !lanes.contains(&operation.lane.as_str()) {
            lanes.push(&operation.lane);
        }
    }
    // Of one lane several may be in flight: each operation has a row of its own.
    let mut rows: Vec<(&str, &OperationRecord)> = Vec::new();
    for lane in &lanes {
        rows.extend(operations.iter().filter(|one| one.lane == *lane).map(|one| (*lane, *one)));
    }
    #[expect(clippy::cast_precision_loss, reason = "at most 200 rows")]
    let y = |row: usize| 28.0 + row as f64 * ROW;
    let height = y(rows.len()) + 10.0;
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a trial")]
    let seconds = (end - begin) as f64 / 1e6;
    let label = format!("{} operations in {} lanes over {seconds:.2} s", operations.len(), lanes.len());
    html! {
        div.timeline {
            svg.lanes role="img" aria-label=(label) viewBox={ "0 0 " (WIDTH) " " (px(height)) } width=(WIDTH) height=(px(height)) {
                @for (row, (lane, _)) in rows.iter().enumerate() {
                    @if row == 0 || rows[row - 1].0 != *lane { text x="4" y=(px(y(row) + 11.0)) { (short(lane)) } }
                }
                // What lies on the axis of time, which the script stretches, is cut off where the names are.
                svg.time x=(NAMES) y="0" width=(AXIS) height=(px(height)) data-seconds=(format!("{seconds:.6}")) {
                    @for tick in 0..=TICKS {
                        @let at = f64::from(tick) / f64::from(TICKS);
                        line.axis x1=(px(at * AXIS)) x2=(px(at * AXIS)) y1="20" y2=(px(height)) {}
                        text.faint.tick x=(px(at * AXIS)) y="14" text-anchor=(anchor(tick)) { (format!("{:.2} s", at * seconds)) }
                    }
                    @for (row, (_, operation)) in rows.iter().enumerate() {
                        @let from = x(operation.asked.0);
                        @let to = x(operation.ended.map_or(end, |at| at.0));
                        @let class = if operation.outcome == Outcome::Done { "done" } else { "not-done" };
                        @let is_late = from > AXIS * 0.8;
                        g.operation {
                            title { (operation.operation) ": " (how(&operation.outcome)) (times(operation, begin)) }
                            rect class=(class) x=(px(from)) y=(px(y(row) + 1.0)) width=(px((to - from).max(1.5))) height=(px(ROW - 3.0)) {}
                            @for (_, at) in &operation.phases { line.phase x1=(px(x(at.0))) x2=(px(x(at.0))) y1=(px(y(row) + 1.0)) y2=(px(y(row) + ROW - 2.0)) {} }
                            text.faint x=(px(if is_late { from - 4.0 } else { to + 4.0 })) y=(px(y(row) + 11.0)) text-anchor=(if is_late { "end" } else { "start" }) { (operation.operation) }
                        }
                    }
                    @for seen in &trial.reports {
                        @if let Some(at) = seen.at {
                            line.report x1=(px(x(at.0))) x2=(px(x(at.0))) y1="20" y2=(px(height)) { title { (seen.first.title) } }
                        }
                    }
                }
            }
        }
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

fn anchor(tick: u32) -> &'static str {
    match tick {
        0 => "start",
        TICKS => "end",
        _ => "middle",
    }
}

/// When it was asked for, when it came how far, when it ended.
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

fn short(lane: &str) -> String {
    crate::present::harmless(lane, 15)
}

fn how(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "done".into(),
        Outcome::RefusedByGuest { how } => format!("refused by the guest: {how}"),
        Outcome::FailedInQemu { error } => format!("refused by QEMU: {error}"),
        Outcome::TimedOut => "never ended".into(),
        Outcome::Skipped { why } => format!("not asked for: {why}"),
        Outcome::CutOff => "cut off".into(),
    }
}
