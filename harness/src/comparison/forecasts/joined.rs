//! The scenario of a forecast: the cheapest trials that together show all of it, one after the other.

use std::collections::BTreeMap;

use hotplug_lockorder::Forecast;

use crate::Result;
use crate::analysis::Prepared;
use crate::atlas::{Atlas, GuestWork};
use crate::scenario::Scenario;

/// The most trials that one scenario joins.
const JOINED: usize = 4;

/// The most scenarios that are made to find one that a machine has room for.
const CHOICES: usize = 64;

/// A guest that shows a part of a forecast.
struct Candidate {
    /// What its guest did, in order.
    scenarios: Vec<Scenario>,
    /// What it adds to a guest's work.
    cost: usize,
}

/// The guests that show a part of a forecast, by their names among its examples.
type Candidates<'a> = BTreeMap<&'a str, Candidate>;

/// The cheapest trials that together show all of a forecast, and the scenario that does what they did,
/// one after the other. The inner error is the reason why there is none.
pub(super) fn cheapest(
    prepared: &Prepared,
    atlases: &[Atlas],
    forecast: &Forecast,
) -> Result<std::result::Result<(Vec<String>, Scenario), String>> {
    let mut work = GuestWork::new(prepared.folder.path(), &prepared.run);
    let names = forecast.parts.iter().flatten();
    let all: Candidates<'_> =
        names.map(|name| Ok((name.as_str(), candidate(&mut work, atlases, name)?))).collect::<Result<_>>()?;
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

/// Reads what a guest did, which a forecast names as an example. A load weighs more than an operation:
/// it goes on while the guest does what the other trials did.
fn candidate(work: &mut GuestWork<'_>, atlases: &[Atlas], example: &str) -> Result<Candidate> {
    const LOAD: usize = 10;
    let known = atlases.iter().find_map(|atlas| atlas.guest(example));
    let scenarios = match known {
        Some(guest) => guest.work()?,
        None => work.of(example.strip_prefix("trials/").unwrap_or(example))?,
    };
    let cost = |scenario: &Scenario| scenario.operations().count() + LOAD * scenario.guest.load.len();
    Ok(Candidate { cost: scenarios.last().map_or(0, cost), scenarios })
}
