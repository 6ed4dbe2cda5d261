//! Tries the forecast deadlocks of a comparison. Lockdep reports a deadlock as soon as one guest has
//! taken its locks in both orders, at whatever times. So a guest that does what each half of a
//! forecast did is enough. Each forecast that only the after kernel has is a comparison itself, in a
//! scenario that joins the trials that showed its parts.

use std::path::Path;

use hotplug_lockorder::Forecast;
use hotplug_side::Side;
use maud::{Markup, html};

use super::compare_inner;
use crate::analysis::{Analysis, Kernels, Prepared};
use crate::compare::{ForecastOutcome, Judgement, TriedForecast, TriedForecasts, Verdict, Weight};
use crate::conclusion::{Case, CaseOutcome, Conclusion, Conclusions, LONGEST, labelled};
use crate::environment::Env;
use crate::error::ErrorKind;
use crate::events::Labelled;
use crate::files::{read_json_if_there, write_whole};
use crate::kernel::KernelPair;
use crate::scenario::{Scenario, flatten};
use crate::spec::{AnalysesSpec, ComparisonSpec, RunningSpec, ScenarioChoice, TrialsSpec};
use crate::text::harmless;
use crate::trial::TrialRecord;
use crate::unavailable::Unavailable;
use crate::{Error, Result};

/// The most forecasts that are tried.
const TRIED: usize = 3;

/// The trials of each kernel. If all after trials and no before trial show the deadlock, its p is
/// 0.00016.
const TRIALS: u32 = 8;

/// No trial of a forecast begins after this many seconds of its trials.
const SECONDS: f64 = 120.0;

/// The most trials that one scenario joins.
const JOINED: usize = 4;

/// The most scenarios that are made to find one that a machine has room for.
const CHOICES: usize = 64;

/// The folder of the forecasts, below the run's folder.
const FOLDER: &str = "forecasts";

pub(crate) struct ForecastAnalysis;

impl Analysis for ForecastAnalysis {
    type Conclusion = TriedForecasts;

    const NAME: &'static str = "forecasts";

    fn kernels(prepared: &Prepared) -> Vec<Kernels> {
        let is_same = prepared.kernels.before.image_hash == prepared.kernels.after.image_hash;
        if is_same { Vec::new() } else { vec![Kernels::Judged] }
    }

    async fn conclude(
        prepared: &Prepared,
        _: &mut Judgement,
        so_far: &Conclusions,
        env: &Env<'_>,
    ) -> Result<Option<TriedForecasts>> {
        let known = so_far.lock_order.as_ref().map_or(&[][..], |order| &order.forecast);
        let of_patch: Vec<&Forecast> = known.iter().filter(|one| is_of_patch(one, known)).collect();
        if of_patch.is_empty() || Self::kernels(prepared).is_empty() {
            return Ok(None);
        }
        env.note(Self::NAME, "runs guests that do all parts of a forecast deadlock");
        let more = u32::try_from(of_patch.len().saturating_sub(TRIED)).unwrap_or(u32::MAX);
        let mut all = TriedForecasts { forecasts: Vec::new(), more };
        for (number, forecast) in (1..).zip(of_patch.into_iter().take(TRIED)) {
            let (trials, outcome) = match Box::pin(tried(prepared, forecast, number, env)).await {
                Ok(tried) => tried,
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => (Vec::new(), not_tried(error.in_one_line())),
            };
            all.forecasts.push(TriedForecast {
                danger: forecast.danger,
                locks: forecast.locks.clone(),
                trials,
                outcome,
            });
        }
        Ok(Some(all))
    }

    fn unavailable(_: &Prepared, _: Unavailable) -> Option<TriedForecasts> {
        None
    }
}

/// Whether only the after kernel has this forecast.
fn is_of_patch(forecast: &Forecast, all: &[Forecast]) -> bool {
    let same = |other: &&Forecast| other.danger == forecast.danger && other.locks == forecast.locks;
    forecast.side == Side::After && !all.iter().filter(same).any(|other| other.side == Side::Before)
}

