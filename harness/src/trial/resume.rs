//! Reads what an interrupted harness left of a run: trials that count, attempts that were spoilt,
//! and folders of trials that were cut off.

use std::collections::BTreeSet;
use std::path::Path;

use hotplug_side::Side;

use super::context::{ScenarioOfTrial, TrialPlan};
use super::outcome::TrialRecord;
use super::pool::{Again, RETRIES, Repeated, plan_of};
use crate::scenario::Seed;
use crate::{Error, Result};

/// The trials of one scenario of a run that exist.
#[derive(Debug, Default)]
pub struct PriorTrials {
    /// The number of trials that count.
    pub done: u32,
    /// The trials with numbers below `next` that do not count yet, in their order.
    pub left: Vec<TrialPlan>,
    /// The first number of which no trial ever began.
    pub next: u32,
    /// The attempts that were spoilt and tried again.
    pub repeated: Vec<Repeated>,
    /// The total duration of all trials in seconds, with spoilt ones, each from its beginning to
    /// its end.
    pub seconds: f64,
}

/// Reads the trials of one scenario of a run below `folder`, in the order of their numbers, from
/// `first` on. `each` receives every attempt, the before side's first, the total duration up to and
/// including it in seconds, and whether it was tried again and so does not count. The folder of a trial that was cut off, and so has
/// no record, is removed.
pub fn look_back(
    folder: &Path,
    scenario: &ScenarioOfTrial,
    name: &str,
    first: u32,
    seed: Seed,
    mut each: impl FnMut(&TrialRecord, f64, Again),
) -> Result<PriorTrials> {
    let mut names = BTreeSet::new();
    for entry in fs_err::read_dir(folder)? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    let mut past = PriorTrials {
        next: names.iter().filter_map(|name| number(name, scenario)).max().map_or(first, |n| n + 1),
        ..PriorTrials::default()
    };
    // The trials are read in another order than they run: before always comes first.
    let mut plans: Vec<(usize, TrialPlan)> =
        plan_of(scenario.clone(), first..past.next, seed).enumerate().collect();
    plans.sort_by_key(|(_, plan)| (plan.number, plan.side));
    let mut left = Vec::new();
    for (place, plan) in plans {
        let mut tell = |mut record: TrialRecord, seconds: f64, again: Again| {
            // A record of an older version lacks the name.
            name.clone_into(&mut record.scenario);
            each(&record, seconds, again);
        };
        match last_attempt(folder, plan, &mut past, &mut tell)? {
            None => past.done += 1,
            Some(plan) => left.push((place, plan)),
        }
    }
    left.sort_by_key(|(place, _)| *place);
    past.left = left.into_iter().map(|(_, plan)| plan).collect();
    Ok(past)
}

/// The number in the name of a trial's folder: 3 in `before-003` and in `before-003-again1`. None
/// for a trial of another scenario.
fn number(folder: &str, scenario: &ScenarioOfTrial) -> Option<u32> {
    let name = folder.strip_prefix(scenario.folder("").as_str())?;
    let (side, rest) = name.split_once('-')?;
    let is_side = Side::BOTH.iter().any(|one| one.to_string() == side);
    is_side.then(|| rest.split('-').next()?.parse().ok()).flatten()
}

/// Reads the attempts of `plan`. Returns the next one, if none counts.
fn last_attempt(
    folder: &Path,
    mut plan: TrialPlan,
    past: &mut PriorTrials,
    each: &mut impl FnMut(TrialRecord, f64, Again),
) -> Result<Option<TrialPlan>> {
    loop {
        let dir = folder.join(plan.folder());
        let Some(record) = read(&dir, &plan)? else {
            if dir.exists() {
                fs_err::remove_dir_all(&dir)?;
            }
            return Ok(Some(plan));
        };
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a trial")]
        let seconds = record.ended.0.saturating_sub(record.taken.0) as f64 / 1e6;
        past.seconds += seconds;
        if !record.is_spoilt() || plan.attempt >= RETRIES {
            each(record, past.seconds, Again::No);
            return Ok(None);
        }
        past.repeated.push(Repeated::of(&record));
        each(record, past.seconds, Again::Yes);
        plan.attempt += 1;
    }
}

/// The record in `dir`, if there is one. It is written as a whole, as the last file of a trial.
fn read(dir: &Path, plan: &TrialPlan) -> Result<Option<TrialRecord>> {
    let path = dir.join("trial.json");
    let text = match fs_err::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let foreign = |why: &dyn std::fmt::Display| {
        Error::user(format!("{} is not a record of this run: {why}", path.display()))
            .help("continue with the version of hotplug that began the run, or remove the trial's folder to have it run anew")
    };
    let record: TrialRecord = serde_json::from_slice(&text).map_err(|error| foreign(&error))?;
    if (record.side, record.number, record.seed) == (plan.side, plan.number, plan.seed) {
        Ok(Some(record))
    } else {
        Err(foreign(&format!("it is of trial {}-{:03}, seed {}", record.side, record.number, record.seed.0)))
    }
}
