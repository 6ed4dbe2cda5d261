//! The forecast deadlocks that were tried: whether guests that do all of it run into them.

use hotplug_lockorder::Danger;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::finding::{Count, Finding};
use super::verdict::Verdict;
use super::weight::Weight;
use crate::unavailable::Unavailable;

/// The forecasts of the after kernel that the before kernel does not have, the most plausible first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct TriedForecasts {
    /// The first few.
    pub forecasts: Vec<TriedForecast>,
    /// The number of the others.
    pub more: u32,
}

/// A forecast, and what became of it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TriedForecast {
    /// The kind of deadlock.
    pub danger: Danger,
    /// The locks, each taken under the one before it.
    pub locks: Vec<String>,
    /// Trials that together show all of it, below the run's folder; guests of other runs begin with
    /// `atlas/`.
    pub trials: Vec<String>,
    /// What became of it.
    pub outcome: ForecastOutcome,
}

/// What became of a forecast.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ForecastOutcome {
    /// No guest was made to do all of it.
    NotTried {
        /// The reason.
        why: Unavailable,
    },
    /// Guests of both kernels did what these trials did, one after the other.
    Tried {
        /// Their scenario, a file below the run's folder.
        scenario: String,
        /// Their run, a folder below the run's folder.
        run: String,
        /// Its verdict; null if infrastructure failed.
        verdict: Option<Verdict>,
        /// The reason for it.
        reason: String,
        /// The trials with the patch.
        after: u32,
        /// What only the after kernel showed there, beyond chance.
        new: Vec<Finding>,
    },
}

impl TriedForecast {
    /// What only the after kernel showed when it was tried, beyond chance.
    pub fn came_true(&self) -> &[Finding] {
        match &self.outcome {
            ForecastOutcome::NotTried { .. } => &[],
            ForecastOutcome::Tried { new, .. } => new,
        }
    }
}

impl TriedForecasts {
    /// Everything that the after kernel showed when its forecasts were tried, each with its forecast.
    pub fn came_true(&self) -> impl Iterator<Item = (&TriedForecast, &Finding)> {
        self.forecasts.iter().flat_map(|one| one.came_true().iter().map(move |finding| (one, finding)))
    }

    /// The folder of the first trial that showed what was foreseen, below the run's folder.
    pub fn example(&self) -> Option<String> {
        self.forecasts.iter().find_map(|one| match &one.outcome {
            ForecastOutcome::Tried { run, new, .. } => Some(format!("{run}/{}", new.first()?.example)),
            ForecastOutcome::NotTried { .. } => None,
        })
    }

    /// A forecast that came true is a regression.
    pub fn weight(&self) -> Weight {
        let words = |(_, finding): (&TriedForecast, &Finding)| {
            let Count { seen, trials } = finding.after;
            format!("foreseen, and seen in {seen} of {trials} trials: {}", finding.title)
        };
        let all: Vec<String> = self.came_true().map(words).collect();
        if all.is_empty() { Weight::Nothing } else { Weight::Regression(all.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast(outcome: ForecastOutcome) -> TriedForecasts {
        let locks = vec!["a".to_owned(), "b".to_owned()];
        let one = TriedForecast { danger: Danger::Cycle, locks, trials: Vec::new(), outcome };
        TriedForecasts { forecasts: vec![one], more: 0 }
    }

    #[test]
    fn a_forecast_weighs_once_it_came_true() {
        let why = Unavailable::because("they need different machines");
        assert_eq!(forecast(ForecastOutcome::NotTried { why }).weight(), Weight::Nothing);
        let tried = |new: Vec<Finding>| ForecastOutcome::Tried {
            scenario: "forecasts/1/forecast-1.toml".into(),
            run: "forecasts/1/x".into(),
            verdict: Some(Verdict::Regressed),
            reason: "1 new".into(),
            after: 8,
            new,
        };
        assert_eq!(forecast(tried(Vec::new())).weight(), Weight::Nothing);
        let after = Count { seen: 7, trials: 8 };
        let finding = serde_json::json!({
            "class": "new", "signature": "", "key": "", "kind": "circular", "frames": [], "call_path": [],
            "title": "possible circular locking", "blame": null, "before": Count::default(), "after": after,
            "p": 0.0, "decided": true, "times": 1, "known": null, "during": "", "example": "",
        });
        let finding: Finding = serde_json::from_value(finding).unwrap();
        let words = "foreseen, and seen in 7 of 8 trials: possible circular locking";
        assert_eq!(forecast(tried(vec![finding])).weight(), Weight::Regression(words.into()));
    }
}
