//! One operation, from its request to its end: the request to QEMU or the agent, the guest's part,
//! and the check of the guest's accounts.

use std::time::Duration;

use hotplug_protocol::{AgentEvent, Answer, Output, ProgramEnd, Request};
use serde::{Deserialize, Serialize};

use super::accounting::{Became, Change, Mismatch};
use super::bench::Bench;
use super::completion::{EventWaiter, Slot};
use super::failure;
use super::never_ended::ShortLimit;
use crate::Result;
use crate::bytes::Bytes;
use crate::device::{Account, Device, DeviceId, FilePlace, Presence};
use crate::event_log::{Event, OperationOutcome};
use crate::guest::AgentError;
use crate::guest_clock::HostTime;
use crate::scenario::{Expect, MemoryOnline, Operation, Phase, Place, Policy, Scenario};
use crate::text::harmless;
use crate::vmm::Inherited;
use crate::vmm::qmp::QmpError;
use crate::vmm::qmp::hotplug::DimmPlace;

/// The interval between snapshots while the guest's memory may lag behind a virtio-mem device.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The record of one operation of a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// The lane that it belongs to.
    pub lane: String,
    /// The operation.
    pub operation: Operation,
    /// The expected outcome.
    pub expect: Expect,
    /// The time of its request.
    pub asked: HostTime,
    /// The times at which its phases were reached, each phase once, in order.
    pub phases: Vec<(Phase, HostTime)>,
    /// The time of its end.
    pub ended: Option<HostTime>,
    /// The outcome.
    pub outcome: OperationOutcome,
    /// The limit within which it did not end, if that was less than the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_limit: Option<ShortLimit>,
}

/// The outcome of an operation, before the accounts are checked.
pub(super) struct End {
    pub(super) outcome: OperationOutcome,
    pub(super) change: Change,
}

impl End {
    fn done(change: Change) -> Self {
        Self { outcome: OperationOutcome::Done, change }
    }

    fn nothing(outcome: OperationOutcome) -> Self {
        Self { outcome, change: Change::Nothing }
    }

    /// QEMU refused the operation, or the monitor is gone.
    pub(super) fn of_qmp(error: QmpError) -> Self {
        match error {
            QmpError::Gone(_) => Self { outcome: OperationOutcome::CutOff, change: Change::Unknown },
            error => Self::nothing(OperationOutcome::FailedInQemu { error: error.to_string() }),
        }
    }

    /// The guest refused the operation, or the agent is gone.
    pub(super) fn of_agent(error: AgentError) -> Self {
        match error {
            AgentError::Gone => Self { outcome: OperationOutcome::CutOff, change: Change::Unknown },
            error => Self::nothing(OperationOutcome::RefusedByGuest { how: error.to_string() }),
        }
    }
}

