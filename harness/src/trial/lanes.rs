//! Runs all lanes of a trial at the same time. The batches of a lane run in order, and the requests
//! of a batch are in flight together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::try_join_all;
use hotplug_protocol::AgentEvent;
use hotplug_side::Side;
use tokio::sync::Barrier;
use tracing::Instrument;

use super::accounting::{Ledger, Mismatch};
use super::bench::Bench;
use super::context::TrialContext;
use super::cpus::{Cpus, slot_of};
use super::operation::{OperationRecord, perform};
use super::phases::{Phases, Waited};
use super::vm::Vm;
use crate::device::DeviceId;
use crate::event_log::{Event, OperationOutcome};
use crate::scenario::{Batch, Expect, LaneSchedule, Offset, Operation, Phase, Schedule};
use crate::{Error, Result};

/// The operations of a trial so far. The log outlives the lanes, so a trial that is cut short still
/// shows what was in flight.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<(Vec<OperationRecord>, Vec<Mismatch>)>);

impl Log {
    fn lock(&self) -> MutexGuard<'_, (Vec<OperationRecord>, Vec<Mismatch>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All operations and mismatches. The operations are in the order of their beginning.
    pub(super) fn into_parts(self) -> (Vec<OperationRecord>, Vec<Mismatch>) {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lanes of one trial, with what they share.
#[derive(Debug)]
pub(super) struct Lanes<'a> {
    bench: Bench<'a>,
    log: &'a Log,
    phases: Phases,
    /// The devices that are plugged, as far as is known.
    plugged: Mutex<BTreeSet<DeviceId>>,
}

impl<'a> Lanes<'a> {
    pub(super) fn new(
        vm: &'a Vm,
        (context, side): (&'a TrialContext, Side),
        ledger: &'a Ledger,
        cpus: &'a Cpus,
        log: &'a Log,
    ) -> Self {
        let TrialContext { scenario, never_ended, .. } = context;
        let bench = Bench { vm, scenario, ledger, cpus, side, never_ended };
        Self { bench, log, phases: Phases::default(), plugged: Mutex::default() }
    }

    /// Runs all lanes to their end, or until an operation times out, because whatever follows would
    /// only measure the hang.
    pub(super) async fn run(&self, schedule: &Schedule) -> Result<()> {
        let barriers = barriers(schedule);
        let lanes = try_join_all(schedule.lanes.iter().map(|lane| self.lane(lane, &barriers)));
        tokio::select! {
            ended = lanes => ended.map(drop),
            failed = self.name_cpus() => failed,
        }
    }

    async fn lane(&self, lane: &LaneSchedule, barriers: &BTreeMap<&str, Barrier>) -> Result<()> {
        let limit = Duration::from_secs(self.bench.scenario.time_limit_s.into());
        let mut waited = Waited::default();
        for batch in &lane.batches {
            let mut missed = None;
            if let Some(barrier) = batch.barrier.as_deref().and_then(|name| barriers.get(name)) {
                // Every other lane of the barrier arrives, or the trial ends, because an operation
                // that never ends times out.
                barrier.wait().await;
            }
            if let Some(trigger) = &batch.after {
                match tokio::time::timeout(limit, self.phases.wait(trigger, &mut waited)).await {
                    Ok(()) => {
                        if let Offset::Fixed(us) = trigger.offset {
                            exactly(Duration::from_micros(us)).await;
                        }
                    }
                    Err(_) => missed = Some(format!("`{}` did not reach its phase", trigger.operation)),
                }
            }
            // A pause is a part of the schedule, and not a wait for an event.
            tokio::time::sleep(batch.pause()).await;
            self.batch(&lane.name, batch, missed.as_deref()).await?;
        }
        Ok(())
    }

    async fn batch(&self, lane: &str, batch: &Batch, missed: Option<&str>) -> Result<()> {
        let requests = batch.operations.iter().map(|operation| {
            let span = tracing::debug_span!("operation", lane, %operation);
            self.operation(lane, operation, batch.expect, missed).instrument(span)
        });
        let mut running = futures::stream::iter(requests).buffer_unordered(batch.in_flight);
        while let Some(ended) = running.next().await {
            ended?;
        }
        Ok(())
    }

    async fn operation(
        &self,
        lane: &str,
        operation: &Operation,
        expect: Expect,
        missed: Option<&str>,
    ) -> Result<()> {
        let event_log = &self.bench.vm.event_log;
        let limit = self.bench.limit(operation);
        let number = {
            let (operations, _) = &mut *self.log.lock();
            operations.push(OperationRecord {
                lane: lane.into(),
                operation: operation.clone(),
                expect,
                asked: event_log.now(),
                phases: Vec::new(),
                ended: None,
                outcome: OperationOutcome::CutOff,
                short_limit: None,
            });
            operations.len() - 1
        };
        event_log.record(Event::OperationBegan { number, lane: lane.into(), operation: operation.clone() });
        let reached = |phase: Phase| {
            let phases = &mut self.log.lock().0[number].phases;
            if phases.iter().all(|(known, _)| *known != phase) {
                phases.push((phase, event_log.now()));
                event_log.record(Event::OperationReached { number, phase });
                self.phases.reached(operation, phase);
            }
        };
        let (outcome, mismatches) =
            match missed.map(str::to_owned).or_else(|| self.pointless(operation, expect)) {
                Some(why) => (OperationOutcome::Skipped { why }, Vec::new()),
                None => perform(self.bench, operation, limit, &reached).await?,
            };
        {
            let (operations, all) = &mut *self.log.lock();
            operations[number].ended = Some(event_log.now());
            operations[number].outcome = outcome.clone();
            if outcome == OperationOutcome::TimedOut {
                operations[number].short_limit = self.bench.shortened(operation, limit);
            }
            all.extend(mismatches);
        }
        event_log.record(Event::OperationEnded { number, outcome: outcome.clone() });
        self.phases.reached(operation, Phase::Ended);
        match outcome {
            OperationOutcome::TimedOut => Err(Error::infrastructure(self.bench.timed_out(operation, limit))),
            // QEMU is gone. The driver, which watches it, ends the trial and has the reason.
            OperationOutcome::CutOff => std::future::pending().await,
            OperationOutcome::Done => {
                self.bench.ended(operation);
                self.took(operation);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn plugged(&self) -> MutexGuard<'_, BTreeSet<DeviceId>> {
        self.plugged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why an operation that should succeed cannot be done, because an earlier one was refused.
    fn pointless(&self, operation: &Operation, expect: Expect) -> Option<String> {
        let id = operation.device().filter(|_| expect != Expect::Refused)?;
        let there = self.plugged().contains(id);
        match operation {
            Operation::Plug(_) if there => Some(format!("{id} is still plugged")),
            Operation::Unplug(_) | Operation::Online(..) | Operation::Offline(_) | Operation::Fail(..)
                if !there =>
            {
                Some(format!("{id} is not plugged"))
            }
            _ => None,
        }
    }

    fn took(&self, operation: &Operation) {
        match operation {
            Operation::Plug(id) => drop(self.plugged().insert(id.clone())),
            Operation::Unplug(id) => drop(self.plugged().remove(id)),
            _ => {}
        }
    }

    /// Determines the slot of each CPU that comes online. It is read at that time, when no
    /// operation removes the CPU.
    async fn name_cpus(&self) -> Result<()> {
        let arch = self.bench.vm.arch;
        let mut heard = self.bench.vm.event_log.listen();
        loop {
            let (cpu, errno) = heard
                .until(|what| match what {
                    Event::Agent { event: AgentEvent::CpuOnline { cpu, errno }, .. } => Some((*cpu, *errno)),
                    // The kernel of such a machine brings a plugged CPU online itself
                    // (arch/powerpc/platforms/pseries/hotplug-cpu.c, `dlpar_online_cpu()`). A CPU
                    // whose slot is known was brought online by an operation.
                    Event::Agent { event: AgentEvent::Uevent { action, devpath }, .. }
                        if !arch.firmware_acknowledges && action == "online" =>
                    {
                        let cpu = devpath.strip_prefix("/devices/system/cpu/cpu")?.parse().ok()?;
                        (!self.bench.cpus.has(cpu)).then_some((cpu, 0))
                    }
                    _ => None,
                })
                .await?;
            if let Some(slot) = slot_of(self.bench.vm, cpu).await {
                self.bench.cpus.came(slot, cpu, errno == 0);
                self.bench.vm.event_log.record(Event::CpuReady { cpu, slot, errno });
            }
        }
    }
}

/// The barriers of the schedule, each for as many lanes as name it.
fn barriers(schedule: &Schedule) -> BTreeMap<&str, Barrier> {
    let mut lanes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for lane in &schedule.lanes {
        for name in lane.batches.iter().filter_map(|batch| batch.barrier.as_deref()) {
            lanes.entry(name).or_default().insert(&lane.name);
        }
    }
    lanes.into_iter().map(|(name, lanes)| (name, Barrier::new(lanes.len()))).collect()
}

/// Waits with a precision of a microsecond. The runtime's timer only has a resolution of a
/// millisecond.
async fn exactly(time: Duration) {
    /// The host's timer is late by some 60 microseconds, so the end of the wait is spun.
    const SPIN: Duration = Duration::from_micros(100);
    let end = Instant::now() + time;
    if time.is_zero() {
        return;
    }
    let wait = move || {
        std::thread::sleep(end.saturating_duration_since(Instant::now()).saturating_sub(SPIN));
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    };
    // The task has no result, and an error, as when the runtime shuts down, changes nothing.
    let _ = tokio::task::spawn_blocking(wait).await;
}
