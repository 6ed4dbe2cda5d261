//! Earlier runs of the scenario: their verdicts, their findings, and the trend of the timed
//! metrics.

use maud::{Markup, html};

use crate::drawing::scale::{Scale, px};
use crate::history::{Bug, MetricSeries, RunRow, changes};
use crate::present::history::{day, minute, rate, what};
use crate::text::nanoseconds;
use crate::text::probability;

/// The size of a plot, in pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 120.0;
/// The vertical range of the values.
const TOP: f64 = 24.0;
const BOTTOM: f64 = 96.0;

/// The history of a run's scenario.
#[derive(Debug, Default)]
pub struct ScenarioHistory {
    /// Its runs, latest first, including this one.
    pub runs: Vec<RunRow>,
    /// The findings of these runs.
    pub bugs: Vec<Bug>,
    /// The metrics of this run in all runs, for kernels without patches.
    pub series: Vec<MetricSeries>,
}

pub(super) fn section(past: &ScenarioHistory, this: &str) -> Markup {
    if past.runs.iter().all(|run| run.id == this) {
        return html! {};
    }
    html! {
        section aria-labelledby="past" {
            h2 id="past" { "Earlier runs of this scenario" }
            @for (place, series) in past.series.iter().enumerate() {
                (trend(series))
                // It is usually the same for all metrics, and printed once.
                @if past.series.get(place + 1).is_none_or(|next| next.ground != series.ground) { p.soft { (series.ground) } }
            }
            @if !past.bugs.is_empty() {
                div.wide tabindex="0" {
                    table {
                        caption { "What they found" }
                        thead { tr { th { "first seen" } th { "last seen" } th.number { "runs" } th.number { "before" } th.number { "after" } th { "finding" } } }
                        tbody {
                            @for bug in &past.bugs {
                                tr {
                                    td.when { (day(&bug.first)) } td.when { (day(&bug.last)) } td.number { (bug.runs) }
                                    td.number { (rate(bug.before)) } td.number { (rate(bug.after)) } td { (bug.title) }
                                }
                            }
                        }
                    }
                }
            }
            details {
                summary { "the last " (past.runs.len()) " runs" }
                div.wide tabindex="0" {
                    table {
                        thead { tr { th { "run of" } th { "verdict" } th.number { "trials" } th { "what" } } }
                        tbody {
                            @for run in &past.runs {
                                tr {
                                    td.when { (minute(&run.started)) @if run.id == this { " (this one)" } }
                                    td { (run.verdict.as_deref().unwrap_or("none")) }
                                    td.number { (run.trials.0) " + " (run.trials.1) }
                                    td { (what(run)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The values of a metric in each run, and the changes of its level.
fn trend(series: &MetricSeries) -> Markup {
    let values: Vec<f64> = series.points.iter().map(|(_, nanoseconds)| *nanoseconds).collect();
    let ([first, .., last], changes) = (values.as_slice(), changes(&values)) else { return html! {} };
    let scale = Scale::of(values.iter().copied());
    #[expect(clippy::cast_precision_loss, reason = "runs are few")]
    let x = |place: usize| 12.0 + place as f64 / (values.len() - 1) as f64 * (WIDTH - 24.0);
    let y = |value: f64| BOTTOM - scale.part(value) * (BOTTOM - TOP);
    let line: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(place, value)| format!("{},{}", px(x(place)), px(y(*value))))
        .collect();
    let label = format!(
        "{} without a patch in {} runs: {} at first, {} at last, {} changes of level",
        series.metric,
        values.len(),
        nanoseconds(*first),
        nanoseconds(*last),
        changes.len()
    );
    html! {
        h3 { (series.metric) ", without a patch" }
        svg.plot role="img" aria-label=(label) viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } width=(WIDTH) height=(HEIGHT) {
            @for change in &changes { line.report x1=(px(x(change.at))) x2=(px(x(change.at))) y1="8" y2=(BOTTOM + 6.0) {} }
            polyline.trend points=(line.join(" ")) {}
            @for (place, (run, value)) in series.points.iter().enumerate() {
                circle.before cx=(px(x(place))) cy=(px(y(*value))) r="3.5" { title { (run) ": " (nanoseconds(*value)) } }
            }
            text.faint x="8" y="16" { (nanoseconds(scale.greatest)) }
            text.faint x="8" y="114" { (nanoseconds(scale.least)) }
            text.faint x=(WIDTH - 8.0) y="114" text-anchor="end" { (values.len()) " runs" }
        }
        @for change in &changes {
            p { (format!("{:+.1} %", (change.ratio - 1.0) * 100.0)) " since " code { (series.points[change.at].0) } ", p = " (probability(change.p)) }
        }
    }
}
