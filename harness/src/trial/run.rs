//! One trial from its start to its record.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hotplug_protocol::{Answer, Hello, Request, Snapshot};
use tokio_util::sync::CancellationToken;

use super::accounting::Ledger;
use super::checkpoint::Checkpoint;
use super::conclude::{Course, conclude};
use super::coverage::Count;
use super::cpus::Cpus;
use super::diagnosis;
use super::holding::{self, Holds};
use super::lanes::{Lanes, Log};
use super::listening;
use super::locks;
use super::outcome::{TrialOutcome, TrialRecord};
use super::repeat::{self, OnDisk};
use super::timing::{Trace, Watched};
use super::vm::{Cut, Origin, Vm};
use crate::gdb::GdbError;
use crate::guest::{self, AgentError, LockdepStats};
use crate::host::{Accelerator, Qemu};
use crate::journal::{Happening, Journal, Listener, Stage};
use crate::lockorder::Layout;
use crate::qemu::{self, Boot, Clock, Identity, Platform, Sealed, command_line};
use crate::record::{write_json, write_whole};
use crate::rendezvous::Places;
use crate::scenario::{Scenario, Schedule, Seed, Start};
use crate::side::{Side, Sides};
use crate::{Error, Result};

/// How long the last questions of a trial may take; a guest that still flushes thousands of records needs some.
const LAST_QUESTIONS: Duration = Duration::from_secs(60);

/// What all trials of a run share.
#[derive(Debug)]
pub struct Setting {
    /// The scenario.
    pub scenario: Scenario,
    /// QEMU.
    pub qemu: Qemu,
    /// How guest code is run.
    pub accelerator: Accelerator,
    /// The host's processor, by name.
    pub host_cpu: String,
    /// Whether QEMU has its seccomp sandbox.
    pub sandbox: bool,
    /// Who the machine says it is.
    pub platform: Platform,
    /// What the guest's kernel need not measure: see [`Boot`].
    pub loops_per_jiffy: Option<u64>,
    /// What guest time is.
    pub clock: Clock,
    /// As whom QEMU runs.
    pub identity: Identity,
    /// The agent's initramfs.
    pub initrd: Sealed,
    /// The two kernels' images.
    pub kernels: Sides<Sealed>,
    /// Where kernels and initramfs are, for who repeats a trial without the harness.
    pub on_disk: OnDisk,
    /// What trials are restored from; none where each boots.
    pub checkpoints: Option<Sides<Checkpoint>>,
    /// Where each kernel keeps its lock order, or why that is not known.
    pub lock_layouts: Sides<Result<Arc<Layout>, String>>,
    /// The files whose lines each kernel counts, where that is what the trials are for.
    pub counted: Option<Sides<Vec<String>>>,
    /// What is timed, where that is what the trials are for.
    pub watched: Option<Watched>,
    /// Where each kernel has the places that vCPUs are held at, where the scenario names any.
    pub places: Option<Sides<Arc<Places>>>,
}

impl Setting {
    /// Has guests go by this clock. `hz` is their kernels' `CONFIG_HZ`.
    pub fn go_by(&mut self, clock: Clock, hz: Option<u64>) {
        self.clock = clock;
        if clock == Clock::Exact {
            // The time stamp counter then counts nanoseconds (QEMU's system/cpu-timers.c, `cpus_get_elapsed_ticks`).
            self.loops_per_jiffy = hz.filter(|hz| *hz > 0).map(|hz| 1_000_000_000 / hz);
        }
    }

    /// Whether a guest that begins there has its vCPUs held. What checkpoints are made on is the same machine with and
    /// without.
    pub(super) fn has_gdb(&self, start: qemu::Start) -> bool {
        self.places.is_some() && start != qemu::Start::Template
    }

    /// QEMU's arguments for a guest of this scenario that begins there.
    pub fn command_line(&self, start: qemu::Start) -> Vec<String> {
        self.command_line_of(&self.scenario, start)
    }

    /// The same for another scenario.
    pub fn command_line_of(&self, scenario: &Scenario, start: qemu::Start) -> Vec<String> {
        command_line(scenario, self.boot(start))
    }

