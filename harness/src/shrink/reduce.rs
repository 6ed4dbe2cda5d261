//! Delta debugging (Zeller and Hildebrandt, 2002): all parts of a kind at once, then halves, quarters, ... single ones;
//! what the report comes without, goes.

use super::part::{Kind, MACHINE, PAUSES, SCHEDULE};
use crate::Result;
use crate::scenario::Scenario;

/// The smallest scenario that was found, from `scenario` on. `gives` tries a candidate and says whether the report comes
/// of it; it is never asked twice about the same one. Its error ends the search.
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
        // Without one part another may have become idle.
        if best == before {
            break;
        }
    }
    // Late: each machine has to be booted. With less of it nothing else becomes idle.
    best = thin(best, MACHINE, &mut given_up, &mut gives).await?;
    thin(best, PAUSES, &mut given_up, &mut gives).await
}

/// One kind of part.
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
                // The next parts have moved up.
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
    use crate::scenario::{DEFAULT, Operation, Seed};
    use crate::shrink::{Size, plain};

    fn does(scenario: &Scenario, words: &str) -> bool {
        let mut steps = scenario.lanes.iter().flat_map(|lane| &lane.steps);
        steps.any(|step| step.operations.iter().any(|o: &Operation| o.to_string() == words))
    }

    /// What is left of a trial of `text` where `gives` decides; each candidate is one that can be written and read.
    async fn left(text: &str, gives: impl Fn(&Scenario) -> bool) -> (Scenario, u32) {
        let scenario = Scenario::parse("test.toml", text).unwrap();
        let start = plain(&scenario, &scenario.schedule(Seed(3).of_trial(0), 0));
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
        let (left, tried) = left(DEFAULT.1, |candidate| {
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
            // A report that comes by chance, here by hash: each candidate is another case.
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
        let (left, _) = left(DEFAULT.1, needs).await;
        let size = Size::of(&left).to_string();
        assert!(size.starts_with("lanes 2, loads 0, operations 3, "), "{size}");
        assert_eq!((left.machine.cpus, left.machine.max_cpus, left.machine.slots), (2, 3, 1));
    }
}
