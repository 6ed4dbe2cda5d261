//! Rows of bars on a time axis, which the script of the page can zoom.

use maud::{Markup, html};

use super::scale::px;

/// Width of the drawing, in pixels.
const WIDTH: f64 = 1000.0;
/// Width of the names of rows, left of the axis.
const NAMES: f64 = 176.0;
/// Longest name, in characters.
const NAME: usize = 23;
/// Width of the axis.
const AXIS: f64 = WIDTH - NAMES - 10.0;
/// The number of parts that the ticks divide the axis into.
const TICKS: u32 = 5;
/// Height of a row.
const ROW: f64 = 16.0;

/// The content of the drawing. All times are microseconds of one clock.
#[derive(Debug, Default)]
pub(crate) struct Axis {
    /// The description for screen readers.
    pub(crate) label: String,
    /// The start and the end of the axis.
    pub(crate) begin: f64,
    pub(crate) end: f64,
    pub(crate) rows: Vec<Row>,
    /// Points in time that are marked across all rows, with their text.
    pub(crate) moments: Vec<(f64, String)>,
}

#[derive(Debug, Default)]
pub(crate) struct Row {
    /// The name, empty if the row continues the one above.
    pub(crate) name: String,
    pub(crate) bars: Vec<Bar>,
}

/// A bar, from a start to an end.
#[derive(Debug)]
pub(crate) struct Bar {
    /// Its tooltip: what it is, its start and its duration.
    pub(crate) title: String,
    /// The CSS class: `done`, `not-done`, `call`, `loop` or `stall`.
    pub(crate) class: &'static str,
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// Points in time inside the bar.
    pub(crate) marks: Vec<f64>,
    /// The text beside the bar.
    pub(crate) words: Option<String>,
}

pub(crate) fn drawing(axis: &Axis) -> Markup {
    let Axis { label, begin, end, rows, moments } = axis;
    let x = |at: f64| (at - begin).max(0.0) / (end - begin).max(1.0) * AXIS;
    #[expect(clippy::cast_precision_loss, reason = "rows are some hundreds")]
    let y = |row: usize| 28.0 + row as f64 * ROW;
    let height = y(rows.len()) + 10.0;
    let seconds = (end - begin) / 1e6;
    html! {
        div.timeline {
            svg.lanes role="img" aria-label=(label) viewBox={ "0 0 " (WIDTH) " " (px(height)) } width=(WIDTH) height=(px(height)) {
                @for (row, Row { name, .. }) in rows.iter().enumerate() {
                    @if !name.is_empty() { text x="4" y=(px(y(row) + 11.0)) { (crate::text::harmless(name, NAME)) title { (name) } } }
                }
                // The contents of the time axis, which the script zooms, are clipped at the names.
                svg.time x=(NAMES) y="0" width=(AXIS) height=(px(height)) data-seconds=(format!("{seconds:.6}")) {
                    @for tick in 0..=TICKS {
                        @let at = f64::from(tick) / f64::from(TICKS);
                        line.axis x1=(px(at * AXIS)) x2=(px(at * AXIS)) y1="20" y2=(px(height)) {}
                        text.faint.tick x=(px(at * AXIS)) y="14" text-anchor=(anchor(tick)) { (format!("{:.2} s", at * seconds)) }
                    }
                    @for (row, Row { bars, .. }) in rows.iter().enumerate() {
                        @for bar in bars {
                            @let (from, to) = (x(bar.from), x(bar.to));
                            g.operation {
                                title { (bar.title) }
                                rect class=(bar.class) x=(px(from)) y=(px(y(row) + 1.0)) width=(px((to - from).max(1.5))) height=(px(ROW - 3.0)) {}
                                @for at in &bar.marks { line.phase x1=(px(x(*at))) x2=(px(x(*at))) y1=(px(y(row) + 1.0)) y2=(px(y(row) + ROW - 2.0)) {} }
                                @if let Some(words) = &bar.words {
                                    @let is_late = from > AXIS * 0.8;
                                    text.faint x=(px(if is_late { from - 4.0 } else { to + 4.0 })) y=(px(y(row) + 11.0)) text-anchor=(if is_late { "end" } else { "start" }) { (words) }
                                }
                            }
                        }
                    }
                    @for (at, words) in moments {
                        line.report x1=(px(x(*at))) x2=(px(x(*at))) y1="20" y2=(px(height)) { title { (words) } }
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
