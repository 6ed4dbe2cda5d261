//! The scenario of a forecast: the cheapest trials that together show all of it, one after the other.

use std::collections::BTreeMap;

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

/// A trial that shows a part of a forecast.
struct Candidate {
    /// What its guest did, in order.
    scenarios: Vec<Scenario>,
    /// What it adds to a guest's work.
    cost: usize,
}

/// The trials that show a part of a forecast, by their folders below the run's.
type Candidates<'a> = BTreeMap<&'a str, Candidate>;

/// The cheapest trials that together show all of a forecast, and the scenario that does what they did,
/// one after the other. The inner error is the reason why there is none.
pub(super) fn cheapest(
    prepared: &Prepared,
    forecast: &Forecast,
) -> Result<std::result::Result<(Vec<String>, Scenario), String>> {
    let names = forecast.parts.iter().flatten();
    let all: Candidates<'_> =
        names.map(|name| Ok((name.as_str(), candidate(prepared, name)?))).collect::<Result<_>>()?;
    let mut why = "no trial shows a part of it".to_owned();
    for names in choices(&all, forecast) {
        let scenarios: Vec<&Scenario> = names.iter().flat_map(|name| &all[name].scenarios).collect();
        if scenarios.len() > JOINED {
            why = format!("its guests took {} trials; with --rounds 1 they are fewer", scenarios.len());
            continue;
        }
        match Scenario::one_after_the_other(scenarios.into_iter().cloned()) {
            Ok(Some(joined)) => return Ok(Ok((names.into_iter().map(str::to_owned).collect(), joined))),
            Ok(None) => {}
            Err(reason) => why = reason,
        }
    }
    Ok(Err(why))
}

/// The choices of a trial for each part, the cheapest first. One trial may be that of several parts.
fn choices<'a>(all: &Candidates<'_>, forecast: &'a Forecast) -> Vec<Vec<&'a str>> {
    let mut chosen: Vec<(usize, Vec<&str>)> = vec![(0, Vec::new())];
    for part in &forecast.parts {
        let mut longer = Vec::new();
        for (cost, names) in &chosen {
            for name in part.iter().map(String::as_str) {
                if names.contains(&name) {
                    longer.push((*cost, names.clone()));
                } else {
                    longer.push((cost + all[name].cost, [names.as_slice(), &[name]].concat()));
                }
            }
        }
        longer.sort();
        longer.dedup();
        longer.truncate(CHOICES);
        chosen = longer;
    }
    chosen.into_iter().map(|(_, names)| names).collect()
}

/// Reads a trial. A load weighs more than an operation: it goes on while the guest does what the other
/// trials did.
fn candidate(prepared: &Prepared, name: &str) -> Result<Candidate> {
    const LOAD: usize = 10;
    let last = record(prepared, name)?;
    let scenario = scenario(prepared, &last)?;
    let batches = last.schedule.lanes.iter().flat_map(|lane| &lane.batches);
    let operations: usize = batches.map(|batch| batch.operations.len()).sum();
    let mut scenarios = Vec::new();
    // The lock order is that of all trials of the guest. Those of a scenario without random lanes do the
    // same operations.
    if scenario.random.is_some() {
        for earlier in &last.earlier {
            let earlier = record(prepared, &format!("trials/{earlier}"))?;
            scenarios.push(flatten(scenario, &earlier.schedule));
        }
    }
    scenarios.push(flatten(scenario, &last.schedule));
    Ok(Candidate { scenarios, cost: operations + LOAD * scenario.guest.load.len() })
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
