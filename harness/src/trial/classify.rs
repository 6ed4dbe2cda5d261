//! Classifies a trial: reads its logs and decides its outcome.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hotplug_protocol::GuestTime;

use super::callbacks::CallbackEvents;
use super::context::{TrialContext, TrialPlan};
use super::emulator::{self, StaleBreakpoint};
use super::lanes::Log;
use super::operation::OperationRecord;
use super::outcome::{Armed, LoadFailure, Seen, TrialOutcome, TrialRecord};
use super::refusals;
use super::rest::Beginning;
use super::standing::Unrestored;
use super::timing::Traced;
use super::vm::{Cut, last_words};
use super::vmcore::Vmcore;
use crate::event_log::{EventLog, OperationOutcome};
use crate::guest::LockdepStats;
use crate::guest_clock::HostTime;
use crate::rendezvous::Hold;
use crate::scenario::{Expect, Operation, Phase, Schedule};
use crate::vmm::Ended;

/// The results of a trial before its log is read.
#[derive(Debug, Default)]
pub(super) struct TrialState {
    pub(super) cut: Option<Cut>,
    /// When a worker began it.
    pub(super) taken: HostTime,
    /// When the guest was ready for requests.
    pub(super) ready: Option<HostTime>,
    pub(super) armed: Armed,
    /// How QEMU ended, if it did by itself.
    pub(super) qemu: Option<Ended>,
    /// Kernel records that never reached the host.
    pub(super) lost_records: u64,
    /// What its guest began with, once that is known.
    pub(super) beginning: Option<Beginning>,
    /// What the trial left over, if its guest could have taken a further one without it.
    pub(super) left_over: Option<String>,
    /// Lockdep's statistics at the end.
    pub(super) lockdep_stats: Option<LockdepStats>,
    /// The wait and hold times of locks at the end.
    pub(super) lock_stat: Option<String>,
    /// The trace of its kernel.
    pub(super) traced: Traced,
    /// The trace of its callbacks.
    pub(super) callbacks: CallbackEvents,
    /// The values of the kernel's state that it left changed, if everything else was back.
    pub(super) unrestored: Option<Vec<Unrestored>>,
    pub(super) load_loops: Vec<u64>,
    pub(super) load_failures: Vec<LoadFailure>,
    /// The memory of the guest, if it was to be kept.
    pub(super) vmcore: Option<Vmcore>,
    /// The holds.
    pub(super) holds: Vec<Hold>,
}

