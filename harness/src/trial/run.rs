//! Runs one trial, from its start to its record.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::callbacks::CallbackTrace;
use super::checkpoint::Checkpoint;
use super::classify::{TrialState, classify};
use super::context::{TrialPlan, TrialSetup};
use super::coverage::Count;
use super::driver::TrialDriver;
use super::holding::Holds;
use super::lanes::Log;
use super::outcome::{TrialOutcome, TrialRecord};
use super::timing::Trace;
use super::vm::{Cut, Origin, Vm};
use super::{diagnosis, locks, repro_script};
use crate::event_log::{Event, EventLog, Stage, Subscription};
use crate::files::{write_json, write_whole};
use crate::scenario::Schedule;
use crate::unavailable::Unavailable;
use crate::{Error, Result, guest};

/// A trial whose QEMU is started. It is started ahead of need if that costs nothing, because a
/// guest from a checkpoint waits.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) plan: TrialPlan,
    dir: PathBuf,
    schedule: Schedule,
    event_log: Arc<EventLog>,
    /// Subscribed since before QEMU was started.
    heard: Subscription,
    /// An error counts as infrastructure.
    vm: Result<Vm>,
}

/// Creates the trial's folder `dir` and starts its QEMU. Errors only on Ctrl-C or a disk error.
/// Everything that a guest or QEMU does is an outcome of the trial.
pub(super) async fn prepare(
    setup: TrialSetup<'_>,
    plan: TrialPlan,
    dir: PathBuf,
    cancel: &CancellationToken,
) -> Result<Prepared> {
    // The parents are not created, so a run's folder that was removed meanwhile does not come back.
    match fs_err::create_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let schedule = match &plan.replay {
        None => setup.context.scenario.schedule(plan.seed, plan.number),
        Some(original) => original.schedule.clone(),
    };
    // Evidence first: the schedule is on disk before it runs.
    write_json(&dir.join("schedule.json"), &schedule)?;
    let event_log = EventLog::create(&dir.join("events.jsonl"))?;
    let heard = event_log.listen();
    let origin = setup.start.checkpoint(plan.side).map_or(Origin::Kernel, Origin::Checkpoint);
    let vm = tokio::select! {
        vm = Vm::start(setup.context, plan.side, origin, &dir, &event_log) => vm,
        () = cancel.cancelled() => return Err(Error::interrupted()),
        () = event_log.failed() => return Err(event_log.check().err().unwrap_or_else(Error::interrupted)),
    };
    event_log.check()?;
    Ok(Prepared { plan, dir, schedule, event_log, heard, vm })
}

impl Prepared {
    /// Ends the QEMU of a trial that will not run, and removes its folder.
    pub(super) async fn discard(self) -> Result<()> {
        if let Ok(vm) = self.vm {
            vm.shut_down(None).await?;
        }
        Ok(fs_err::remove_dir_all(&self.dir)?)
    }

    /// Runs the trial. `under_way` is cancelled when the first operation was accepted.
    pub(super) async fn run(
        self,
        setup: TrialSetup<'_>,
        cancel: &CancellationToken,
        under_way: &CancellationToken,
    ) -> Result<TrialRecord> {
        let Self { plan, dir, schedule, event_log, heard, vm } = self;
        let mut state = TrialState { taken: event_log.now(), ..TrialState::default() };
        event_log.record(Event::Stage(Stage::Taken));
        let log = Log::default();
        let holds = Holds::default();
        let TrialSetup { context, start, instruments } = setup;
        let count = instruments.counted.as_ref().map(|sources| Count::new(sources.of(plan.side)));
        let cpus = context.scenario.machine.max_cpus;
        let trace = instruments.watched.as_ref().map(|watched| Trace::new(watched, cpus));
        let callbacks = instruments.callbacks.as_ref();
        let callbacks = callbacks.map(|layouts| CallbackTrace::new(layouts.of(plan.side), cpus));
        let mut registered = Err("its guest was gone at the end".to_owned());
        let (lost, ended, kernel_log, locks) = match vm {
            Err(error) => {
                state.cut = Some(Cut::Broken(error.to_string()));
                (0, None, Vec::new(), Err(Unavailable::because("its QEMU did not start")))
            }
            Ok(vm) => {
                let driver = TrialDriver {
                    vm: &vm,
                    setup,
                    plan: &plan,
                    schedule: &schedule,
                    log: &log,
                    holds: &holds,
                    count: count.as_ref(),
                    trace: trace.as_ref(),
                    callbacks: callbacks.as_ref(),
                    under_way,
                };
                tokio::select! {
                    () = driver.drive(heard, &mut state) => {}
                    () = cancel.cancelled() => {}
                    () = event_log.failed() => {}
                }
                let diagnosed = match state.cut {
                    Some(Cut::Hung(_)) if !cancel.is_cancelled() => diagnosis::diagnose(&vm).await,
                    _ => Ok(()),
                };
                let locks = match state.cut {
                    None | Some(Cut::Hung(_)) if !cancel.is_cancelled() => {
                        locks::collect(&vm, context.lock_layouts.of(plan.side)).await
                    }
                    _ => Err(Unavailable::because("its guest was gone at the end")),
                };
                if let (Some(callbacks), None) = (&callbacks, &state.cut) {
                    registered = callbacks.registered(&vm).await;
                }
                let lost = vm.kmsg.lost();
                let ended = vm.shut_down(state.cut.as_ref()).await;
                // A trial whose evidence could not be written says nothing, so this error comes
                // first.
                event_log.check()?;
                diagnosed?;
                (lost, ended?, guest::kernel_log(&dir)?, locks)
            }
        };
        if cancel.is_cancelled() {
            // The trial was cut off. Without a record it does not count, and it runs again when the
            // run is continued.
            return Err(Error::interrupted());
        }
        let kept = [
            ("lockdep-stats.txt", state.lockdep_stats.take().map(|stats| stats.0)),
            ("lock-stat.txt", state.lock_stat.take()),
        ];
        for (name, text) in kept {
            text.map_or(Ok(()), |text| write_whole(&dir.join(name), text.as_bytes()))?;
        }
        let traced = std::mem::take(&mut state.traced);
        let events = std::mem::take(&mut state.callbacks);
        state.holds = holds.into_inner();
        let name = &context.scenario.name;
        let record = classify(&plan, name, schedule, &dir, &event_log, &kernel_log, lost, log, state, ended);
        if !matches!(record.outcome, TrialOutcome::Clean | TrialOutcome::Infrastructure) {
            repro_script::write(context, &dir, &record)?;
        }
        if !record.is_spoilt() {
            let base = start.checkpoint(plan.side).and_then(Checkpoint::lock_order);
            locks::write(&dir, &record, locks, base)?;
            count.map_or(Ok(()), |count| count.write(&plan, &dir))?;
            trace.map_or(Ok(()), |trace| trace.write(&plan, &dir, &record, traced))?;
            callbacks.map_or(Ok(()), |callbacks| callbacks.write(&dir, &record, events, registered))?;
        }
        write_json(&dir.join("trial.json"), &record)?;
        Ok(record)
    }
}
