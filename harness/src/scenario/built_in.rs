//! The scenarios that the binary carries. Each can be given by its name instead of a file.

use std::path::Path;

use super::Scenario;
use crate::arch::Architecture;

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
    "pseries-cpus",
    "pseries-hash",
    "pseries-memoryless-node",
    "pseries-radix",
    "pseries-removal",
    "race",
    "random-soup",
    "refused-unplug",
    "stalls",
    "suspend-against-pmem",
    "suspend-to-idle-against-dimms",
    "virtio-mem-against-cpus",
];

/// The names of the scenarios of the portfolio of x86-64 guests, which a comparison runs unless others are given.
/// They take the paths of hotplug that differ most: memory and CPUs by ACPI; the first and the last
/// memory of a node, and CPUs that come with it; blocks and CPUs by sysfs; memory that a driver of
/// the guest adds; attributes that are in use while they vanish; suspend, and pages without memory
/// blocks; callbacks that have something to move; failures, and the way back; and operations in
/// random order.
const PORTFOLIO: &[&str] = &[
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

/// The portfolio of POWER guests: memory that comes and goes while CPUs come, under either MMU; the
/// first and the last memory of a node; CPUs that come and go while blocks change their state; and
/// memory and CPUs that both come and go.
const PORTFOLIO_OF_POWER: &[&str] =
    &["pseries-hash", "pseries-radix", "pseries-memoryless-node", "pseries-cpus", "pseries-removal"];

/// The names of the scenarios of an architecture's portfolio.
pub fn portfolio(arch: Architecture) -> &'static [&'static str] {
    match arch {
        Architecture::X86 => PORTFOLIO,
        Architecture::Power => PORTFOLIO_OF_POWER,
    }
}

/// The name of the scenario of commands that run many comparisons.
pub const DEFAULT: &str = "dimm-and-cpu";

/// The same for guests of this architecture.
pub fn default_for(arch: Architecture) -> &'static str {
    match arch {
        Architecture::X86 => DEFAULT,
        Architecture::Power => "pseries-radix",
    }
}

/// The name of the scenario of a sweep.
pub const RACE: &str = "race";

/// The names of the scenarios for guests of an architecture that the binary carries.
pub fn built_in_for(arch: Architecture) -> impl Iterator<Item = &'static str> {
    let is_for = move |text: &str| {
        let scenario = Scenario::parse("", text);
        scenario.is_ok_and(|scenario| scenario.machine.kind.arch().id == arch)
    };
    BUILT_IN.iter().filter(move |(_, text)| is_for(text)).map(|(name, _)| *name)
}

/// The text of the scenario with this name, if the binary carries it.
pub fn built_in(name: &Path) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| Path::new(known) == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_scenario_of_the_folder_is_carried() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files: BTreeSet<String> = files
            .filter(|path| path.extension().is_some_and(|end| end == "toml"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(files, BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect());
        let portfolios = Architecture::ALL.into_iter().flat_map(portfolio);
        for name in portfolios.chain([&RACE]) {
            let (scenario, _) = Scenario::read(Path::new(name)).unwrap();
            assert_eq!(scenario.name, *name);
        }
    }
}
