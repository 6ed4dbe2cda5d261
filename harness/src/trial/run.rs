//! Runs one trial, from its start to its record.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotplug_lockorder::Collected;
use tokio_util::sync::CancellationToken;

use super::callbacks::{CallbackEvents, CallbackTrace};
use super::checkpoint::Checkpoint;
use super::classify::{TrialState, classify};
use super::context::{TrialContext, TrialPlan, TrialSetup};
use super::coverage::Count;
use super::driver::TrialDriver;
use super::holding::Holds;
use super::lanes::Log;
use super::outcome::{TrialOutcome, TrialRecord};
use super::rest::{self, AtRest, Beginning, Earlier};
use super::rounds::Guest;
use super::timing::{Trace, Traced};
use super::vm::{Cut, Origin, Vm};
use super::{diagnosis, firmware, locks, repro_script};
use crate::event_log::{Event, EventLog, Stage, Subscription};
use crate::files::{write_json, write_whole};
use crate::limits::limits;
use crate::reach::Callbacks;
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
    guest: Result<Guest>,
}

/// Creates the trial's folder `dir`. Starts its QEMU, unless it has an idle guest. Errors only on
/// Ctrl-C or a disk error. Everything that a guest or QEMU does is an outcome of the trial.
pub(super) async fn prepare(
    setup: TrialSetup<'_>,
    plan: TrialPlan,
    dir: PathBuf,
    idle: Option<Guest>,
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
    if let Some(idle) = idle {
        let guest = idle.resume(&dir).await?;
        let event_log = guest.vm.event_log.clone();
        let heard = event_log.listen();
        return Ok(Prepared { plan, dir, schedule, event_log, heard, guest: Ok(guest) });
    }
    let event_log = EventLog::create(&dir.join("events.jsonl"))?;
    let heard = event_log.listen();
    let origin = setup.start.checkpoint(plan.side).map_or(Origin::Kernel, Origin::Checkpoint);
    let vm = tokio::select! {
        vm = Vm::start(setup.context, plan.side, origin, &dir, &event_log) => vm,
        () = cancel.cancelled() => return Err(Error::interrupted()),
        () = event_log.failed() => return Err(event_log.check().err().unwrap_or_else(Error::interrupted)),
    };
    event_log.check()?;
    let vm = match vm {
        Ok(mut vm) if setup.instruments.need_the_guest() => vm.stay().await.map(|()| vm),
        vm => vm,
    };
    Ok(Prepared { plan, dir, schedule, event_log, heard, guest: vm.map(Guest::new) })
}

/// The data that a trial collects for analyses.
struct Collectors<'a> {
    count: Option<Count<'a>>,
    trace: Option<Trace<'a>>,
    callbacks: Option<CallbackTrace<'a>>,
}

impl<'a> Collectors<'a> {
    fn new(setup: TrialSetup<'a>, plan: &TrialPlan) -> Self {
        let TrialSetup { context, instruments, .. } = setup;
        let cpus = context.scenario.machine.max_cpus;
        let counted = instruments.counted.as_ref();
        let callbacks = instruments.callbacks.as_ref();
        Self {
            count: counted.map(|sources| Count::new(sources.of(plan.side))),
            trace: instruments
                .watched
                .as_ref()
                .map(|watched| Trace::new(watched, context.scenario.machine.kind.arch().phases, cpus)),
            callbacks: callbacks.map(|layouts| CallbackTrace::new(layouts.of(plan.side), cpus)),
        }
    }

    fn is_empty(&self) -> bool {
        self.count.is_none() && self.trace.is_none() && self.callbacks.is_none()
    }

    fn write(
        self,
        plan: &TrialPlan,
        dir: &Path,
        record: &TrialRecord,
        traced: Traced,
        events: CallbackEvents,
        registered: Result<Callbacks, String>,
    ) -> Result<()> {
        let Self { count, trace, callbacks } = self;
        count.map_or(Ok(()), |count| count.write(plan, dir, record.is_cut()))?;
        trace.map_or(Ok(()), |trace| trace.write(plan, dir, record, traced))?;
        callbacks.map_or(Ok(()), |callbacks| callbacks.write(dir, record, events, registered))
    }
}

/// What is read from the memory of a guest at the end of its last trial.
struct Memory {
    locks: Result<Collected, Unavailable>,
    registered: Result<Callbacks, String>,
}

