//! The latency of each boot, before against after, with the interval of the ratio and the
//! conclusion.

use hotplug_side::Side;
use maud::{Markup, html};

use super::{full, row};
use crate::drawing::scale::{Scale, px};
use crate::latency::{Latency, MetricResult};
use crate::text::nanoseconds;

/// The size of a plot, in pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 84.0;

pub(super) fn metrics(told: &Latency) -> Markup {
    html! {
        p {
            "By the " (told.clock) " clock, " (told.boots.before) " + " (told.boots.after) " boots, "
            (told.trials.before) " + " (told.trials.after) " trials. A dot is the median of a boot, a triangle the geometric mean of all boots."
            @if told.despite_reports { " Trials that reported are among them." }
        }
        @for metric in &told.metrics {
            h3 { (metric.name) }
            p { (row(metric)) }
            @if metric.none.is_none() { (plot(metric)) }
        }
        details { summary { "every boot, percentiles, phases" } pre tabindex="0" { (full(told)) } }
    }
}

fn plot(metric: &MetricResult) -> Markup {
    let scale = Scale::of(metric.boots.before.iter().chain(&metric.boots.after).copied());
    let x = |value: f64| 80.0 + scale.part(value) * (WIDTH - 110.0);
    let label = format!(
        "{}: before {}, after {}",
        metric.name,
        nanoseconds(metric.typical.before),
        nanoseconds(metric.typical.after)
    );
    html! {
        svg.plot role="img" aria-label=(label) viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } width=(WIDTH) height=(HEIGHT) {
            @for (side, y) in [(Side::Before, 22.0), (Side::After, 48.0)] {
                @let class = if side == Side::Before { "before" } else { "after" };
                text x="8" y=(y + 4.0) { (side) }
                line.axis x1="80" x2=(WIDTH - 30.0) y1=(y) y2=(y) {}
                @for boot in metric.boots.of(side) { circle class=(class) cx=(px(x(*boot))) cy=(y) r="4.5" fill-opacity="0.6" { title { (nanoseconds(*boot)) } } }
                @let typical = x(*metric.typical.of(side));
                path class=(class) d=(format!("M {typical:.1} {} l 5 -8 l -10 0 z", y - 5.0)) {}
            }
            text.faint x="80" y="76" { (nanoseconds(scale.least)) }
            text.faint x=(WIDTH - 30.0) y="76" text-anchor="end" { (nanoseconds(scale.greatest)) }
        }
    }
}
