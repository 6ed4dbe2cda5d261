//! The size of a scenario, in the numbers that matter to the reader of a reproducer.

use std::fmt::Write;

use crate::scenario::Scenario;

/// Numbers by name, in the order in which they are reduced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size([(&'static str, u64); 11]);

impl Size {
    /// The size of a scenario without random lanes.
    pub fn of(scenario: &Scenario) -> Self {
        let steps = || scenario.lanes.iter().flat_map(|lane| &lane.steps);
        let many = |count: usize| count as u64;
        let machine = &scenario.machine;
        let mib = |bytes: crate::bytes::Bytes| bytes.0 / crate::bytes::Bytes::MIB;
        Self([
            ("lanes", many(scenario.lanes.len())),
            ("loads", many(scenario.guest.load.len())),
            ("operations", many(steps().map(|step| step.operations.len()).sum())),
            ("meetings", many(steps().filter(|s| s.barrier.is_some() || s.after.is_some()).count())),
            ("pauses", many(steps().filter(|step| step.pause_up_to_ms > 0).count())),
            ("held", many(scenario.holds.rendezvous.len() + scenario.holds.delay.len())),
            ("in flight", many(steps().map(|step| step.in_flight).max().unwrap_or(0))),
            ("devices", many(scenario.devices.len())),
            ("slots", u64::from(machine.slots)),
            ("max CPUs", u64::from(machine.max_cpus)),
            ("MiB at boot", mib(machine.memory)),
        ])
    }

    /// The differences in words, such as `lanes 2 -> 1, operations 24 -> 3`. Equal numbers are left
    /// out.
    pub fn less_than(&self, larger: &Self) -> String {
        let mut text = String::new();
        for ((name, now), (_, was)) in self.0.iter().zip(&larger.0).filter(|(now, was)| now != was) {
            let comma = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{comma}{name} {was} -> {now}");
        }
        if text.is_empty() { "a smaller part".into() } else { text }
    }
}

/// In words, such as `lanes 1, loads 0, operations 2`.
impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<String> = self.0.iter().map(|(name, number)| format!("{name} {number}")).collect();
        f.write_str(&words.join(", "))
    }
}