impl Memory {
    /// That of a guest whose memory is gone, for this reason.
    fn gone(why: &str) -> Self {
        Self { locks: Err(Unavailable::because(why)), registered: Err(why.to_owned()) }
    }
}

/// The machine of a trial that has ended.
enum Machine {
    /// It waits: the guest is as it began, and may take a further trial.
    Waits(Box<Guest>, Box<Beginning>, Earlier),
    /// It is gone.
    Gone(Memory),
}

impl Prepared {
    /// Ends the guest of a trial that will not run, and removes the trial's folder.
    pub(super) async fn discard(self, setup: TrialSetup<'_>) -> Result<()> {
        if let Ok(guest) = self.guest {
            guest.retire(setup, self.plan.side).await?;
        }
        Ok(fs_err::remove_dir_all(&self.dir)?)
    }

    /// Whether its guest may take a further trial afterwards.
    pub(super) fn may_go_on(&self, setup: TrialSetup<'_>) -> bool {
        self.guest.as_ref().is_ok_and(|guest| guest.round() < setup.rounds)
    }

    /// Runs the trial. `under_way` is cancelled when the first operation was accepted. Also returns
    /// the guest if it can take a further trial.
    pub(super) async fn run(
        self,
        setup: TrialSetup<'_>,
        cancel: &CancellationToken,
        under_way: &CancellationToken,
    ) -> Result<(TrialRecord, Option<Guest>)> {
        let Self { plan, dir, schedule, event_log, heard, guest } = self;
        let mut state = TrialState { taken: event_log.now(), ..TrialState::default() };
        event_log.record(Event::Stage(Stage::Taken));
        let log = Log::default();
        let holds = Holds::default();
        let context = setup.context;
        let collectors = Collectors::new(setup, &plan);
        let started = guest.is_ok();
        let (mut round, mut earlier) = (1, Vec::new());
        let mut own_log = None;
        let machine = match guest {
            Err(error) => {
                state.cut = Some(Cut::Broken(error.to_string()));
                Machine::Gone(Memory::gone("its QEMU did not start"))
            }
            Ok(guest) => {
                (round, earlier) = (guest.round(), guest.folders().to_vec());
                let driver = TrialDriver {
                    vm: &guest.vm,
                    beginning: guest.beginning(),
                    setup,
                    plan: &plan,
                    schedule: &schedule,
                    log: &log,
                    holds: &holds,
                    count: collectors.count.as_ref(),
                    trace: collectors.trace.as_ref(),
                    callbacks: collectors.callbacks.as_ref(),
                    under_way,
                };
                tokio::select! {
                    () = driver.drive(heard, &mut state) => {}
                    () = cancel.cancelled() => {}
                    () = event_log.failed() => {}
                }
                let diagnosed =
                    if cancel.is_cancelled() { Ok(()) } else { diagnose(&guest.vm, &mut state).await };
                if !cancel.is_cancelled() && setup.instruments.need_the_guest() {
                    own_log = use_afterwards(&guest.vm, setup, &plan, &mut state, cancel).await?;
                }
                let may_go_on = round < setup.rounds && collectors.is_empty() && !cancel.is_cancelled();
                let rested = if may_go_on { rest(&guest, &mut state).await } else { None };
                let ended = match rested {
                    // What the guest prints from now on belongs to its next trial.
                    Some((beginning, after)) if guest.vm.pause().await? => {
                        state.lost_records = guest.vm.kmsg.lost();
                        Ok(Machine::Waits(Box::new(guest), Box::new(beginning), after))
                    }
                    _ => end(guest, context, &plan, &collectors, &mut state, cancel).await,
                };
                // A trial whose evidence could not be written says nothing, so this error comes
                // first.
                event_log.check()?;
                diagnosed?;
                ended?
            }
        };
        if cancel.is_cancelled() {
            // The trial was cut off. Without a record it does not count, and it runs again when the
            // run is continued.
            return Err(Error::interrupted());
        }
        let kernel_log = match own_log {
            Some(log) => log,
            None if started => guest::kernel_log(&dir)?,
            None => Vec::new(),
        };
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
        let record = classify(&plan, context, schedule, &dir, &event_log, &kernel_log, log, state);
        // A trial that showed something leaves its marks, which are no news.
        let left_over = record.left_over.clone().filter(|_| record.outcome == TrialOutcome::Clean);
        let record = TrialRecord { round, earlier, left_over, ..record };
        if !matches!(record.outcome, TrialOutcome::Clean | TrialOutcome::Infrastructure) {
            repro_script::write(context, &dir, &record)?;
        }
        let mut next = None;
        match machine {
            Machine::Waits(guest, beginning, after) => {
                let guest = guest.took(record.clone(), dir.clone(), *beginning, after);
                if record.is_spotless() {
                    next = Some(guest);
                } else {
                    guest.retire(setup, plan.side).await?;
                }
            }
            Machine::Gone(Memory { locks, registered }) if !record.is_spoilt() => {
                let base = setup.start.checkpoint(plan.side).and_then(Checkpoint::lock_order);
                locks::write(&dir, &record, locks, base)?;
                collectors.write(&plan, &dir, &record, traced, events, registered)?;
            }
            Machine::Gone(_) => {}
        }
        write_json(&dir.join("trial.json"), &record)?;
        Ok((record, next))
    }
}

