//! The vCPUs that a machine can start. Under TCG, QEMU starts at most as many in its whole life as
//! the machine can have, including those of removed CPUs, and aborts at the next (tcg/tcg.c:
//! `tcg_register_thread`). So a machine whose guest takes several trials has more CPUs than its
//! scenario plugs. The guest's kernel ignores them (`possible_cpus=`).

use crate::host::Accelerator;
use crate::scenario::{Scenario, Topology};

/// The number of trials for whose CPUs a machine under TCG has room.
const ROUNDS: u32 = 16;

/// The most CPUs of a machine: 8 bits of APIC ids, less some (QEMU's hw/i386/x86-common.c).
const MOST: u32 = 240;

/// The most trials that a guest of this scenario can take; no limit without TCG, or without CPUs to
/// plug.
pub fn most_rounds(scenario: &Scenario, accelerator: Accelerator) -> u32 {
    let machine = &scenario.machine;
    let room = machine.max_cpus + more_cpus(scenario, accelerator) - machine.cpus;
    match room.checked_div(scenario.cpu_plugs()) {
        Some(rounds) if accelerator == Accelerator::Tcg => rounds,
        _ => u32::MAX,
    }
}

/// The CPUs that QEMU's machine has beyond `max_cpus`, which no trial plugs.
pub(super) fn more_cpus(scenario: &Scenario, accelerator: Accelerator) -> u32 {
    let machine = &scenario.machine;
    let is_plain = machine.topology == Topology::default() && machine.kind.arch().possible_cpus.is_some();
    if accelerator != Accelerator::Tcg || !is_plain || scenario.ends_its_guest().is_some() {
        return 0;
    }
    let wanted = machine.cpus.saturating_add(scenario.cpu_plugs().saturating_mul(ROUNDS));
    wanted.min(MOST).saturating_sub(machine.max_cpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::BUILT_IN;

    #[test]
    fn guests_take_as_many_trials_as_their_machine_has_vcpus() {
        let scenario = |name: &str| {
            let text = BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text).unwrap();
            Scenario::parse(&format!("{name}.toml"), text).unwrap()
        };
        let dimm_and_cpu = scenario("dimm-and-cpu");
        // 2 at boot, and 4 in each of 16 trials.
        assert_eq!((dimm_and_cpu.machine.max_cpus, more_cpus(&dimm_and_cpu, Accelerator::Tcg)), (8, 58));
        assert_eq!(most_rounds(&dimm_and_cpu, Accelerator::Tcg), 16);
        assert_eq!(more_cpus(&dimm_and_cpu, Accelerator::Kvm), 0);
        assert_eq!(most_rounds(&dimm_and_cpu, Accelerator::Kvm), u32::MAX);
        // Its CPUs go and come by sysfs, so that QEMU starts none.
        let blocks = scenario("block-against-cpu");
        assert_eq!(
            (more_cpus(&blocks, Accelerator::Tcg), most_rounds(&blocks, Accelerator::Tcg)),
            (0, u32::MAX)
        );
    }
}
