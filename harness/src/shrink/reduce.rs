//! Delta debugging (Zeller and Hildebrandt, 2002): the search tries to remove all parts of a kind
//! at once, then halves, quarters, and finally single ones. A part is removed if the report appears
//! without it.

use super::candidates::{Kind, MACHINE, PAUSES, SCHEDULE};
use crate::Result;
use crate::scenario::Scenario;

/// Reduces `scenario`, and returns the smallest scenario that was found. `gives` tries a candidate
/// and returns whether the candidate shows the report. It is never called twice for one candidate.
/// An error of `gives` ends the search.
pub async fn reduce(
    scenario: Scenario,
    mut gives: impl AsyncFnMut(&Scenario, &Scenario) -> Result<bool>,
) -> Result<Scenario> {
    let mut best = scenario;
    let mut given_up: Vec<Scenario> = Vec::new();
    loop {
        let before = best.clone();
        for kind in SCHEDULE {
            best = thin(best, kind, &mut given_up, &mut gives).await?;
        }
        // The removal of one part may have made another one unnecessary.
        if best == before {
            break;
        }
    }
    // The machine is reduced late, because each machine must be booted. A smaller machine makes no
    // other part unnecessary.
    best = thin(best, MACHINE, &mut given_up, &mut gives).await?;
    thin(best, PAUSES, &mut given_up, &mut gives).await
}

/// Removes parts of one kind.
async fn thin(
    mut best: Scenario,
    kind: Kind,
    given_up: &mut Vec<Scenario>,
    gives: &mut impl AsyncFnMut(&Scenario, &Scenario) -> Result<bool>,
) -> Result<Scenario> {
    let mut chunk = (kind.count)(&best);
    while chunk > 0 {
        let mut from = 0;
        while from < (kind.count)(&best) {
            let to = (from + chunk).min((kind.count)(&best));
            let smaller = kind.without(&best, from..to);
            let is_new = !smaller.lanes.is_empty() && smaller != best && !given_up.contains(&smaller);
            if is_new && gives(&best, &smaller).await? {
                // The next parts now have the numbers of the removed ones.
                best = smaller;
            } else {
                if is_new {
                    given_up.push(smaller);
                }
                from = to;
            }
        }
        chunk /= 2;
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Operation, SAMPLE, Seed, flatten};
    use crate::shrink::Size;

    fn does(scenario: &Scenario, words: &str) -> bool {
        let mut steps = scenario.lanes.iter().flat_map(|lane| &lane.steps);
        steps.any(|step| step.operations.iter().any(|o: &Operation| o.to_string() == words))
    }

    /// The result of reducing a trial of `text` by the decisions of `gives`. Each candidate must be
    /// one that can be written and read.
    async fn left(text: &str, gives: impl Fn(&Scenario) -> bool) -> (Scenario, u32) {
        let scenario = Scenario::parse("test.toml", text).unwrap();
        let start = flatten(&scenario, &scenario.schedule(Seed(3).of_trial(0), 0));
        let mut tried = 0;
        let smallest = reduce(start, async |_, candidate| {
            tried += 1;
            let text = candidate.to_toml();
            let again = Scenario::parse("test.toml", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(again, *candidate, "{text}");
            Ok(gives(candidate))
        });
        (smallest.await.unwrap(), tried)
    }

    #[tokio::test]
    async fn one_operation_is_left_with_what_makes_it_legal() {
        let (left, tried) = left(SAMPLE.1, |candidate| {
            let unplugs = candidate.lanes.iter().flat_map(|l| &l.steps).flat_map(|s| &s.operations);
            unplugs.filter(|o| o.kind() == "unplug dimm").count() >= 1
        })
        .await;
        assert_eq!(
            Size::of(&left).to_string(),
            "lanes 1, loads 0, operations 2, meetings 0, pauses 0, held 0, in flight 1, devices 1, slots 1, max CPUs 1, MiB at boot 256"
        );
        assert!(does(&left, "unplug dimm0") && tried < 20, "{tried}: {}", left.to_toml());
    }

    #[tokio::test]
    async fn every_shipped_scenario_stays_legal_on_its_way() {
        for path in crate::scenario::shipped() {
            let text = fs_err::read_to_string(path).unwrap();
            // The report appears by chance, here by a hash, so that each candidate is a new case.
            let chance =
                |candidate: &Scenario| blake3::hash(candidate.to_toml().as_bytes()).as_bytes()[0] < 100;
            left(&text, chance).await;
            left(&text, |_| true).await;
        }
    }

    #[tokio::test]
    async fn two_lanes_that_meet_are_left_where_both_are_needed() {
        let needs = |candidate: &Scenario| {
            let names = |kind: &str| {
                let steps = candidate.lanes.iter().flat_map(|lane| &lane.steps);
                steps.flat_map(|step| &step.operations).any(|o| o.kind() == kind)
            };
            names("unplug dimm") && names("plug cpu") && candidate.machine.cpus == 2
        };
        let (left, _) = left(SAMPLE.1, needs).await;
        let size = Size::of(&left).to_string();
        assert!(size.starts_with("lanes 2, loads 0, operations 3, "), "{size}");
        assert_eq!((left.machine.cpus, left.machine.max_cpus, left.machine.slots), (2, 3, 1));
    }
}
