//! The latency part of `result.json`.

use hotplug_side::Sides;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::spread::Spread;
use crate::scenario::{Clock, ClockSource, Span};
use crate::text::probability;
use crate::unavailable::Unavailable;

/// The latency part of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// Why nothing was timed or judged; the rest is then empty.
    pub none: Option<Unavailable>,
    /// The clock of all samples.
    pub clock: Clock,
    /// Boots of each kernel that have samples.
    pub boots: Sides<u32>,
    /// Trials that have samples.
    pub trials: Sides<u32>,
    /// Trials whose samples are left out because they reported, panicked, hung or failed otherwise.
    pub left_out: Sides<u32>,
    /// Why the first of them is left out.
    pub left_out_why: Option<String>,
    /// Whether trials with reports were included, at the user's request.
    pub despite_reports: bool,
    /// The metrics, in the scenario's order.
    pub metrics: Vec<MetricResult>,
    /// The parts of all operations, for the reader.
    #[serde(default)]
    pub phases: Vec<PhaseResult>,
    /// The victims: ordinary work that was timed meanwhile.
    #[serde(default)]
    pub victims: Vec<VictimResult>,
}

/// The times of one part of an operation, over all trials. They do not affect the verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseResult {
    /// The part.
    pub part: Span,
    /// The clock that times it.
    pub teller: ClockSource,
    /// The distribution of its times.
    pub spread: Sides<Option<Spread>>,
}

/// The loops of one victim, over all trials.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VictimResult {
    /// Its name.
    pub name: String,
    /// The distribution of its times. With a rate, it is corrected for the loops that a long loop
    /// delayed.
    pub spread: Sides<Option<Spread>>,
    /// The longest loop.
    pub worst: Sides<Option<Stall>>,
    /// Loops without a stored time, because there were too many.
    pub untold: Sides<u64>,
}

/// A loop that took long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stall {
    /// Its duration, in nanoseconds.
    pub nanoseconds: u64,
    /// The boot, and the trial's number in it.
    pub boot: u32,
    /// See `boot`.
    pub trial: u32,
    /// The traced function that ran most of that time.
    pub meanwhile: Option<String>,
}

/// The result of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricResult {
    /// Its name, as formatted by [`crate::scenario::Metric`].
    pub name: String,
    /// Why it is not judged; the rest is then empty.
    pub none: Option<Unavailable>,
    /// Samples of all boots.
    pub samples: Sides<u32>,
    /// Their distribution.
    #[serde(default)]
    pub spread: Sides<Option<Spread>>,
    /// The time of each boot: the median of its samples, in nanoseconds.
    pub boots: Sides<Vec<f64>>,
    /// The geometric mean over the boots, in nanoseconds.
    pub typical: Sides<f64>,
    /// The variation between boots: their standard deviation divided by their mean.
    pub variation: Sides<Option<f64>>,
    /// The after mean divided by the before mean.
    pub ratio: f64,
    /// The 95 % interval of the ratio.
    pub interval: (f64, f64),
    /// The probability of a difference of this size by chance.
    pub p: f64,
    /// The same, corrected for the number of metrics.
    pub p_corrected: f64,
    /// The largest change that does not matter: the larger of the relative and the absolute floor,
    /// as a share.
    pub floor: f64,
    /// The verdict on this metric.
    pub told: Option<MetricVerdict>,
    /// If it is inconclusive: the number of boots a side that would probably decide it; null if no
    /// number would.
    pub boots_to_tell: Option<u32>,
}

/// The verdict on one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MetricVerdict {
    /// The patch makes it faster, beyond chance and the floors.
    Faster,
    /// The patch makes it slower, beyond chance and the floors.
    Slower,
    /// It differs by less than the floor, beyond chance.
    NoChange,
    /// The boots do not decide.
    CannotTell,
}

impl MetricResult {
    /// Formats the change as `offline_pages +1.04 %, p = 0.0079`.
    pub fn in_short(&self) -> String {
        let change = (self.ratio - 1.0) * 100.0;
        format!("{} {change:+.*} %, p = {}", self.name, self.decimals(), probability(self.p))
    }

    /// The decimals of a percentage, as fine as the floor.
    pub(crate) fn decimals(&self) -> usize {
        if self.floor < 0.01 { 2 } else { 1 }
    }

    pub(super) fn unjudged(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            none: None,
            samples: Sides::default(),
            spread: Sides::default(),
            boots: Sides::default(),
            typical: Sides::default(),
            variation: Sides::default(),
            ratio: 1.0,
            interval: (1.0, 1.0),
            p: 1.0,
            p_corrected: 1.0,
            floor: 0.0,
            told: None,
            boots_to_tell: None,
        }
    }
}

impl Latency {
    /// The result if nothing was timed, with the reason.
    pub fn none(why: Unavailable) -> Self {
        Self { none: Some(why), ..Self::default() }
    }

    /// The metrics with this verdict.
    pub fn told(&self, what: MetricVerdict) -> impl Iterator<Item = &MetricResult> {
        self.metrics.iter().filter(move |metric| metric.told == Some(what))
    }
}
