//! The scenarios that the binary carries. Each can be given by its name instead of a file.

use std::path::Path;

/// The file names and the texts of the scenarios that the binary carries.
macro_rules! carried {
    ($($name:literal,)*) => {
        &[$(($name, include_str!(concat!("../../../scenarios/", $name, ".toml"))),)*]
    };
}

/// Every scenario of the folder `scenarios/`, by name, with its text.
pub const BUILT_IN: &[(&str, &str)] = carried![
    "attributes-of-cpus",
    "attributes-of-memory",
    "block-against-cpu",
    "busy-callbacks",
    "cpu-into-offline",
    "dimm-and-cpu",
    "failing-allocations",
    "failing-callbacks",
    "latency",
    "many-dimms",
    "memoryless-node",
    "plug-during-boot",
    "pmem-against-cpu",
    "race",
    "random-soup",
    "refused-unplug",
    "stalls",
    "suspend-against-pmem",
    "suspend-to-idle-against-dimms",
    "virtio-mem-against-cpus",
];

/// The names of the scenarios of the portfolio, which a comparison runs unless others are given.
/// They take the paths of hotplug that differ most: memory and CPUs by ACPI; the first and the last
/// memory of a node, and CPUs that come with it; blocks and CPUs by sysfs; memory that a driver of
/// the guest adds; attributes that are in use while they vanish; suspend, and pages without memory
/// blocks; callbacks that have something to move; failures, and the way back; and operations in
/// random order.
pub const PORTFOLIO: &[&str] = &[
    DEFAULT,
    "memoryless-node",
    "block-against-cpu",
    "virtio-mem-against-cpus",
    "attributes-of-memory",
    "attributes-of-cpus",
    "suspend-against-pmem",
    "busy-callbacks",
    "failing-callbacks",
    "failing-allocations",
    "random-soup",
];

/// The name of the scenario of commands that run many comparisons.
pub const DEFAULT: &str = "dimm-and-cpu";

/// The name of the scenario of a sweep.
pub const RACE: &str = "race";

/// The text of the scenario with this name, if the binary carries it.
pub fn built_in(name: &Path) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| Path::new(known) == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn every_scenario_of_the_folder_is_carried() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files: BTreeSet<String> = files
            .filter(|path| path.extension().is_some_and(|end| end == "toml"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(files, BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect());
        for name in PORTFOLIO.iter().chain([&RACE]) {
            let (scenario, _) = Scenario::read(Path::new(name)).unwrap();
            assert_eq!(scenario.name, *name);
        }
    }
}
