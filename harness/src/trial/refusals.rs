//! Adds the reasons that the kernel prints for its refusals to the outcomes of operations.

use hotplug_kreport::{Refusal, Refused};

use super::OperationRecord;
use crate::event_log::OperationOutcome;
use crate::guest_clock::HostTime;
use crate::scenario::{Operation, Place, Scenario};
use crate::text::harmless;

/// The most that is quoted of a reason, in characters.
const REASON: usize = 200;

/// The error of the clock of the kernel's log on the host's, in microseconds.
const SLACK: u64 = 20_000;

/// Adds the kernel's reason to each operation that the guest refused, as in `_OST status 0x3: the
/// block holds unmovable pages (slab)`. If several refused operations were in flight, the kernel
/// does not tell which of them it means, and none gets the reason. Nor does an operation that the
/// kernel cannot mean: a program that fails while a memory block is busy has a reason of its own.
pub(super) fn explain(
    operations: &mut [OperationRecord],
    refusals: &[Refusal],
    scenario: &Scenario,
    host_time: impl Fn(u64) -> Option<HostTime>,
) {
    let mut reasons: Vec<(usize, &str)> = Vec::new();
    for refusal in refusals {
        let at = refusal.time.and_then(&host_time);
        tracing::debug!(at = at.map(|at| at.0), text = refusal.text, "the kernel refused");
        let Some(at) = at else { continue };
        let mut refused = operations.iter().enumerate().filter(|(_, operation)| {
            was_refused(operation, at) && may_mean(refusal, &operation.operation, scenario)
        });
        if let (Some((index, _)), None) = (refused.next(), refused.next()) {
            // The first reason is the cause; the kernel's callers may add theirs.
            if reasons.iter().all(|(known, _)| *known != index) {
                reasons.push((index, &refusal.reason));
            }
        }
    }
    for (index, reason) in reasons {
        if let OperationOutcome::RefusedByGuest { how } = &mut operations[index].outcome {
            *how = format!("{how}: {}", harmless(reason, REASON));
        }
    }
}

/// Whether the guest refused an operation that was in flight at a time.
fn was_refused(operation: &OperationRecord, at: HostTime) -> bool {
    matches!(operation.outcome, OperationOutcome::RefusedByGuest { .. })
        && operation.asked.0 <= at.0.saturating_add(SLACK)
        && operation.ended.is_none_or(|ended| at.0 <= ended.0.saturating_add(SLACK))
}