/// Collects the state of a guest that hangs. One that hangs in its firmware says nothing about the
/// kernel.
async fn diagnose(vm: &Vm, state: &mut TrialState) -> Result<()> {
    let Some(Cut::Hung(what)) = &state.cut else { return Ok(()) };
    let has_begun = vm.serial.has_output();
    let account = diagnosis::diagnose(vm).await?;
    if let (false, Some(at)) = (has_begun, firmware::place(&account)) {
        let why = format!("{what}: the firmware, at {at:#x}, did not start the kernel");
        state.cut = Some(Cut::Broken(why));
    }
    Ok(())
}

/// Keeps the memory of the guest and hands it over, as far as either was asked for. Returns the log
/// of its kernel up to then if it was handed over: what the user does is no part of the trial.
async fn use_afterwards(
    vm: &Vm,
    setup: TrialSetup<'_>,
    plan: &TrialPlan,
    state: &mut TrialState,
    cancel: &CancellationToken,
) -> Result<Option<Vec<u8>>> {
    let cut = state.cut.as_ref();
    if cut == Some(&Cut::Panicked) {
        // The kernel prints its stacks, and then resets the machine.
        let _ = tokio::time::timeout(limits().last_words, vm.event_log.shut_down()).await;
        let _ = tokio::time::timeout(limits().questions, vm.serial.silent_for(limits().calm)).await;
    }
    if let Some(quota) = &setup.instruments.vmcores {
        state.vmcore = quota.keep(vm, cut).await;
    }
    let Some(hand_over) = &setup.instruments.hand_over else { return Ok(None) };
    vm.kmsg.output().flush().await?;
    vm.serial.output().flush().await?;
    let log = guest::kernel_log(&vm.dir)?;
    tokio::select! {
        () = hand_over.give(vm, setup.context, plan.side, cut) => {}
        () = cancel.cancelled() => {}
    }
    Ok(Some(log))
}

/// What a guest began with, and its state, if it is as it was before its trial. `None` if the trial
/// was cut, or left something over.
async fn rest(guest: &Guest, state: &mut TrialState) -> Option<(Beginning, Earlier)> {
    let beginning = state.beginning.take().filter(|_| state.cut.is_none())?;
    match rest::look(&guest.vm, &beginning, guest.after()).await {
        AtRest::Yes(after) => Some((beginning, after)),
        AtRest::No(why) => {
            state.left_over = Some(why);
            None
        }
    }
}

/// Ends the guest, and reads its memory before as far as it is there.
async fn end(
    guest: Guest,
    context: &TrialContext,
    plan: &TrialPlan,
    collectors: &Collectors<'_>,
    state: &mut TrialState,
    cancel: &CancellationToken,
) -> Result<Machine> {
    let vm = guest.vm;
    let mut memory = Memory::gone("its guest was gone at the end");
    if !cancel.is_cancelled() && matches!(state.cut, None | Some(Cut::Hung(_))) {
        memory.locks = locks::collect(&vm, context.lock_layouts.of(plan.side)).await;
    }
    if let (Some(callbacks), None) = (&collectors.callbacks, &state.cut) {
        memory.registered = callbacks.registered(&vm).await;
    }
    state.lost_records = vm.kmsg.lost();
    state.qemu = vm.shut_down(state.cut.as_ref()).await?;
    Ok(Machine::Gone(memory))
}