fn not_tried(why: String) -> ForecastOutcome {
    ForecastOutcome::NotTried { why: Unavailable::because(why) }
}

/// Compares the kernels in a scenario that does everything that the forecast consists of. Also
/// returns the trials that the scenario joins.
async fn tried(
    prepared: &Prepared,
    forecast: &Forecast,
    number: u32,
    env: &Env<'_>,
) -> Result<(Vec<String>, ForecastOutcome)> {
    let (trials, mut joined) = match cheapest(prepared, forecast)? {
        Ok(found) => found,
        Err(why) => return Ok((Vec::new(), not_tried(why))),
    };
    joined.name = format!("forecast-{number}");
    joined.trials = TRIALS;
    joined.about = harmless(&format!("everything that a forecast consists of: {}", title(forecast)), 160);
    let below = format!("{FOLDER}/{number}");
    let folder = prepared.folder.path().join(&below);
    fs_err::create_dir_all(&folder)?;
    let file = folder.join(format!("{}.toml", joined.name));
    write_whole(&file, format!("{}{}", head(forecast, &trials), joined.to_toml()).as_bytes())?;
    let spec = ComparisonSpec {
        kernels: prepared.run.spec.kernels.clone(),
        built: Some(Box::new(KernelPair {
            before: prepared.kernels.before.clone(),
            after: prepared.kernels.after.clone(),
        })),
        scenarios: ScenarioChoice::one(Some(file)),
        trials: TrialsSpec { end: Some(TRIALS), seconds: Some(SECONDS), ..TrialsSpec::default() },
        analyses: AnalysesSpec::none(),
        running: RunningSpec {
            cold: prepared.run.plan.cold,
            workers: u32::try_from(prepared.run.plan.workers).ok(),
            seed: Some(prepared.run.seed.0),
            results: folder,
            known: prepared.run.spec.running.known.clone(),
            known_may_worsen: prepared.run.spec.running.known_may_worsen,
            found: Some(prepared.context().accelerator),
            ..RunningSpec::default()
        },
        ..ComparisonSpec::default()
    };
    let events = Labelled { label: "forecast", events: env.events };
    let finished = compare_inner(&spec, &Env { events: &events, ..*env }).await?;
    let result = finished.result;
    let outcome = ForecastOutcome::Tried {
        scenario: format!("{below}/{}.toml", joined.name),
        run: format!("{below}/{}", finished.folder.id()),
        verdict: result.verdict,
        reason: result.reason,
        after: result.trials.after.trials,
        new: result
            .reports
            .into_iter()
            .filter(|finding| finding.known.is_none() && finding.is_worse())
            .collect(),
    };
    Ok((trials, outcome))
}

/// The cheapest trials that together show all of a forecast, and the scenario that does what they did,
/// one after the other. The inner error is the reason why there is none.
fn cheapest(
    prepared: &Prepared,
    forecast: &Forecast,
) -> Result<std::result::Result<(Vec<String>, Scenario), String>> {
    let mut why = "no trial shows a part of it".to_owned();
    for names in choices(prepared, forecast)? {
        match joined(prepared, &names)? {
            Ok(scenario) => return Ok(Ok((names, scenario))),
            Err(reason) => why = reason,
        }
    }
    Ok(Err(why))
}

/// The choices of a trial for each part, the cheapest first. One trial may be that of several parts.
fn choices(prepared: &Prepared, forecast: &Forecast) -> Result<Vec<Vec<String>>> {
    let mut all: Vec<(usize, Vec<String>)> = vec![(0, Vec::new())];
    for part in &forecast.parts {
        let mut longer = Vec::new();
        for (cost, names) in &all {
            for name in part {
                if names.contains(name) {
                    longer.push((*cost, names.clone()));
                } else {
                    longer.push((
                        cost + cost_of(prepared, name)?,
                        [names.as_slice(), std::slice::from_ref(name)].concat(),
                    ));
                }
            }
        }
        longer.sort();
        longer.dedup();
        longer.truncate(CHOICES);
        all = longer;
    }
    Ok(all.into_iter().map(|(_, names)| names).filter(|names| !names.is_empty()).collect())
}