/// Reads the log and decides the outcome.
#[expect(clippy::too_many_arguments, reason = "a record is made of all parts of a trial")]
pub(super) fn classify(
    plan: &TrialPlan,
    context: &TrialContext,
    schedule: Schedule,
    dir: &Path,
    event_log: &Arc<EventLog>,
    kernel_log: &[u8],
    log: Log,
    state: TrialState,
) -> TrialRecord {
    let scenario = &context.scenario;
    let (mut operations, mismatches) = log.into_parts();
    let refusals = hotplug_kreport::refusals_of(kernel_log);
    refusals::explain(&mut operations, &refusals, scenario, |us| event_log.host_time(GuestTime(us)));
    let mut all = hotplug_kreport::scan_own(kernel_log);
    if operations.iter().any(|o| o.operation == Operation::Reboot && o.outcome == OperationOutcome::Done) {
        // The reboot was requested.
        all.retain(|report| report.kind != hotplug_kreport::Kind::Reboot);
    }
    let breakpoint = emulator::find(context, plan.side, &all, kernel_log);
    if let Some((place, StaleBreakpoint::Emulator { .. })) = breakpoint {
        // What the kernel printed before counts. The rest is an effect of the emulator's fault.
        all.truncate(place.max(1));
    }
    let reports: Vec<Seen> = hotplug_kreport::fold(&all)
        .into_iter()
        .map(|folded| {
            let printed = folded.first.time.and_then(|us| event_log.host_time(GuestTime(us)));
            let mut during = printed.map(|at| in_flight(&operations, at)).unwrap_or_default();
            // The last hold before the report is named, because its effect may appear only after
            // all holds have ended.
            let held =
                state.holds.iter().rfind(|hold| hold.at.is_some_and(|at| printed.is_none_or(|p| at <= p)));
            if let Some(hold) = held {
                let comma = if during.is_empty() { "" } else { ", " };
                // The hold comes first, because the screen may not have room for everything.
                during = format!("{}{comma}{during}", hold.words());
            }
            Seen { first: folded.first.clone(), at: printed, times: folded.count as u64, during }
        })
        .collect();
    let failed = operations.iter().filter(|o| o.expect == Expect::Done).find_map(|o| match &o.outcome {
        OperationOutcome::FailedInQemu { error } => Some(format!("QEMU refused to {}: {error}", o.operation)),
        _ => None,
    });
    let (outcome, why) = match &state.cut {
        _ if let Some((0, stale @ StaleBreakpoint::Emulator { .. })) = &breakpoint => {
            (TrialOutcome::Infrastructure, stale.to_string())
        }
        _ if let Some((_, StaleBreakpoint::Emulator { .. })) = &breakpoint => {
            (TrialOutcome::Reported, reports.first().map(|seen| seen.first.title.clone()).unwrap_or_default())
        }
        Some(Cut::Panicked) => (TrialOutcome::Panicked, "the kernel panicked".to_owned()),
        Some(Cut::Hung(what)) => (TrialOutcome::Hung, format!("{what}{}", unknown_machine(kernel_log))),
        Some(Cut::Broken(what)) => (TrialOutcome::Infrastructure, what.clone()),
        // The reboot of a panic may be seen before its message.
        Some(Cut::Ended(_))
            if reports
                .iter()
                .any(|r| r.first.kind == hotplug_kreport::Kind::Panic || r.first.panic.is_some()) =>
        {
            (TrialOutcome::Panicked, "the kernel panicked".to_owned())
        }
        Some(Cut::Ended(ended)) => {
            let why = match last_words(dir) {
                words if words.is_empty() => ended.to_string(),
                words => format!("{ended}: {words}"),
            };
            (TrialOutcome::Infrastructure, why)
        }
        None => match (reports.first(), mismatches.first(), failed) {
            (_, _, Some(failed)) => (TrialOutcome::Infrastructure, failed),
            (Some(seen), ..) => (TrialOutcome::Reported, seen.first.title.clone()),
            (_, Some(wrong), _) => {
                (TrialOutcome::AccountingMismatch, format!("after {}: {}", wrong.after, wrong.what))
            }
            _ if state.armed.end == Some(false) => {
                (TrialOutcome::Blind, "lockdep was off at the end, and no report explains it".to_owned())
            }
            _ if state.lost_records > 0 => {
                let lost_records = state.lost_records;
                (TrialOutcome::Blind, format!("{lost_records} kernel records were lost or dropped"))
            }
            _ => (TrialOutcome::Clean, "watched to the end".to_owned()),
        },
    };
    TrialRecord {
        side: plan.side,
        folder: dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        scenario: scenario.name.clone(),
        number: plan.number,
        seed: plan.seed,
        round: 1,
        earlier: Vec::new(),
        left_over: state.left_over,
        stale_breakpoint: breakpoint.map(|(_, stale)| stale),
        schedule,
        outcome,
        why,
        armed: state.armed,
        lost_records: state.lost_records,
        taken: state.taken,
        ready: state.ready,
        ended: event_log.now(),
        operations,
        mismatches,
        unrestored: state.unrestored,
        load_loops: state.load_loops,
        load_failures: state.load_failures,
        reports,
        qemu: state.qemu,
        vmcore: state.vmcore,
        holds: state.holds,
    }
}

/// Explains why no CPU comes online in a kernel that does not detect the virtual machine
/// (`qemu/command_line.rs`). `acpi_processor_hotadd_init()` fails there, and `_OST` still reports
/// success.
fn unknown_machine(kernel_log: &[u8]) -> &'static str {
    const WORDS: &[u8] = b"ACPI: Unable to map lapic to logical cpu number";
    if memchr::memmem::find(kernel_log, WORDS).is_some() {
        ": the kernel detects no virtual machine and accepts no CPUs; it needs CONFIG_DMI and CONFIG_HYPERVISOR_GUEST"
    } else {
        ""
    }
}

/// The operations in flight at a time, such as `unplug dimm0..3 and plug cpu1`.
fn in_flight(operations: &[OperationRecord], at: HostTime) -> String {
    let mut groups: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let running = |o: &&OperationRecord| {
        let accepted = o.phases.iter().any(|(phase, _)| *phase == Phase::Accepted);
        accepted && o.asked <= at && o.ended.is_none_or(|ended| at <= ended)
    };
    for operation in operations.iter().filter(running).map(|o| &o.operation) {
        let words = format!("{} {}", operation.verb(), operation.object());
        let group = operation.kind();
        let number: Option<u32> =
            words.trim_end().strip_prefix(&group).and_then(|n| n.trim_start_matches(':').parse().ok());
        groups.entry(group).or_default().extend(number);
    }
    let words: Vec<String> = groups.into_iter().map(|(kind, n)| format!("{kind}{}", ranges(n))).collect();
    words.join(" and ")
}

/// A list of numbers with ranges, such as `0..3,5`.
fn ranges(mut numbers: Vec<u32>) -> String {
    numbers.sort_unstable();
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let words: Vec<String> = runs
        .map(|run| match run {
            [first, .., last] => format!("{first}..{last}"),
            run => run.iter().map(u32::to_string).collect(),
        })
        .collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn numbers_are_listed_as_people_do() {
        assert_eq!(ranges(vec![3, 0, 1, 2, 5]), "0..3,5");
        assert_eq!(ranges(vec![7]), "7");
    }
}