    /// How a guest is run that begins there.
    pub(super) fn boot(&self, start: qemu::Start) -> Boot {
        let Self { accelerator, sandbox, platform, loops_per_jiffy, clock, .. } = *self;
        Boot { accelerator, sandbox, platform, loops_per_jiffy, clock, start, gdb: self.has_gdb(start) }
    }
}

/// One trial to be run.
#[derive(Debug, Clone)]
pub struct TrialPlan {
    /// Which kernel.
    pub side: Side,
    /// Number within the side.
    pub number: u32,
    /// What its schedule is drawn from.
    pub seed: Seed,
    /// The recorded trial that it replays, if it replays one.
    pub replay: Option<Original>,
    /// How often it was tried already, and spoilt each time.
    pub attempt: u32,
}

/// A recorded trial that is replayed.
#[derive(Debug, Clone)]
pub struct Original {
    /// The name of its folder.
    pub folder: String,
    /// Its schedule, as it was recorded: a newer harness may draw another from the same seed.
    pub schedule: Schedule,
}

impl TrialPlan {
    /// The name of its folder, such as `before-003`, or `before-003-again1` where it is tried again.
    pub fn folder(&self) -> String {
        let name = match &self.replay {
            None => format!("{}-{:03}", self.side, self.number),
            Some(original) => format!("{}-replay-{:03}", original.folder, self.number),
        };
        match self.attempt {
            0 => name,
            attempt => format!("{name}-again{attempt}"),
        }
    }
}

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
        let watch = Watch { count: count.as_ref(), trace: trace.as_ref() };
        let (lost, ended, kernel_log, locks) = match vm {
            Err(error) => {
                course.cut = Some(Cut::Broken(error.to_string()));
                (0, None, Vec::new(), Err("its QEMU did not start".into()))
            }
            Ok(vm) => {
                let whole = lead(
                    &vm,
                    setting,
                    &plan,
                    heard,
                    &schedule,
                    (&log, &holds),
                    watch,
                    &mut course,
                    under_way,
                );
                tokio::select! {
                    () = whole => {}
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

/// What is asked of the guest beside what it does, where that is what the trial is for.
#[derive(Debug, Clone, Copy)]
struct Watch<'a> {
    count: Option<&'a Count<'a>>,
    trace: Option<&'a Trace<'a>>,
}

/// Start, load, lanes, last questions. Sets `course.cut` when something ends it early.
#[expect(clippy::too_many_arguments, reason = "the one place where all parts of a trial meet")]
async fn lead(
    vm: &Vm,
    setting: &Setting,
    plan: &TrialPlan,
    heard: Listener,
    schedule: &Schedule,
    (log, holds): (&Log, &Holds),
    watch: Watch<'_>,
    course: &mut Course,
    under_way: &CancellationToken,
) {
    let Watch { count, trace } = watch;
    let lanes = async {
        if setting.scenario.start == Start::Boot {
            return during_boot(vm, setting, heard, schedule, log, course).await;
        }
        let (hello, baseline, armed) = begin(vm, setting, plan, heard).await?;
        course.ready = Some(vm.journal.now());
        course.armed.start = armed;
        if let Some(count) = count {
            // Restored or booted, it has counted its boot.
            count.read(&vm.agent).await;
        }
        if let Some(trace) = trace {
            let begun = trace.begin(&vm.agent).await;
            let broken = |error: AgentError| Cut::Broken(format!("the guest does not tell times: {error}"));
            course.traced = begun.map_err(broken)?;
        }
        let places = setting.places.as_ref().map(|places| &**places.of(plan.side));
        let holder = Holder { places, holds };
        let lanes = from_ready(vm, setting, &hello, baseline, schedule, (log, holder), under_way);
        let counted = async {
            match count {
                Some(count) => count.follow(&vm.agent, vm.journal.listen()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // In this order: it listens before the first operation begins.
            biased;
            failed = counted => failed.map(|never| match never {}).map_err(|e| Cut::Broken(e.to_string())),
            ended = lanes => ended,
        }
    };
    // `cut` and the work borrow the machine, and the work writes the course: so the cut is set after the race.
    let cut = vm.unless_cut(lanes).await;
    under_way.cancel();
    let done = match cut {
        Ok(()) => vm.unless_cut(settle(vm, watch, setting.scenario.guest.load.len(), course)).await,
        cut => cut,
    };
    course.cut = done.err();
}

/// A lock cycle that is being printed is not disturbed ([`crate::guest::Agent::lockdep_stats`]). The longest pause seen in
/// the middle of one is 20 ms, under TCG with both cores busy.
const CALM: Duration = Duration::from_millis(100);
/// For a guest that never stops to warn.
const CALM_AT_MOST: Duration = Duration::from_secs(2);

/// The guest is restored or boots, and what it begins with is known.
async fn begin(
    vm: &Vm,
    setting: &Setting,
    plan: &TrialPlan,
    heard: Listener,
) -> Result<(Hello, Snapshot, Option<bool>), Cut> {
    if let Some(checkpoints) = &setting.checkpoints {
        let checkpoint = checkpoints.of(plan.side);
        vm.restore().await?;
        // Not waited for: it comes before anything else that is asked. Else every restored guest would go on from the
        // same random numbers.
        vm.reseed(&blake3::hash(&plan.seed.0.to_le_bytes()).to_hex());
        return Ok((checkpoint.hello().clone(), checkpoint.baseline().clone(), checkpoint.lockdep_armed()));
    }
    let hello = vm.boot(heard).await?;
    let questions = async {
        vm.kmsg.calm_for(CALM, CALM_AT_MOST).await;
        Ok::<_, AgentError>((vm.agent.snapshot().await?, vm.agent.lockdep_stats().await?))
    };
    match tokio::time::timeout(LAST_QUESTIONS, questions).await {
        Ok(Ok((baseline, stats))) => Ok((hello, baseline, stats.and_then(|stats| stats.armed()))),
        _ => Err(Cut::Hung("no answer to the first question".into())),
    }
}

/// What holding vCPUs takes of a trial.
#[derive(Debug, Clone, Copy)]
struct Holder<'a> {
    places: Option<&'a Places>,
    holds: &'a Holds,
}

impl Holder<'_> {
    /// Lets `lanes` run while vCPUs are held as `schedule` says. Once the lanes have ended nobody is held.
    async fn around(
        self,
        vm: &Vm,
        schedule: &Schedule,
        lanes: impl Future<Output = Result<(), Cut>>,
    ) -> Result<(), Cut> {
        let Some(places) = self.places.filter(|_| !schedule.holding.is_empty()) else { return lanes.await };
        let broken = |error: GdbError| Cut::Broken(error.to_string());
        let gdb = vm.gdb().await.map_err(broken)?;
        let over = CancellationToken::new();
        // Boxed: most trials hold nobody, and all would carry it.
        let mut held =
            Box::pin(holding::hold(gdb, &vm.qmp, places, &schedule.holding, &vm.journal, self.holds, &over));
        let mut lanes = pin!(lanes);
        tokio::select! {
            // Without it a guest may stand for ever.
            held = &mut held => {
                held.map_err(broken)?;
                lanes.await
            }
            done = &mut lanes => {
                over.cancel();
                held.await.map_err(broken).and(done)
            }
        }
    }
}

/// The lanes of a guest that is there to be asked, under load.
async fn from_ready(
    vm: &Vm,
    setting: &Setting,
    hello: &Hello,
    baseline: Snapshot,
    schedule: &Schedule,
    (log, holder): (&Log, Holder<'_>),
    under_way: &CancellationToken,
) -> Result<(), Cut> {
    let scenario = &setting.scenario;
    let cpus = Cpus::of_boot(&baseline.cpus_online);
    let spare =
        (!schedule.holding.is_empty()).then(|| listening::spare(schedule, &baseline.cpus_online)).flatten();
    let listens = setting.checkpoints.as_ref().and_then(|_| listening::in_checkpoints_of(scenario));
    if let Some(cpu) = spare.filter(|_| spare != listens) {
        // Before the load, whose threads are not to listen.
        listening::on(vm, cpu, LAST_QUESTIONS).await?;
    }
    let ledger = Ledger::new(baseline, hello, scenario.guest.memory_online);
    let mut loads = scenario.guest.load.clone();
    loads.extend(setting.watched.iter().flat_map(Watched::loads));
    if !loads.is_empty() {
        let start = vm.agent.ask(Request::StartLoad { loads });
        match tokio::time::timeout(LAST_QUESTIONS, start).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(Cut::Broken(format!("the load does not start: {error}"))),
            Err(_) => return Err(Cut::Hung("the load does not start".into())),
        }
    }
    vm.journal.record(Happening::Stage(Stage::Lanes));
    let lanes = Lanes::new(vm, scenario, &ledger, &cpus, log);
    let mut heard = vm.journal.listen();
    let accepted = async {
        let first = |what: &Happening| matches!(what, Happening::OperationReached { .. }).then_some(());
        let _ = heard.until(first).await;
        under_way.cancel();
        std::future::pending().await
    };
    let typed = async {
        match scenario.guest.typing {
            Some(bytes) => vm.serial.type_for_ever(bytes).await,
            None => std::future::pending().await,
        }
    };
    let all = async { lanes.run(schedule).await.map_err(|error| Cut::Hung(error.to_string())) };
    tokio::select! {
        done = holder.around(vm, schedule, all) => done,
        never = accepted => never,
        never = typed => match never {},
    }
}

/// The lanes of a guest that boots meanwhile. Nobody knows what it would have had without them, so nothing is accounted.
async fn during_boot(
    vm: &Vm,
    setting: &Setting,
    heard: Listener,
    schedule: &Schedule,
    log: &Log,
    course: &mut Course,
) -> Result<(), Cut> {
    // Of x86: what the agent would say if it were there.
    let hello = Hello { version: 0, release: String::new(), page_bytes: 4096, block_bytes: Some(128 << 20) };
    let (ledger, cpus) = (Ledger::closed(&hello), Cpus::default());
    vm.journal.record(Happening::Stage(Stage::Lanes));
    let lanes = Lanes::new(vm, &setting.scenario, &ledger, &cpus, log);
    let boot = async {
        let hello = vm.boot(heard).await;
        course.ready = hello.is_ok().then(|| vm.journal.now());
        hello
    };
    let lanes = async { lanes.run(schedule).await.map_err(|error| Cut::Hung(error.to_string())) };
    tokio::try_join!(boot, lanes).map(drop)
}

/// The last questions, of a guest whose scenario has so many `loads`.
async fn settle(vm: &Vm, watch: Watch<'_>, loads: usize, course: &mut Course) -> Result<(), Cut> {
    vm.journal.record(Happening::Stage(Stage::Settling));
    let Watch { count, trace } = watch;
    let questions = async {
        if let Some(trace) = trace {
            trace.end(&vm.agent, &mut course.traced).await.ok()?;
            trace.see_swapped(vm.swapped_kib(), &mut course.traced);
        }
        if let Ok(Answer::LoadEnded(mut ended)) = vm.agent.ask(Request::StopLoad).await {
            // Victims were started last.
            course.traced.victims = ended.split_off(ended.len().min(loads));
            course.load_loops = ended.iter().map(|end| end.loops).collect();
        }
        if let Some(count) = count {
            count.read(&vm.agent).await;
        }
        if !vm.drain(LAST_QUESTIONS).await {
            return None;
        }
        vm.kmsg.calm_for(CALM, CALM_AT_MOST).await;
        let stats = vm.agent.lockdep_stats().await.ok()?;
        course.armed.end = stats.as_ref().and_then(LockdepStats::armed);
        // Of a guest that was never asked before: what is armed now always was.
        course.armed.start = course.armed.start.or(course.armed.end);
        course.lockdep_stats = stats;
        course.lock_stat = vm.agent.lock_stat().await.ok()?;
        vm.drain(LAST_QUESTIONS).await.then_some(())
    };
    if !matches!(tokio::time::timeout(LAST_QUESTIONS, questions).await, Ok(Some(()))) {
        return Err(Cut::Hung("no answer to the last questions".into()));
    }
    vm.journal.record(Happening::Stage(Stage::Collected));
    Ok(())
}
