//! One trial from its start to its record.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::conclude::{Course, conclude};
use super::coverage::Count;
use super::holding::Holds;
use super::lanes::Log;
use super::lead::Lead;
use super::outcome::{TrialOutcome, TrialRecord};
use super::setting::{Setting, TrialPlan};
use super::timing::Trace;
use super::vm::{Cut, Origin, Vm};
use super::{diagnosis, locks, repeat};
use crate::event_log::{Happening, Journal, Listener, Stage};
use crate::files::{write_json, write_whole};
use crate::scenario::Schedule;
use crate::{Error, Result, guest};

/// A trial whose QEMU was started, ahead of need where that costs nothing: a guest from a checkpoint waits.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) plan: TrialPlan,
    dir: PathBuf,
    schedule: Schedule,
    journal: Arc<Journal>,
    /// Listens since before QEMU was started.
    heard: Listener,
    /// An error is infrastructure's.
    vm: Result<Vm>,
}

/// Makes the trial's folder `dir` and starts its QEMU. An error is an interruption, or our own disk's; everything a
/// guest or QEMU does is an outcome of the trial.
pub(super) async fn prepare(
    setting: &Setting,
    plan: TrialPlan,
    dir: PathBuf,
    cancel: &CancellationToken,
) -> Result<Prepared> {
    // Not its parents: a run's folder that was removed meanwhile is not made anew.
    match fs_err::create_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let schedule = match &plan.replay {
        None => setting.scenario.schedule(plan.seed, plan.number),
        Some(original) => original.schedule.clone(),
    };
    // Evidence first: what is about to be done is on disk before it is done.
    write_json(&dir.join("schedule.json"), &schedule)?;
    let journal = Journal::create(&dir.join("events.jsonl"))?;
    let heard = journal.listen();
    let origin = match &setting.checkpoints {
        Some(checkpoints) => Origin::Checkpoint(checkpoints.of(plan.side)),
        None => Origin::Kernel,
    };
    let vm = tokio::select! {
        vm = Vm::start(setting, plan.side, origin, &dir, &journal) => vm,
        () = cancel.cancelled() => return Err(Error::interrupted()),
        () = journal.failed() => return Err(journal.check().err().unwrap_or_else(Error::interrupted)),
    };
    journal.check()?;
    Ok(Prepared { plan, dir, schedule, journal, heard, vm })
}

impl Prepared {
    /// Ends its QEMU and removes its folder: it will not be run.
    pub(super) async fn discard(self) -> Result<()> {
        if let Ok(vm) = self.vm {
            vm.shut_down(None).await?;
        }
        Ok(fs_err::remove_dir_all(&self.dir)?)
    }

    /// Runs it. `under_way` is told when its first operation was accepted.
    pub(super) async fn run(
        self,
        setting: &Setting,
        cancel: &CancellationToken,
        under_way: &CancellationToken,
    ) -> Result<TrialRecord> {
        let Self { plan, dir, schedule, journal, heard, vm } = self;
        let mut course = Course { taken: journal.now(), ..Course::default() };
        journal.record(Happening::Stage(Stage::Taken));
        let log = Log::default();
        let holds = Holds::default();
        let count = setting.counted.as_ref().map(|sources| Count::new(sources.of(plan.side)));
        let cpus = setting.scenario.machine.max_cpus;
        let trace = setting.watched.as_ref().map(|watched| Trace::new(watched, cpus));
        let (lost, ended, kernel_log, locks) = match vm {
            Err(error) => {
                course.cut = Some(Cut::Broken(error.to_string()));
                (0, None, Vec::new(), Err("its QEMU did not start".into()))
            }
            Ok(vm) => {
                let lead = Lead {
                    vm: &vm,
                    setting,
                    plan: &plan,
                    schedule: &schedule,
                    log: &log,
                    holds: &holds,
                    count: count.as_ref(),
                    trace: trace.as_ref(),
                    under_way,
                };
                tokio::select! {
                    () = lead.lead(heard, &mut course) => {}
                    () = cancel.cancelled() => {}
                    () = journal.failed() => {}
                }
                let diagnosed = match course.cut {
                    Some(Cut::Hung(_)) if !cancel.is_cancelled() => diagnosis::diagnose(&vm).await,
                    _ => Ok(()),
                };
                let locks = match course.cut {
                    None | Some(Cut::Hung(_)) if !cancel.is_cancelled() => {
                        locks::collect(&vm, setting.lock_layouts.of(plan.side)).await
                    }
                    _ => Err("its guest was gone at the end".into()),
                };
                let lost = vm.kmsg.lost();
                let ended = vm.shut_down(course.cut.as_ref()).await;
                // Without room for its evidence a trial says nothing, and says so first.
                journal.check()?;
                diagnosed?;
                (lost, ended?, guest::kernel_log(&dir)?, locks)
            }
        };
        if cancel.is_cancelled() {
            // Cut off: without a record it does not count, and is run anew where the run is continued.
            return Err(Error::interrupted());
        }
        let kept = [
            ("lockdep-stats.txt", course.lockdep_stats.take().map(|stats| stats.0)),
            ("lock-stat.txt", course.lock_stat.take()),
        ];
        for (name, text) in kept {
            text.map_or(Ok(()), |text| write_whole(&dir.join(name), text.as_bytes()))?;
        }
        let traced = std::mem::take(&mut course.traced);
        course.holds = holds.into_inner();
        let record = conclude(&plan, schedule, &dir, &journal, &kernel_log, lost, log, course, ended);
        if !matches!(record.outcome, TrialOutcome::Clean | TrialOutcome::Infrastructure) {
            repeat::write(setting, &dir, &record)?;
        }
        if !record.is_spoilt() {
            let base = setting.checkpoints.as_ref().and_then(|both| both.of(plan.side).lock_order());
            locks::write(&dir, &record, locks, base)?;
            count.map_or(Ok(()), |count| count.write(&plan, &dir))?;
            trace.map_or(Ok(()), |trace| trace.write(&plan, &dir, &record, traced))?;
        }
        write_json(&dir.join("trial.json"), &record)?;
        Ok(record)
    }
}
