//! All lanes of a trial, at the same time: batches in order, a batch's requests in flight together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::try_join_all;
use hotplug_protocol::Event;
use tokio::sync::Barrier;

use super::accounting::{Ledger, Mismatch};
use super::cpus::{Cpus, slot_of};
use super::operation::{Bench, OperationRecord, perform};
use super::phases::{Phases, Waited};
use super::vm::Vm;
use crate::event_log::{Happening, OperationOutcome};
use crate::scenario::{Batch, DeviceId, Expect, LaneSchedule, Offset, Operation, Phase, Scenario, Schedule};
use crate::{Error, Result};

/// What a trial has done so far. It outlives the lanes: a trial cut short still shows what was in flight.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<(Vec<OperationRecord>, Vec<Mismatch>)>);

impl Log {
    fn lock(&self) -> MutexGuard<'_, (Vec<OperationRecord>, Vec<Mismatch>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything, in the order of its beginning.
    pub(super) fn into_parts(self) -> (Vec<OperationRecord>, Vec<Mismatch>) {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the lanes of one trial share.
#[derive(Debug)]
pub(super) struct Lanes<'a> {
    bench: Bench<'a>,
    log: &'a Log,
    phases: Phases,
    /// Devices that are plugged, as far as is known.
    plugged: Mutex<BTreeSet<DeviceId>>,
}

impl<'a> Lanes<'a> {
    pub(super) fn new(
        vm: &'a Vm,
        scenario: &'a Scenario,
        ledger: &'a Ledger,
        cpus: &'a Cpus,
        log: &'a Log,
    ) -> Self {
        let bench = Bench { vm, scenario, ledger, cpus };
        Self { bench, log, phases: Phases::default(), plugged: Mutex::default() }
    }

    /// Runs all lanes to their end, or until an operation times out: what follows would only measure the hang.
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
                // Every other lane of it comes, or the trial ends: an operation that never does is timed out.
                barrier.wait().await;
            }
            if let Some(trigger) = &batch.after {
                match tokio::time::timeout(limit, self.phases.wait(trigger, &mut waited)).await {
                    Ok(()) => {
                        if let Offset::Fixed(us) = trigger.offset {
                            exactly(Duration::from_micros(us)).await;
                        }
                    }
                    Err(_) => missed = Some(format!("`{}` did not come so far", trigger.operation)),
                }
            }
            // A pause is part of the schedule, not a wait for something.
            tokio::time::sleep(batch.pause()).await;
            self.batch(&lane.name, batch, missed.as_deref()).await?;
        }
        Ok(())
    }

    async fn batch(&self, lane: &str, batch: &Batch, missed: Option<&str>) -> Result<()> {
        let requests = batch.operations.iter().map(|o| self.operation(lane, o, batch.expect, missed));
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
        let journal = &self.bench.vm.journal;
        let number = {
            let (operations, _) = &mut *self.log.lock();
            operations.push(OperationRecord {
                lane: lane.into(),
                operation: operation.clone(),
                expect,
                asked: journal.now(),
                phases: Vec::new(),
                ended: None,
                outcome: OperationOutcome::CutOff,
            });
            operations.len() - 1
        };
        journal.record(Happening::OperationBegan { number, lane: lane.into(), operation: operation.clone() });
        let reached = |phase: Phase| {
            let phases = &mut self.log.lock().0[number].phases;
            if phases.iter().all(|(known, _)| *known != phase) {
                phases.push((phase, journal.now()));
                journal.record(Happening::OperationReached { number, phase });
                self.phases.reached(operation, phase);
            }
        };
        let (outcome, mismatches) =
            match missed.map(str::to_owned).or_else(|| self.pointless(operation, expect)) {
                Some(why) => (OperationOutcome::Skipped { why }, Vec::new()),
                None => perform(self.bench, operation, &reached).await?,
            };
        {
            let (operations, all) = &mut *self.log.lock();
            operations[number].ended = Some(journal.now());
            operations[number].outcome = outcome.clone();
            all.extend(mismatches);
        }
        journal.record(Happening::OperationEnded { number, outcome: outcome.clone() });
        self.phases.reached(operation, Phase::Ended);
        match outcome {
            OperationOutcome::TimedOut => Err(Error::infrastructure(format!("{operation} timed out"))),
            // QEMU is gone. Whoever watches it ends the trial and knows why.
            OperationOutcome::CutOff => std::future::pending().await,
            OperationOutcome::Done => {
                self.took(operation);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn plugged(&self) -> MutexGuard<'_, BTreeSet<DeviceId>> {
        self.plugged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why an operation that is expected to be done cannot be: an earlier one was refused.
    fn pointless(&self, operation: &Operation, expect: Expect) -> Option<String> {
        let id = operation.device().filter(|_| expect != Expect::Refused)?;
        let there = self.plugged().contains(id);
        match operation {
            Operation::Plug(_) if there => Some(format!("{id} is still plugged")),
            Operation::Unplug(_) | Operation::Online(..) | Operation::Offline(_) if !there => {
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

    /// Finds out the slot of each CPU that comes online. Read only then, when nothing removes it.
    async fn name_cpus(&self) -> Result<()> {
        let mut heard = self.bench.vm.journal.listen();
        loop {
            let (cpu, errno) = heard
                .until(|what| match what {
                    Happening::Agent { event: Event::CpuOnline { cpu, errno }, .. } => Some((*cpu, *errno)),
                    _ => None,
                })
                .await?;
            if let Some(slot) = slot_of(self.bench.vm, cpu).await {
                self.bench.cpus.came(slot, cpu, errno == 0);
                self.bench.vm.journal.record(Happening::CpuReady { cpu, slot, errno });
            }
        }
    }
}

/// Each barrier of the schedule, for as many lanes as name it.
fn barriers(schedule: &Schedule) -> BTreeMap<&str, Barrier> {
    let mut lanes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for lane in &schedule.lanes {
        for name in lane.batches.iter().filter_map(|batch| batch.barrier.as_deref()) {
            lanes.entry(name).or_default().insert(&lane.name);
        }
    }
    lanes.into_iter().map(|(name, lanes)| (name, Barrier::new(lanes.len()))).collect()
}

/// Waits to the microsecond, which the runtime's timer, of a millisecond's grain, does not.
async fn exactly(time: Duration) {
    /// The host's timer is late by some 60 microseconds; the last of the wait is spun away.
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
    // Its result is none; a runtime that shuts down has no use for it either.
    let _ = tokio::task::spawn_blocking(wait).await;
}
