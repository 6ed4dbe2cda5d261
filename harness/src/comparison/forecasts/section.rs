//! The output of the forecasts: what became of each.

use std::path::Path;

use maud::{Markup, html};

use super::TITLE;
use crate::analysis::lock_order::foreseen_title;
use crate::compare::{ForecastOutcome, Judgement, TriedForecast, TriedForecasts, Verdict, Weight};
use crate::conclusion::{Case, CaseOutcome, Conclusion, LONGEST, labelled};
use crate::text::harmless;

/// The longest text of a line below its label, in characters.
const WIDTH: usize = 88;

impl TriedForecast {
    fn title(&self) -> String {
        foreseen_title(self.danger, &self.locks, TITLE)
    }

    /// Whether guests did all of it, and nothing was new.
    fn was_silent(&self) -> bool {
        match &self.outcome {
            ForecastOutcome::NotTried { .. } => false,
            ForecastOutcome::Tried { verdict, new, .. } => {
                new.is_empty() && matches!(verdict, Some(Verdict::Unchanged | Verdict::Fixed))
            }
        }
    }

    /// What became of it, in lines.
    fn lines(&self) -> Vec<String> {
        let title = self.title();
        match &self.outcome {
            ForecastOutcome::NotTried { why } => {
                vec![format!("not tried: {title}"), format!("  {}", harmless(why, WIDTH))]
            }
            ForecastOutcome::Tried { run, scenario, after, reason, new, .. } => {
                let seen = new.iter().map(|finding| {
                    format!("  {} of {} trials: {}", finding.after.seen, finding.after.trials, finding.title)
                });
                let mut lines = Vec::new();
                if !new.is_empty() {
                    lines.push(format!("came true: {title}"));
                    lines.extend(seen.map(|line| harmless(&line, WIDTH)));
                } else if self.was_silent() {
                    lines.push(format!("tried in {after} trials, and nothing came: {title}"));
                } else {
                    lines.push(format!("tried, and not decided: {title}"));
                    lines.push(format!("  {}", harmless(reason, WIDTH)));
                }
                lines.push(format!("  {scenario}, run {run}"));
                lines
            }
        }
    }
}

impl Conclusion for TriedForecasts {
    fn weight(&self, _: &Judgement) -> Weight {
        self.weight()
    }

    fn screen(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.forecasts.iter().flat_map(TriedForecast::lines).collect();
        if self.more > 0 {
            lines.push(format!("{} more are not tried; `hotplug locks` lists them", self.more));
        }
        labelled("forecast", lines)
    }

    fn case(&self) -> Option<Case> {
        let came: Vec<&TriedForecast> =
            self.forecasts.iter().filter(|one| !one.came_true().is_empty()).collect();
        let outcome = if let Some(first) = came.first() {
            let more = came.iter().flat_map(|one| one.lines()).collect();
            CaseOutcome::failed(harmless(&first.title(), LONGEST), more)
        } else if self.forecasts.iter().all(TriedForecast::was_silent) && self.more == 0 {
            CaseOutcome::Passed
        } else {
            CaseOutcome::skipped("not every forecast deadlock was tried to the end")
        };
        Some(Case::new("no forecast deadlock comes true", outcome))
    }

    fn page(&self, _: &Path) -> Markup {
        html! {
            section aria-labelledby="forecasts" {
                h2 id="forecasts" { "Forecast deadlocks" }
                @for one in &self.forecasts {
                    p { (one.title()) "." }
                    pre tabindex="0" { (one.lines().join("\n")) }
                }
                @if self.more > 0 { p { (self.more) " more were not tried." } }
            }
        }
    }
}
