//! The scenario of a forecast: the cheapest trials that together show all of it, one after the other.

use hotplug_lockorder::Forecast;

use crate::analysis::Prepared;
use crate::files::read_json_if_there;
use crate::scenario::{Scenario, flatten};
use crate::trial::TrialRecord;
use crate::{Error, Result};

/// The most trials that one scenario joins.
const JOINED: usize = 4;

/// The most scenarios that are made to find one that a machine has room for.
const CHOICES: usize = 64;

/// The cheapest trials that together show all of a forecast, and the scenario that does what they did,
/// one after the other. The inner error is the reason why there is none.
pub(super) fn cheapest(
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