/// What a trial adds to a guest's work. A load weighs more than an operation: it goes on while the
/// guest does what the other trials did.
fn cost_of(prepared: &Prepared, name: &str) -> Result<usize> {
    const LOAD: usize = 10;
    let record = record(prepared, name)?;
    let batches = record.schedule.lanes.iter().flat_map(|lane| &lane.batches);
    let operations: usize = batches.map(|batch| batch.operations.len()).sum();
    Ok(operations + LOAD * scenario(prepared, &record)?.guest.load.len())
}

/// The scenario that does what these trials did, one after the other. The inner error is the reason
/// why there is none.
fn joined(prepared: &Prepared, names: &[String]) -> Result<std::result::Result<Scenario, String>> {
    let mut records: Vec<TrialRecord> = Vec::new();
    for name in names {
        let last = record(prepared, name)?;
        // The lock order is that of all trials of the guest. Those of a scenario without random lanes
        // do the same operations.
        if scenario(prepared, &last)?.random.is_some() {
            for earlier in &last.earlier {
                records.push(record(prepared, &format!("trials/{earlier}"))?);
            }
        }
        records.push(last);
    }
    if records.len() > JOINED {
        return Ok(Err(format!("its guests took {} trials; with --rounds 1 they are fewer", records.len())));
    }
    let mut all: Option<Scenario> = None;
    for record in &records {
        let next = flatten(scenario(prepared, record)?, &record.schedule);
        all = Some(match all {
            None => next,
            Some(first) => match first.followed_by(next) {
                Ok(both) => both,
                Err(why) => return Ok(Err(why)),
            },
        });
    }
    Ok(all.ok_or_else(|| "no trial shows a part of it".into()))
}

/// The record of a trial, by its folder below the run's.
fn record(prepared: &Prepared, name: &str) -> Result<TrialRecord> {
    let path = prepared.folder.path().join(name).join("trial.json");
    let record = read_json_if_there(&path)?;
    record.ok_or_else(|| Error::infrastructure(format!("{} is missing", path.display())))
}

/// The scenario of a trial.
fn scenario<'a>(prepared: &'a Prepared, record: &TrialRecord) -> Result<&'a Scenario> {
    let mut all = prepared.parts.iter().map(|part| &part.context.scenario);
    let found = all.find(|scenario| scenario.name == record.scenario);
    found.ok_or_else(|| Error::infrastructure(format!("the run has no scenario {}", record.scenario)))
}

/// The head of the scenario's file.
fn head(forecast: &Forecast, trials: &[String]) -> String {
    let trials: Vec<String> = trials.iter().map(|trial| format!("#   {}\n", harmless(trial, 80))).collect();
    format!(
        "# A forecast deadlock of the after kernel: {}.\n# Its parts were seen in these trials, which this scenario repeats one after the other:\n{}",
        title(forecast),
        trials.concat()
    )
}

fn title(forecast: &Forecast) -> String {
    words(&forecast.danger.to_string(), &forecast.locks)
}

fn words(danger: &str, locks: &[String]) -> String {
    let locks: Vec<String> = locks.iter().map(|lock| harmless(lock, 40)).collect();
    harmless(&format!("{danger}: {}", locks.join(" -> ")), 120)
}

impl TriedForecast {
    fn title(&self) -> String {
        words(&self.danger.to_string(), &self.locks)
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
                vec![format!("not tried: {title}"), format!("  {}", harmless(why, 88))]
            }
            ForecastOutcome::Tried { run, scenario, after, reason, new, .. } => {
                let seen = new.iter().map(|finding| {
                    format!("  {} of {} trials: {}", finding.after.seen, finding.after.trials, finding.title)
                });
                let mut lines = Vec::new();
                if !new.is_empty() {
                    lines.push(format!("came true: {title}"));
                    lines.extend(seen.map(|line| harmless(&line, 88)));
                } else if self.was_silent() {
                    lines.push(format!("tried in {after} trials, and nothing came: {title}"));
                } else {
                    lines.push(format!("tried, and not decided: {title}"));
                    lines.push(format!("  {}", harmless(reason, 88)));
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
