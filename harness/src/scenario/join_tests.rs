//! Two trials in one guest.

use super::*;
use crate::scenario::{Seed, flatten};

/// A built-in scenario with the lanes of one trial.
fn plain(name: &str, number: u64) -> Scenario {
    let (scenario, _) = Scenario::read(std::path::Path::new(name)).unwrap();
    let schedule = scenario.schedule(Seed(number).of_trial(0), 0);
    flatten(&scenario, &schedule)
}

/// The joined scenario, as it is read from its file.
fn joined(first: &Scenario, next: &Scenario) -> Result<Scenario, String> {
    let joined = Scenario { name: "joined".into(), ..first.clone().followed_by(next.clone())? };
    let text = joined.to_toml();
    let read = Scenario::parse("joined.toml", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(read, joined, "{text}");
    Ok(joined)
}

fn operations(scenario: &Scenario) -> usize {
    scenario.lanes.iter().flat_map(|lane| &lane.steps).map(|step| step.operations.len()).sum()
}

#[test]
fn every_two_scenarios_of_the_portfolio_are_joined_or_told_why_not() {
    let mut refused = BTreeSet::new();
    for first in super::super::portfolio(crate::arch::Architecture::X86) {
        for next in super::super::portfolio(crate::arch::Architecture::X86) {
            let (first, next) = (plain(first, 1), plain(next, 2));
            match joined(&first, &next) {
                Ok(both) => {
                    assert!(operations(&both) >= operations(&first) + operations(&next));
                    assert!(both.machine.max_cpus >= first.machine.max_cpus.max(next.machine.max_cpus));
                    assert!(first.guest.load.iter().all(|load| both.guest.load.contains(load)));
                    assert!(next.guest.load.iter().all(|load| both.guest.load.contains(load)));
                }
                Err(why) => {
                    refused.insert(why);
                }
            }
        }
    }
    assert!(refused.len() <= 3, "{refused:?}");
}

#[test]
fn the_second_half_waits_until_the_first_has_left() {
    let both = joined(&plain("dimm-and-cpu", 1), &plain("many-dimms", 2)).unwrap();
    let first: Vec<&Lane> = both.lanes.iter().filter(|lane| !lane.name.starts_with(THEN)).collect();
    assert!(!first.is_empty() && first.len() < both.lanes.len());
    for lane in &both.lanes {
        let is_first = !lane.name.starts_with(THEN);
        let waits = if is_first { lane.steps.last() } else { lane.steps.first() }.unwrap();
        assert_eq!(waits.barrier.as_deref(), Some("half-1"), "{lane:?}");
        let own = |id: &DeviceId| id.0.starts_with(THEN) != is_first;
        assert!(lane.steps.iter().flat_map(|s| &s.operations).filter_map(Operation::device).all(own));
    }
    // A third half follows in the same way.
    let three = joined(&both, &plain("block-against-cpu", 3)).unwrap();
    let names: BTreeSet<_> =
        three.lanes.iter().flat_map(|l| &l.steps).filter_map(|step| step.barrier.clone()).collect();
    assert!(names.contains("half-1") && names.contains("half-2"), "{names:?}");
}

#[test]
fn trials_of_one_scenario_share_their_devices() {
    let (first, next) = (plain("dimm-and-cpu", 1), plain("dimm-and-cpu", 2));
    let both = joined(&first, &next).unwrap();
    assert_eq!(both.devices, first.devices);
    assert_eq!(both.lanes.len(), first.lanes.len());
    // 2 at boot, and 4 in each half.
    assert_eq!((first.machine.max_cpus, both.machine.max_cpus), (8, 10));
    assert_eq!(operations(&both), operations(&first) + operations(&next));
    let four = joined(&joined(&both, &next).unwrap(), &first).unwrap();
    assert_eq!(operations(&four), 2 * operations(&both));
}

#[test]
fn cpus_keep_their_nodes() {
    let node = plain("memoryless-node", 1);
    for (first, next) in
        [(&node, &plain("dimm-and-cpu", 1)), (&plain("dimm-and-cpu", 1), &node), (&node, &node)]
    {
        let both = joined(first, next).unwrap();
        let of = |scenario: &Scenario, id: &DeviceId| {
            let slot = scenario.devices[id].cpu_slot()?;
            scenario.machine.nodes.iter().position(|node| node.cpus.contains(&slot))
        };
        let slots: Vec<u32> = both.devices.values().filter_map(Device::cpu_slot).collect();
        assert_eq!(slots.iter().collect::<BTreeSet<_>>().len(), slots.len());
        for (scenario, name) in [(first, ""), (next, THEN)] {
            for id in scenario.devices.keys() {
                let own = DeviceId(format!("{name}{id}"));
                let now = of(&both, if both.devices.contains_key(&own) { &own } else { id });
                assert_eq!(now, of(scenario, id), "{id}");
            }
        }
    }
}

#[test]
fn what_one_guest_cannot_do_is_told() {
    let dimms = plain("dimm-and-cpu", 1);
    let boots = plain("plug-during-boot", 1);
    assert_eq!(joined(&dimms, &boots), Err("one of them begins with the boot".into()));
    let mut many = plain("suspend-against-pmem", 1);
    many.lanes[0].steps[0].operations = vec![Operation::Offline(Place::Cpu(3))];
    assert_eq!(joined(&plain("memoryless-node", 1), &many), Err("they need different CPUs".into()));
    let mut other = dimms.clone();
    other.guest.memory_online = super::super::MemoryOnline::Offline;
    assert_eq!(joined(&dimms, &other), Err("their memory comes online in different ways".into()));
    let mut nodes = plain("memoryless-node", 1);
    nodes.machine.nodes.push(NumaNode::default());
    assert_eq!(joined(&plain("memoryless-node", 1), &nodes), Err("they need different NUMA nodes".into()));
}
