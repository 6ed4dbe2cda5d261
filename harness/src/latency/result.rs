//! What is told of latency: the part of `result.json`.

use hotplug_side::Sides;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::spread::Spread;
use crate::scenario::{Clock, Part, Teller};
use crate::text::probability;

/// The latency part of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// Why nothing was timed or judged; the rest is then empty.
    pub none: Option<String>,
    /// The clock of all samples.
    pub clock: Clock,
    /// Boots of each kernel that have samples.
    pub boots: Sides<u32>,
    /// Trials that have samples.
    pub trials: Sides<u32>,
    /// Trials whose samples are left out because they reported, panicked, hung or went wrong otherwise.
    pub left_out: Sides<u32>,
    /// Why the first of them is.
    pub left_out_why: Option<String>,
    /// Whether trials that reported were taken all the same, as the user asked.
    pub despite_reports: bool,
    /// The metrics, in the scenario's order.
    pub metrics: Vec<MetricResult>,
    /// The parts of all operations, for people.
    #[serde(default)]
    pub phases: Vec<PhaseResult>,
    /// What others felt meanwhile.
    #[serde(default)]
    pub victims: Vec<VictimResult>,
}

/// How long one part of an operation took, over all trials. No verdict is made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseResult {
    /// Which.
    pub part: Part,
    /// Whose clock it is told by.
    pub teller: Teller,
    /// How its times are spread.
    pub spread: Sides<Option<Spread>>,
}

/// What one victim's loops took, over all trials.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VictimResult {
    /// Its name.
    pub name: String,
    /// How its times are spread; with a rate, as if no loop had waited for the one before it.
    pub spread: Sides<Option<Spread>>,
    /// The longest loop.
    pub worst: Sides<Option<Stall>>,
    /// Loops of which no times are kept, because there were too many.
    pub untold: Sides<u64>,
}

/// A loop that took long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stall {
    /// How long, nanoseconds.
    pub nanoseconds: u64,
    /// The boot, and the trial's number in it.
    pub boot: u32,
    /// See `boot`.
    pub trial: u32,
    /// The traced function that ran most of the time meanwhile.
    pub meanwhile: Option<String>,
}

/// What came of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricResult {
    /// As [`crate::scenario::Metric`] writes it.
    pub name: String,
    /// Why it is not judged; the rest is then empty.
    pub none: Option<String>,
    /// Samples of all boots.
    pub samples: Sides<u32>,
    /// How they are spread.
    #[serde(default)]
    pub spread: Sides<Option<Spread>>,
    /// What each boot took: the median of its samples, nanoseconds.
    pub boots: Sides<Vec<f64>>,
    /// The geometric mean over boots, nanoseconds.
    pub typical: Sides<f64>,
    /// Scatter between boots: their standard deviation by their mean.
    pub variation: Sides<Option<f64>>,
    /// After by before.
    pub ratio: f64,
    /// Its interval, at 95 %.
    pub interval: (f64, f64),
    /// How likely a difference like this is by chance.
    pub p: f64,
    /// The same, corrected for the number of metrics.
    pub p_corrected: f64,
    /// What is too little to matter here: the larger of the relative and the absolute floor, as a share.
    pub floor: f64,
    /// What follows.
    pub told: Option<Told>,
    /// Where it is inconclusive: the boots a side that would probably decide it; null where no number would.
    pub boots_to_tell: Option<u32>,
}

/// What follows for one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// The patch makes it faster, beyond chance and the floors.
    Faster,
    /// The patch makes it slower, beyond chance and the floors.
    Slower,
    /// It differs by less than the floor, beyond chance.
    NoChange,
    /// Neither can be shown.
    CannotTell,
}

impl MetricResult {
    /// `offline_pages +1.04 %, p = 0.0079`
    pub fn in_short(&self) -> String {
        let change = (self.ratio - 1.0) * 100.0;
        format!("{} {change:+.*} %, p = {}", self.name, self.decimals(), probability(self.p))
    }

    /// Decimals of a per cent: as fine as the floor.
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
    /// Nothing was timed, and why.
    pub fn none(why: impl Into<String>) -> Self {
        Self { none: Some(why.into()), ..Self::default() }
    }

    /// Those of the metrics of which this was told.
    pub fn told(&self, what: Told) -> impl Iterator<Item = &MetricResult> {
        self.metrics.iter().filter(move |metric| metric.told == Some(what))
    }
}