/// Performs one operation, which counts as hung after `limit`, and checks the guest's accounts.
/// `reached` is called for each phase.
pub(super) async fn perform(
    bench: Bench<'_>,
    operation: &Operation,
    limit: Duration,
    reached: &(dyn Fn(Phase) + Sync),
) -> Result<(OperationOutcome, Vec<Mismatch>)> {
    let account = account(bench.scenario, operation);
    if let Some(account) = account {
        bench.ledger.begin(account);
    }
    let course = until_end(bench, operation, reached);
    let end = match operation {
        // Each of its many requests has the limit.
        Operation::Fail(..) => course.await?,
        _ => match tokio::time::timeout(limit, course).await {
            Ok(end) => end?,
            Err(_) => End { outcome: OperationOutcome::TimedOut, change: Change::Unknown },
        },
    };
    if let Some(account) = account {
        bench.ledger.end(account, &end.change);
    }
    let looks = account.is_some() && bench.scenario.start == crate::scenario::Start::Ready;
    if !looks || [OperationOutcome::TimedOut, OperationOutcome::CutOff].contains(&end.outcome) {
        return Ok((end.outcome, Vec::new()));
    }
    let own = match &end.change {
        Change::Blocks(blocks) => blocks.as_slice(),
        _ => &[],
    };
    let mut settled = None;
    loop {
        let quiet = bench.ledger.before_snapshot();
        // If the guest hangs here, its next operation or the trial's last queries detect that.
        let Ok(Ok(now)) = tokio::time::timeout(limit, bench.vm.agent.snapshot()).await else {
            return Ok((OperationOutcome::TimedOut, Vec::new()));
        };
        let differences = bench.ledger.check(quiet, &now, own);
        // A mismatch of the first snapshot remains, even if the next snapshot is right.
        let mut wrong = settled.get_or_insert(differences.settled).clone();
        if differences.memory.is_empty() || !bench.ledger.guest_may_follow() {
            wrong.extend(differences.memory);
            let at = bench.vm.event_log.now();
            let mismatch = |what| Mismatch { at, after: operation.to_string(), what };
            return Ok((end.outcome, wrong.into_iter().map(mismatch).collect()));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The counters of the guest that the operation changes. No snapshot can check them meanwhile.
fn account(scenario: &Scenario, operation: &Operation) -> Option<Account> {
    match operation {
        Operation::Plug(id) | Operation::Unplug(id) | Operation::Resize(id, _) => {
            scenario.devices.get(id)?.account()
        }
        Operation::Online(place, _) | Operation::Offline(place) | Operation::Fail(place, ..) => match place {
            Place::Device(id) if scenario.devices.get(id)?.cpu_slot().is_some() => Some(Account::Cpus),
            Place::Device(_) | Place::Block(_) => Some(Account::Memory),
            Place::Cpu(_) => Some(Account::Cpus),
        },
        // Suspend takes CPUs offline and online again (kernel/cpu.c, freeze_secondary_cpus).
        operation if operation.suspends() => Some(Account::Cpus),
        Operation::Write { .. } | Operation::Read { .. } | Operation::Program(_) | Operation::Reboot => None,
    }
}

async fn until_end(bench: Bench<'_>, operation: &Operation, reached: &(dyn Fn(Phase) + Sync)) -> Result<End> {
    let Bench { vm, scenario, .. } = bench;
    let device = |id: &DeviceId| {
        let missing = || crate::Error::user(format!("the schedule uses `{id}`, which the scenario lacks"));
        scenario.devices.get(id).ok_or_else(missing)
    };
    // The subscription starts before the request, so that no event is missed.
    let waiter = EventWaiter::new(vm, scenario.machine.kind.arch(), reached);
    match operation {
        Operation::Plug(id) => plug(bench, waiter, id, device(id)?, reached).await,
        Operation::Unplug(id) => match device(id)?.presence() {
            Presence::MemorySlot => unplug_dimm(bench, waiter, id, reached).await,
            presence => {
                if let Err(error) = vm.qmp.unplug(id).await {
                    return Ok(End::of_qmp(error));
                }
                reached(Phase::Accepted);
                let Presence::CpuSlot(slot) = presence else { return Ok(End::done(Change::Nothing)) };
                let was_online = bench.cpus.is_online(slot);
                let outcome = waiter.ejected(id, Slot::cpu(slot, bench.cpus)).await?;
                if outcome == OperationOutcome::Done {
                    bench.cpus.gone(slot);
                    return Ok(End::done(Change::Cpus(-i64::from(was_online))));
                }
                Ok(End::nothing(outcome))
            }
        },
        Operation::Resize(id, size) => {
            if let Err(error) = vm.qmp.resize(id, *size).await {
                return Ok(End::of_qmp(error));
            }
            reached(Phase::Accepted);
            waiter.resized(id, *size).await?;
            Ok(End::done(Change::Gives(id.clone(), *size)))
        }
        Operation::Online(place, policy) => {
            reached(Phase::Accepted);
            bring(bench, place, Some(*policy), reached).await
        }
        Operation::Offline(place) => {
            reached(Phase::Accepted);
            bring(bench, place, None, reached).await
        }
        Operation::Write { path, data } => {
            reached(Phase::Accepted);
            let request = Request::Write { path: path.clone(), data: data.clone() };
            let agent = &bench.vm.agent;
            let answer =
                if operation.suspends() { agent.ask_alone(request).await } else { agent.ask(request).await };
            Ok(written(bench, path, data, answer))
        }
        Operation::Read { path, offset, length, shows } => {
            reached(Phase::Accepted);
            let request = Request::Read { path: path.clone(), offset: *offset, length: *length };
            Ok(match (vm.agent.ask(request).await, shows) {
                (Err(error), _) => End::of_agent(error),
                (Ok(Answer::Contents(text)), Some(shows)) if !matches(shows, &text) => {
                    let how = format!("it does not show `{shows}`: {}", harmless(&text, QUOTED));
                    End::nothing(OperationOutcome::RefusedByGuest { how })
                }
                (Ok(_), _) => End::done(Change::Nothing),
            })
        }
        Operation::Fail(place, at, part) => {
            reached(Phase::Accepted);
            failure::fail(bench, place, *at, *part).await
        }
        Operation::Program(name) => {
            reached(Phase::Accepted);
            Box::pin(program(bench, name)).await
        }
        Operation::Reboot => reboot(bench, reached).await,
    }
}

/// Runs a program of the user, and keeps its output in the trial's folder.
async fn program(bench: Bench<'_>, name: &str) -> Result<End> {
    let missing = || crate::Error::user(format!("the schedule runs `{name}`, which the scenario lacks"));
    let program = bench.scenario.program(name).ok_or_else(missing)?;
    let ran = match bench.vm.agent.ask(Request::Run(program)).await {
        Ok(Answer::Ran(ran)) => ran,
        Ok(other) => return Ok(End::of_agent(AgentError::Odd(format!("{other:?}")))),
        Err(error) => return Ok(End::of_agent(error)),
    };
    let Output { start, left_out, end } = &ran.output;
    let gap = if *left_out == 0 { String::new() } else { format!("\n[{left_out} bytes were not kept]\n") };
    let number = (0..).map(|number: u32| bench.vm.dir.join(format!("program-{name}-{number:03}.log")));
    let file = number.into_iter().find(|file| !file.exists());
    if let Some(file) = file {
        fs_err::write(file, format!("{start}{gap}{end}"))?;
    }
    if ran.end == ProgramEnd::Exited(0) {
        return Ok(End::done(Change::Nothing));
    }
    let how = match ran.output.last_line() {
        "" => ran.end.to_string(),
        line => format!("{}: {}", ran.end, harmless(line, QUOTED)),
    };
    Ok(End::nothing(OperationOutcome::RefusedByGuest { how }))
}

/// The most that is quoted of a file or of a program's output, in characters.
pub(super) const QUOTED: usize = 200;

/// Whether a text matches a regular expression, which the check of the scenario has read before.
fn matches(expression: &str, text: &str) -> bool {
    regex::Regex::new(expression).is_ok_and(|expression| expression.is_match(text))
}

/// What a write to a file of the guest came to. If the write sets how new memory comes online, the
/// ledger records it.
fn written(bench: Bench<'_>, path: &str, data: &str, answer: Result<Answer, AgentError>) -> End {
    match answer {
        Ok(_) => {
            if path.ends_with("/memory/auto_online_blocks") {
                bench.ledger.set_online(auto_online(data));
            }
            End::done(Change::Nothing)
        }
        Err(error) => End::of_agent(error),
    }
}

/// Parses a value of `auto_online_blocks` (Documentation/admin-guide/mm/memory-hotplug.rst).
fn auto_online(data: &str) -> MemoryOnline {
    match data.trim_end() {
        "online_movable" => MemoryOnline::Movable,
        "offline" => MemoryOnline::Offline,
        _ => MemoryOnline::Kernel,
    }
}

fn came(outcome: OperationOutcome, blocks: Vec<u64>, node: u32) -> End {
    let change = if outcome == OperationOutcome::Done {
        Change::Blocks(blocks.into_iter().map(|number| (number, Became::Plugged(node))).collect())
    } else {
        Change::Unknown
    };
    End { outcome, change }
}

/// Plugs a device, and waits until the guest has it.
async fn plug(
    bench: Bench<'_>,
    waiter: EventWaiter<'_>,
    id: &DeviceId,
    device: &Device,
    reached: &(dyn Fn(Phase) + Sync),
) -> Result<End> {
    let qmp = &bench.vm.qmp;
    let (places, _) = bench.scenario.dimm_file();
    let offset = places.get(id).copied().unwrap_or(Bytes(0));
    let already = || OperationOutcome::FailedInQemu { error: "it is already plugged".into() };
    let Some(request) = device.plug(id, &FilePlace { path: Inherited::DimmFile.path(), offset }) else {
        return Ok(End::nothing(already()));
    };
    if let Err(error) = qmp.plug(id, request).await {
        return Ok(End::of_qmp(error));
    }
    match device.presence() {
        Presence::MemorySlot => {
            let place = match qmp.dimm_place(id).await {
                Ok(place) => place,
                Err(error) => return Ok(End::of_qmp(error)),
            };
            reached(Phase::Accepted);
            let blocks: Vec<u64> = place.blocks(bench.ledger.block_bytes).collect();
            let outcome = waiter.inserted(Slot::dimm(place.slot, &blocks)).await?;
            Ok(came(outcome, blocks, device.node()))
        }
        Presence::CpuSlot(slot) => {
            reached(Phase::Accepted);
            let outcome = waiter.inserted(Slot::cpu(slot, bench.cpus)).await?;
            // After a refusal, the device is in QEMU and not in the guest. It is not known which
            // parts of it the guest has.
            let change = if outcome == OperationOutcome::Done { Change::Cpus(1) } else { Change::Unknown };
            Ok(End { outcome, change })
        }
        Presence::Region => {
            reached(Phase::Accepted);
            waiter.region().await?;
            Ok(End::done(Change::Nothing))
        }
        // A device that is resized is not plugged.
        Presence::Resized => Ok(End::nothing(already())),
    }
}

async fn unplug_dimm(
    bench: Bench<'_>,
    waiter: EventWaiter<'_>,
    id: &DeviceId,
    reached: &(dyn Fn(Phase) + Sync),
) -> Result<End> {
    let qmp = &bench.vm.qmp;
    let asked = async {
        let place = qmp.dimm_place(id).await;
        // This is sent even if there is no such DIMM, because QEMU's own error is recorded.
        qmp.unplug(id).await?;
        place
    };
    let place: DimmPlace = match asked.await {
        Ok(place) => place,
        Err(error) => return Ok(End::of_qmp(error)),
    };
    reached(Phase::Accepted);
    let blocks: Vec<u64> = place.blocks(bench.ledger.block_bytes).collect();
    let outcome = waiter.ejected(id, Slot::dimm(place.slot, &blocks)).await?;
    if outcome != OperationOutcome::Done {
        return Ok(End::nothing(outcome));
    }
    let change = Change::Blocks(blocks.into_iter().map(|number| (number, Became::Gone)).collect());
    match qmp.remove_backend(id).await {
        Ok(()) => Ok(End::done(change)),
        Err(error) => Ok(End { change, ..End::of_qmp(error) }),
    }
}

/// The guest's number of the CPU that a place is, if it is one. An error is the operation's end: the
/// guest has no such CPU.
pub(super) async fn cpu_number(bench: Bench<'_>, place: &Place) -> Result<Option<u32>, End> {
    let slot = match place {
        Place::Cpu(number) => return Ok(Some(*number)),
        Place::Device(id) => bench.scenario.devices.get(id).and_then(Device::cpu_slot),
        Place::Block(_) => None,
    };
    let Some(slot) = slot else { return Ok(None) };
    if let Some(number) = bench.cpus.number(bench.vm, slot).await {
        Ok(Some(number))
    } else {
        let how = format!("no CPU of the guest is in slot {slot}");
        Err(End::nothing(OperationOutcome::RefusedByGuest { how }))
    }
}

/// The memory blocks of a place. An error is the operation's end: QEMU has no such DIMM.
pub(super) async fn blocks(bench: Bench<'_>, place: &Place) -> Result<Vec<u64>, End> {
    match place {
        Place::Device(id) => match bench.vm.qmp.dimm_place(id).await {
            Ok(place) => Ok(place.blocks(bench.ledger.block_bytes).collect()),
            Err(error) => Err(End::of_qmp(error)),
        },
        Place::Block(number) => Ok(vec![*number]),
        Place::Cpu(_) => Ok(Vec::new()),
    }
}

/// The file that takes a CPU offline and brings it online.
pub(super) fn cpu_file(number: u32) -> String {
    format!("/sys/devices/system/cpu/cpu{number}/online")
}

/// The file that takes a memory block offline and brings it online.
pub(super) fn block_file(number: u64) -> String {
    format!("/sys/devices/system/memory/memory{number}/state")
}

/// Brings a place online with `policy`, or takes it offline without one, by sysfs.
async fn bring(
    bench: Bench<'_>,
    place: &Place,
    policy: Option<Policy>,
    reached: &(dyn Fn(Phase) + Sync),
) -> Result<End> {
    let Bench { vm, .. } = bench;
    let phase = if policy.is_some() { Phase::Online } else { Phase::Offline };
    let write =
        async |path: String, data: &str| vm.agent.ask(Request::Write { path, data: data.to_owned() }).await;
    let cpu = match cpu_number(bench, place).await {
        Ok(cpu) => cpu,
        Err(end) => return Ok(end),
    };
    if let Some(number) = cpu {
        let path = cpu_file(number);
        return Ok(match write(path, if policy.is_some() { "1" } else { "0" }).await {
            Ok(_) => {
                reached(phase);
                // Bringing an online CPU online succeeds and changes nothing (drivers/base/core.c).
                let changed = bench.cpus.set_online(number, policy.is_some());
                let more = if policy.is_some() { 1 } else { -1 };
                End::done(if changed { Change::Cpus(more) } else { Change::Nothing })
            }
            Err(error) => End::of_agent(error),
        });
    }
    let blocks = match blocks(bench, place).await {
        Ok(blocks) => blocks,
        Err(end) => return Ok(end),
    };
    let (word, became) = match policy {
        Some(policy) => (policy.kernel_word(), Became::Online(policy)),
        None => ("offline", Became::Offline),
    };
    let mut changed = Vec::new();
    for number in blocks {
        let path = block_file(number);
        if let Err(error) = write(path, word).await {
            return Ok(End { change: Change::Blocks(changed), ..End::of_agent(error) });
        }
        reached(phase);
        changed.push((number, became));
    }
    Ok(End::done(Change::Blocks(changed)))
}

/// Restarts the guest. QEMU is set to allow this one reboot. Any other reboot is the end of a
/// panic.
async fn reboot(bench: Bench<'_>, reached: &(dyn Fn(Phase) + Sync)) -> Result<End> {
    let vm = bench.vm;
    let mut heard = vm.event_log.listen();
    // Plugged memory becomes boot memory of the restarted guest.
    bench.ledger.close();
    if let Err(error) = vm.qmp.allow_reboot(true).await {
        return Ok(End::of_qmp(error));
    }
    let again = async {
        heard
            .until(|what| matches!(what, Event::Agent { event: AgentEvent::Ready(_), .. }).then_some(()))
            .await
    };
    reached(Phase::Accepted);
    let ended = tokio::select! {
        ready = again => {
            ready?;
            End::done(Change::Nothing)
        }
        // An answer arrives only on failure, with the reason.
        Err(error) = vm.agent.ask(Request::Reboot) => End::of_agent(error),
    };
    match vm.qmp.allow_reboot(false).await {
        Ok(()) => Ok(ended),
        Err(error) => Ok(End::of_qmp(error)),
    }
}
