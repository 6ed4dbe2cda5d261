//! One trial from its start to its record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hotplug_protocol::{Answer, GuestTime, Hello, Request, Snapshot};
use tokio_util::sync::CancellationToken;

use super::accounting::Ledger;
use super::checkpoint::Checkpoint;
use super::cpus::Cpus;
use super::diagnosis;
use super::lanes::{Lanes, Log};
use super::operation::OperationRecord;
use super::outcome::{Armed, Outcome, Seen, TrialOutcome, TrialRecord};
use super::repeat::{self, OnDisk};
use super::vm::{Cut, Origin, Vm, last_words};
use crate::guest::{self, AgentError};
use crate::host::{Accelerator, Qemu};
use crate::journal::{Happening, HostTime, Journal, Listener, Stage};
use crate::qemu::{self, Boot, Ended, Identity, Platform, Sealed, command_line};
use crate::record::write_json;
use crate::scenario::{Expect, Operation, Phase, Scenario, Schedule, Seed, Start};
use crate::side::{Side, Sides};
use crate::{Error, Result, kreport};

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
}

impl Setting {
    /// QEMU's arguments for a guest of this scenario that begins there.
    pub fn command_line(&self, start: qemu::Start) -> Vec<String> {
        self.command_line_of(&self.scenario, start)
    }

    /// The same for another scenario.
    pub fn command_line_of(&self, scenario: &Scenario, start: qemu::Start) -> Vec<String> {
        let Self { accelerator, sandbox, platform, loops_per_jiffy, .. } = *self;
        command_line(scenario, Boot { accelerator, sandbox, platform, loops_per_jiffy, start })
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

/// What a trial came to before its log was read.
#[derive(Debug, Default)]
struct Course {
    cut: Option<Cut>,
    /// When it was taken up.
    taken: HostTime,
    /// When the guest was there to be asked.
    ready: Option<HostTime>,
    armed: Armed,
    load_loops: Vec<u64>,
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
        let (lost, ended, kernel_log) = match vm {
            Err(error) => {
                course.cut = Some(Cut::Broken(error.to_string()));
                (0, None, Vec::new())
            }
            Ok(vm) => {
                let whole = lead(&vm, setting, &plan, heard, &schedule, &log, &mut course, under_way);
                tokio::select! {
                    () = whole => {}
                    () = cancel.cancelled() => {}
                    () = journal.failed() => {}
                }
                let diagnosed = match course.cut {
                    Some(Cut::Hung(_)) if !cancel.is_cancelled() => diagnosis::diagnose(&vm).await,
                    _ => Ok(()),
                };
                let lost = vm.kmsg.lost();
                let ended = vm.shut_down(course.cut.as_ref()).await;
                // Without room for its evidence a trial says nothing, and says so first.
                journal.check()?;
                diagnosed?;
                (lost, ended?, guest::kernel_log(&dir)?)
            }
        };
        if cancel.is_cancelled() {
            // Cut off: without a record it does not count, and is run anew where the run is continued.
            return Err(Error::interrupted());
        }
        let record = conclude(&plan, schedule, &dir, &journal, &kernel_log, lost, log, course, ended);
        if !matches!(record.outcome, TrialOutcome::Clean | TrialOutcome::Infrastructure) {
            repeat::write(setting, &dir, &record)?;
        }
        write_json(&dir.join("trial.json"), &record)?;
        Ok(record)
    }
}

/// Start, load, lanes, last questions. Sets `course.cut` when something ends it early.
#[expect(clippy::too_many_arguments, reason = "the one place where all parts of a trial meet")]
async fn lead(
    vm: &Vm,
    setting: &Setting,
    plan: &TrialPlan,
    heard: Listener,
    schedule: &Schedule,
    log: &Log,
    course: &mut Course,
    under_way: &CancellationToken,
) {
    let lanes = async {
        if setting.scenario.start == Start::Boot {
            return during_boot(vm, setting, heard, schedule, log, course).await;
        }
        let (hello, baseline, armed) = begin(vm, setting, plan, heard).await?;
        course.ready = Some(vm.journal.now());
        course.armed.start = armed;
        from_ready(vm, setting, &hello, baseline, schedule, log, under_way).await
    };
    // `cut` and the work borrow the machine, and the work writes the course: so the cut is set after the race.
    let cut = vm.unless_cut(lanes).await;
    under_way.cancel();
    let done = match cut {
        Ok(()) => vm.unless_cut(settle(vm, course)).await,
        cut => cut,
    };
    course.cut = done.err();
}

/// A lock cycle that is being printed is not disturbed ([`crate::guest::Agent::lockdep_armed`]). The longest pause seen in
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
        Ok::<_, AgentError>((vm.agent.snapshot().await?, vm.agent.lockdep_armed().await?))
    };
    match tokio::time::timeout(LAST_QUESTIONS, questions).await {
        Ok(Ok((baseline, armed))) => Ok((hello, baseline, armed)),
        _ => Err(Cut::Hung("no answer to the first question".into())),
    }
}

