//! Tries the forecast deadlocks of a comparison. Lockdep reports a deadlock as soon as one guest has
//! taken its locks in both orders, at whatever times. So a guest that does what each half of a
//! forecast did is enough. Each forecast that only the after kernel has is a comparison itself, in a
//! scenario that joins what the guests did that showed its parts.

mod joined;
mod section;

use hotplug_lockorder::Forecast;
use hotplug_side::Side;

use self::joined::cheapest;
use super::compare_inner;
use crate::Result;
use crate::analysis::lock_order::foreseen_title;
use crate::analysis::{Analysis, Kernels, Prepared};
use crate::atlas::Atlas;
use crate::compare::{Finding, ForecastOutcome, Judgement, TriedForecast, TriedForecasts};
use crate::conclusion::Conclusions;
use crate::environment::Env;
use crate::error::ErrorKind;
use crate::events::Labelled;
use crate::files::write_whole;
use crate::kernel::KernelPair;
use crate::spec::{AnalysesSpec, ComparisonSpec, RunningSpec, ScenarioChoice, TrialsSpec};
use crate::text::harmless;
use crate::unavailable::Unavailable;

/// The most forecasts that are tried.
const TRIED: usize = 3;

/// The trials of each kernel. If all after trials and no before trial show the deadlock, its p is
/// 0.00016.
const TRIALS: u32 = 8;

/// No trial of a forecast begins after this many seconds of its trials.
const SECONDS: f64 = 120.0;

/// The longest title of a forecast, in characters.
const TITLE: usize = 120;

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
        judgement: &mut Judgement,
        so_far: &Conclusions,
        env: &Env<'_>,
    ) -> Result<Option<TriedForecasts>> {
        let known = so_far.lock_order.as_ref().map_or(&[][..], |order| &order.forecast);
        let is_reported = |one: &Forecast| judgement.findings.iter().any(|finding| reports(finding, one));
        let of_patch: Vec<&Forecast> =
            known.iter().filter(|one| is_of_patch(one) && !is_reported(one)).collect();
        if of_patch.is_empty() || Self::kernels(prepared).is_empty() {
            return Ok(None);
        }
        let mut atlases = Vec::new();
        for kernel in [&prepared.kernels.before, &prepared.kernels.after] {
            // The lock order analysis reports an atlas that cannot be used.
            atlases.extend(Atlas::load(env.cache, &kernel.image_hash)?.ok().flatten());
        }
        env.note(Self::NAME, "runs guests that do all parts of a forecast deadlock");
        let more = u32::try_from(of_patch.len().saturating_sub(TRIED)).unwrap_or(u32::MAX);
        let mut all = TriedForecasts { forecasts: Vec::new(), more };
        for (number, forecast) in (1..).zip(of_patch.into_iter().take(TRIED)) {
            let (trials, outcome) = match Box::pin(tried(prepared, &atlases, forecast, number, env)).await {
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

/// Whether a part of it is new in the after kernel.
fn is_of_patch(forecast: &Forecast) -> bool {
    forecast.side == Side::After && forecast.new
}

/// Whether the judged trials reported this very deadlock already. The title of a report names two locks.
fn reports(finding: &Finding, forecast: &Forecast) -> bool {
    let is_named = |lock: &String| finding.title.contains(lock.as_str());
    finding.is_worse() && finding.kind.starts_with("lockdep") && forecast.locks.iter().all(is_named)
}

fn not_tried(why: String) -> ForecastOutcome {
    ForecastOutcome::NotTried { why: Unavailable::because(why) }
}

/// Compares the kernels in a scenario that does everything that the forecast consists of. Also
/// returns the trials that the scenario joins.
async fn tried(
    prepared: &Prepared,
    atlases: &[Atlas],
    forecast: &Forecast,
    number: u32,
    env: &Env<'_>,
) -> Result<(Vec<String>, ForecastOutcome)> {
    let (trials, mut joined) = match cheapest(prepared, atlases, forecast)? {
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

/// The head of the scenario's file.
fn head(forecast: &Forecast, trials: &[String]) -> String {
    let trials: Vec<String> = trials.iter().map(|trial| format!("#   {}\n", harmless(trial, 80))).collect();
    format!(
        "# A forecast deadlock of the after kernel: {}.\n# Its parts were seen in these guests, whose work this scenario repeats one after the other:\n{}",
        title(forecast),
        trials.concat()
    )
}

fn title(forecast: &Forecast) -> String {
    foreseen_title(forecast.danger, &forecast.locks, TITLE)
}
