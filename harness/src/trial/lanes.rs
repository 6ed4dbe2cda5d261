//! All lanes of a trial, at the same time: batches in order, a batch's requests in flight together.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::future::try_join_all;
use hotplug_protocol::Event;

use super::accounting::{Ledger, Mismatch};
use super::operation::{OperationRecord, Target, perform};
use super::outcome::Outcome;
use super::vm::Vm;
use crate::journal::Happening;
use crate::scenario::{Batch, Device, DeviceId, LaneSchedule, Scenario, Schedule, Verb};
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
    vm: &'a Vm,
    ledger: &'a Ledger,
    log: &'a Log,
    targets: BTreeMap<&'a DeviceId, (Device, u32)>,
}

impl<'a> Lanes<'a> {
    pub(super) fn new(vm: &'a Vm, scenario: &'a Scenario, ledger: &'a Ledger, log: &'a Log) -> Self {
        // A CPU device always sits in the same slot, behind the boot CPUs: a replayed trial moves the same CPU.
        let mut next = scenario.machine.cpus;
        let mut targets = BTreeMap::new();
        for (id, device) in &scenario.devices {
            targets.insert(id, (*device, next));
            next += u32::from(*device == Device::Cpu);
        }
        Self { vm, ledger, log, targets }
    }

    /// Runs all lanes to their end, or until an operation times out: what follows would only measure the hang.
    pub(super) async fn run(&self, schedule: &Schedule) -> Result<()> {
        let lanes = try_join_all(schedule.lanes.iter().map(|lane| self.lane(lane)));
        tokio::select! {
            ended = lanes => ended.map(drop),
            failed = self.name_cpus() => failed,
        }
    }

    async fn lane(&self, lane: &LaneSchedule) -> Result<()> {
        for batch in &lane.batches {
            // A pause is part of the schedule, not a wait for something.
            tokio::time::sleep(batch.pause()).await;
            self.batch(&lane.name, batch).await?;
        }
        Ok(())
    }

    async fn batch(&self, lane: &str, batch: &Batch) -> Result<()> {
        let requests = batch.devices.iter().map(|id| self.operation(lane, batch.verb, id));
        let mut running = futures::stream::iter(requests).buffer_unordered(batch.in_flight);
        while let Some(ended) = running.next().await {
            ended?;
        }
        Ok(())
    }

    async fn operation(&self, lane: &str, verb: Verb, id: &DeviceId) -> Result<()> {
        let journal = &self.vm.journal;
        let (device, cpu_slot) = *self.targets.get(id).ok_or_else(|| {
            Error::user(format!("the schedule moves `{id}`, which the scenario does not have"))
        })?;
        journal.record(Happening::OperationBegan { lane: lane.into(), verb, device: id.clone() });
        let index = {
            let (operations, _) = &mut *self.log.lock();
            operations.push(OperationRecord {
                lane: lane.into(),
                verb,
                device: id.clone(),
                asked: journal.now(),
                accepted: None,
                ended: None,
                outcome: Outcome::CutOff,
            });
            operations.len() - 1
        };
        let accepted = || {
            self.log.lock().0[index].accepted = Some(journal.now());
            journal.record(Happening::OperationAccepted { device: id.clone() });
        };
        let target = Target { id, device, cpu_slot };
        let (outcome, mismatches) = perform(self.vm, self.ledger, verb, target, accepted).await?;
        {
            let (operations, all) = &mut *self.log.lock();
            operations[index].ended = Some(journal.now());
            operations[index].outcome = outcome.clone();
            all.extend(mismatches);
        }
        journal.record(Happening::OperationEnded {
            lane: lane.into(),
            verb,
            device: id.clone(),
            outcome: outcome.clone(),
        });
        match outcome {
            Outcome::TimedOut => Err(Error::infrastructure(format!("{verb} {id} timed out"))),
            // QEMU is gone. Whoever watches it ends the trial and knows why.
            Outcome::CutOff => std::future::pending().await,
            _ => Ok(()),
        }
    }

    /// The agent knows CPUs by their number, QEMU by their slot. ACPI's device tells: `\_SB_.CPUS.C003` is slot 3
    /// (QEMU, hw/acpi/cpu.c: `CPU_NAME_FMT`). Read only after the CPU is online, when nothing removes it.
    async fn name_cpus(&self) -> Result<()> {
        let mut heard = self.vm.journal.listen();
        loop {
            let (cpu, errno) = heard
                .until(|what| match what {
                    Happening::Agent { event: Event::CpuOnline { cpu, errno }, .. } => Some((*cpu, *errno)),
                    _ => None,
                })
                .await?;
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/firmware_node/path");
            if let Ok(name) = self.vm.agent.read(path).await
                && let Some((_, slot)) = name.trim_end().rsplit_once(".C")
                && let Ok(slot) = u32::from_str_radix(slot, 16)
            {
                self.vm.journal.record(Happening::CpuReady { cpu, slot, errno });
            }
        }
    }
}