/// The lanes of a guest that is there to be asked, under load.
async fn from_ready(
    vm: &Vm,
    setting: &Setting,
    hello: &Hello,
    baseline: Snapshot,
    schedule: &Schedule,
    log: &Log,
    under_way: &CancellationToken,
) -> Result<(), Cut> {
    let scenario = &setting.scenario;
    let cpus = Cpus::of_boot(&baseline.cpus_online);
    let ledger = Ledger::new(baseline, hello, scenario.guest.memory_online);
    if !scenario.guest.load.is_empty() {
        let start = vm.agent.ask(Request::StartLoad { loads: scenario.guest.load.clone() });
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
    tokio::select! {
        done = lanes.run(schedule) => done.map_err(|error| Cut::Hung(error.to_string())),
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

/// The last questions.
async fn settle(vm: &Vm, course: &mut Course) -> Result<(), Cut> {
    vm.journal.record(Happening::Stage(Stage::Settling));
    let questions = async {
        if let Ok(Answer::LoadEnded(loops)) = vm.agent.ask(Request::StopLoad).await {
            course.load_loops = loops;
        }
        if !vm.drain(LAST_QUESTIONS).await {
            return None;
        }
        vm.kmsg.calm_for(CALM, CALM_AT_MOST).await;
        course.armed.end = vm.agent.lockdep_armed().await.ok()?;
        // Of a guest that was never asked before: what is armed now always was.
        course.armed.start = course.armed.start.or(course.armed.end);
        vm.drain(LAST_QUESTIONS).await.then_some(())
    };
    if !matches!(tokio::time::timeout(LAST_QUESTIONS, questions).await, Ok(Some(()))) {
        return Err(Cut::Hung("no answer to the last questions".into()));
    }
    vm.journal.record(Happening::Stage(Stage::Collected));
    Ok(())
}

/// Reads the log and decides.
#[expect(clippy::too_many_arguments, reason = "a record is made of all parts of a trial")]
fn conclude(
    plan: &TrialPlan,
    schedule: Schedule,
    dir: &Path,
    journal: &Arc<Journal>,
    kernel_log: &[u8],
    lost_records: u64,
    log: Log,
    course: Course,
    qemu: Option<Ended>,
) -> TrialRecord {
    let (operations, mismatches) = log.into_parts();
    let mut all = kreport::scan(kernel_log);
    if operations.iter().any(|o| o.operation == Operation::Reboot && o.outcome == Outcome::Done) {
        // It was asked for.
        all.retain(|report| report.kind != kreport::Kind::Reboot);
    }
    let reports: Vec<Seen> = kreport::fold(&all)
        .into_iter()
        .map(|folded| {
            let printed = folded.first.time.and_then(|us| journal.host_time(GuestTime(us)));
            let during = printed.map(|at| in_flight(&operations, at)).unwrap_or_default();
            Seen { first: folded.first.clone(), times: folded.count as u64, during }
        })
        .collect();
    let failed = operations.iter().filter(|o| o.expect == Expect::Done).find_map(|o| match &o.outcome {
        Outcome::FailedInQemu { error } => Some(format!("QEMU refused to {}: {error}", o.operation)),
        _ => None,
    });
    let (outcome, why) = match &course.cut {
        Some(Cut::Panicked) => (TrialOutcome::Panicked, "the kernel panicked".to_owned()),
        Some(Cut::Hung(what)) => (TrialOutcome::Hung, format!("{what}{}", unknown_machine(kernel_log))),
        Some(Cut::Broken(what)) => (TrialOutcome::Infrastructure, what.clone()),
        // A panic's reboot may be seen before its words.
        Some(Cut::Ended(_))
            if reports.iter().any(|r| r.first.kind == kreport::Kind::Panic || r.first.panic.is_some()) =>
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
            _ if course.armed.end == Some(false) => {
                (TrialOutcome::Blind, "lockdep was off at the end, and no report says why".to_owned())
            }
            _ if lost_records > 0 => {
                (TrialOutcome::Blind, format!("{lost_records} kernel records were lost, or not kept"))
            }
            _ => (TrialOutcome::Clean, "watched to the end".to_owned()),
        },
    };
    TrialRecord {
        side: plan.side,
        folder: dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        number: plan.number,
        seed: plan.seed,
        schedule,
        outcome,
        why,
        armed: course.armed,
        lost_records,
        taken: course.taken,
        ready: course.ready,
        ended: journal.now(),
        operations,
        mismatches,
        load_loops: course.load_loops,
        reports,
        qemu,
    }
}

/// Why no CPU ever comes online in a kernel that does not know that its machine is virtual (`qemu/command_line.rs`):
/// `acpi_processor_hotadd_init()` fails, and `_OST` says success all the same.
fn unknown_machine(kernel_log: &[u8]) -> &'static str {
    const WORDS: &[u8] = b"ACPI: Unable to map lapic to logical cpu number";
    if memchr::memmem::find(kernel_log, WORDS).is_some() {
        ": the kernel takes its machine for bare metal and no further CPUs; it needs CONFIG_DMI and CONFIG_HYPERVISOR_GUEST"
    } else {
        ""
    }
}

/// Operations in flight at a moment, in words: `unplug dimm0..3 and plug cpu1`.
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

/// Numbers as people list them: `0..3,5`.
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