/// Whether the kernel can mean this operation by a refusal.
fn may_mean(refusal: &Refusal, operation: &Operation, scenario: &Scenario) -> bool {
    let asks_a_device =
        matches!(operation, Operation::Plug(_) | Operation::Unplug(_) | Operation::Resize(..));
    // The firmware or the bus was asked, which sysfs does not do.
    if refusal.what == Refused::Device && !asks_a_device {
        return false;
    }
    let is_cpu = match operation {
        Operation::Program(_) | Operation::Read { .. } | Operation::Reboot => return false,
        // The file may be any, such as a block's `state`.
        Operation::Write { .. } => return true,
        Operation::Plug(id) | Operation::Unplug(id) | Operation::Resize(id, _) => scenario.is_cpu(id),
        Operation::Online(place, _) | Operation::Offline(place) | Operation::Fail(place, ..) => match place {
            Place::Device(id) => scenario.is_cpu(id),
            Place::Block(_) => false,
            Place::Cpu(_) => true,
        },
    };
    match refusal.what {
        Refused::CpuOnline | Refused::CpuOffline => is_cpu,
        Refused::MemoryAdd | Refused::MemoryOnline | Refused::MemoryOffline | Refused::MemoryRemove => {
            !is_cpu
        }
        // ACPI's identifiers of memory devices and of processors (drivers/acpi/acpi_memhotplug.c,
        // drivers/acpi/acpi_processor.c), and the names of memory blocks and CPUs
        // (drivers/base/memory.c, drivers/base/cpu.c)
        Refused::Device => match refusal.object.as_deref().unwrap_or_default() {
            object if ["PNP0C80", "memory"].iter().any(|name| object.contains(name)) => !is_cpu,
            object if ["ACPI0007", "LNXCPU", "cpu"].iter().any(|name| object.contains(name)) => is_cpu,
            _ => true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceId;
    use crate::scenario::{Expect, Operation, SAMPLE};

    fn operation(asked: u64, ended: u64) -> OperationRecord {
        OperationRecord {
            lane: "dimm0".into(),
            operation: Operation::Unplug(DeviceId("dimm0".into())),
            expect: Expect::Any,
            asked: HostTime(asked),
            phases: Vec::new(),
            ended: Some(HostTime(ended)),
            outcome: OperationOutcome::RefusedByGuest { how: "_OST status 0x3".into() },
            short_limit: None,
        }
    }

    fn explained(operations: Vec<OperationRecord>) -> Vec<String> {
        let log = b"\
6,1,2000000,-,caller=T9;flags: 0x17ffffc0000200(slab|node=0|zone=2)
4,2,2000001,-,caller=T9;page dumped because: unmovable page
4,3,2000002,-,caller=T9;acpi PNP0C80:00: Offline failed.
";
        assert_eq!(hotplug_kreport::refusals_of(log).len(), 2);
        explained_by(log, operations)
    }

    fn explained_by(log: &[u8], mut operations: Vec<OperationRecord>) -> Vec<String> {
        let refusals = hotplug_kreport::refusals_of(log);
        let scenario = Scenario::parse(SAMPLE.0, SAMPLE.1).unwrap();
        explain(&mut operations, &refusals, &scenario, |time| Some(HostTime(time)));
        operations
            .iter()
            .map(|operation| match &operation.outcome {
                OperationOutcome::RefusedByGuest { how } => how.clone(),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_refused_operation_gets_the_reason_of_the_kernel() {
        let how = explained(vec![operation(100, 200), operation(1_900_000, 2_100_000)]);
        assert_eq!(how[0], "_OST status 0x3");
        assert_eq!(how[1], "_OST status 0x3: the block holds unmovable pages (slab)");
    }

    #[test]
    fn a_reason_that_may_be_of_another_operation_is_of_none() {
        let how = explained(vec![operation(1_900_000, 2_100_000), operation(1_950_000, 2_200_000)]);
        assert_eq!(how, ["_OST status 0x3", "_OST status 0x3"]);
    }

    #[test]
    fn a_program_or_a_cpu_that_fails_meanwhile_has_a_reason_of_its_own() {
        let of = |what| OperationRecord { operation: what, ..operation(1_900_000, 2_100_000) };
        let cpu = || of(Operation::Unplug(DeviceId("cpu0".into())));
        let program = || of(Operation::Program("stress".into()));
        let read =
            || of(Operation::Read { path: "/proc/meminfo".into(), offset: 0, length: None, shows: None });
        assert_eq!(explained(vec![program(), cpu(), read()]), ["_OST status 0x3"; 3]);
        // ACPI was not asked by a write to sysfs.
        let sysfs = of(Operation::Offline(Place::Device(DeviceId("dimm1".into()))));
        let unplug = of(Operation::Unplug(DeviceId("dimm0".into())));
        let log = b"4,1,2000000,-,caller=T8;memory memory32: Offline failed.\n";
        let how = explained_by(log, vec![unplug, sysfs]);
        assert_eq!(how[0], "_OST status 0x3: a part of it could not be taken offline");
        assert_eq!(how[1], "_OST status 0x3");
        // They do not hide which operation the kernel means either.
        let how = explained(vec![program(), of(Operation::Offline(Place::Block(40))), cpu()]);
        assert_eq!(how[1], "_OST status 0x3: the block holds unmovable pages (slab)");
        assert_eq!((&*how[0], &*how[2]), ("_OST status 0x3", "_OST status 0x3"));
    }

    #[test]
    fn an_operation_that_was_done_is_not_refused() {
        let mut done = operation(1_900_000, 2_100_000);
        done.outcome = OperationOutcome::Done;
        assert_eq!(explained(vec![done]), ["Done"]);
    }
}
