//! A comparison from its options to its result, for whoever wants one: `compare`, its control, `prove`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Args, Parser};
use tokio_util::sync::CancellationToken;

use super::counted::coverage;
use super::ground;
use super::kernel::{BuildReporter, PairArgs};
use super::lock_order::lock_order;
use super::timed::{self, counts_instructions, fits_exactly, latency};
use crate::compare::{Control, Coverage, Judge, Judgement, Verdict};
use crate::host;
use crate::kernel::{Cache, Kernel, KernelPair, PairRequest, build_pair, still_asks_for};
use crate::kreport::symbols::Symbols;
use crate::latency::Latency;
use crate::present::{Progress, stream};
use crate::qemu::Clock;
use crate::record::{Beside, Plan, Run, RunFolder, RunResult, SCHEMA, Start, read_run};
use crate::scenario::{DEFAULT, Scenario, Seed};
use crate::side::{Side, Sides};
use crate::trial::{self, Again, Happened, Past, Ran, Setting, run_all};
use crate::{Error, Result};

/// Options of `hotplug compare`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  hotplug compare my.patch
  hotplug compare --source ~/src/linux --before v6.12 --after my-branch
  hotplug compare --scenario scenarios/random-soup.toml --for 30m my-series/
  hotplug compare --exact --scenario scenarios/latency.toml my.patch
  hotplug compare --continue last --trials 50

Exit status: 0 unchanged or fixed; 1 regressed; 2 your mistake; 3 inconclusive; 4 infrastructure; 130 interrupted.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct CompareArgs {
    /// The two kernels.
    #[command(flatten)]
    pub pair: PairArgs,
    /// Go on with the run in this folder: trials that ended count, those that were cut off are run again
    #[arg(
        long = "continue",
        value_name = "RESULT",
        conflicts_with_all = [
            "patches", "source", "before", "after", "before_image", "after_image", "config", "no_default_config",
            "jobs", "scenario", "time", "until_report", "until_decided", "cold", "seed", "results", "accel"
        ]
    )]
    pub resume: Option<PathBuf>,
    /// Scenario file [default: dimm-and-cpu, which is built in]
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Trials a side [default: the scenario's; with --for or --until-report as many as it takes; with --continue the
    /// run's, of which there can be more]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub trials: Option<u32>,
    /// Begin no trial after this time, such as 90s, 10m or 8h
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub time: Option<Duration>,
    /// Begin no trial after the first report, or other finding, that is not known
    #[arg(long)]
    pub until_report: bool,
    /// Begin no trial once the verdict cannot change: a regression that the trials still planned could not undo
    #[arg(long, conflicts_with = "time")]
    pub until_decided: bool,
    /// Boot for each trial, instead of restoring a checkpoint
    #[arg(long)]
    pub cold: bool,
    /// Do without the control: planted bugs in the before kernel, which are looked for in a trial of their own
    #[arg(long)]
    pub no_control: bool,
    /// Do without two more kernels that count which of the changed lines ran
    #[arg(long)]
    pub no_coverage: bool,
    /// Do without timing the functions that the scenario names for it
    #[arg(long)]
    pub no_latency: bool,
    /// Time by a count of the guest's instructions, which no other work on the machine disturbs; under TCG, and without
    /// contention of processors
    #[arg(long, conflicts_with_all = ["no_latency", "resume"])]
    pub exact: bool,
    /// Boots of each kernel that are timed [default: the scenario's, or as many as the clock needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..), conflicts_with_all = ["no_latency", "resume"])]
    pub boots: Option<u32>,
    /// Time kernels too whose trials report, and say so
    #[arg(long)]
    pub latency_despite_reports: bool,
    /// Print what happens as it happens, one JSON object a line, and the result last, instead of the screen
    #[arg(long)]
    pub json_lines: bool,
    /// Guests at once [default: number of processors, less where memory is short]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// What all schedules are drawn from; a run's is in its run.json [default: a random one]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
    /// TOML file of known issues: they are shown apart and have no say in the verdict
    #[arg(long, value_name = "FILE")]
    pub known: Option<PathBuf>,
    /// How guest code is run
    #[arg(long, value_enum, default_value_t)]
    pub accel: host::Choice,
}

/// What is asked beside the judged trials.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is asked by itself")]
pub(super) struct Asked {
    /// What differs in the lock order, and what of the change ran: nobody asks in a control and among known bugs.
    whole: bool,
    /// Which of the changed lines ran.
    count: bool,
    /// What takes longer or shorter.
    time: bool,
    /// The same of kernels whose trials report.
    pub(super) despite_reports: bool,
}

impl Asked {
    fn by(args: &CompareArgs) -> Self {
        Self {
            whole: true,
            count: !args.no_coverage,
            time: !args.no_latency,
            despite_reports: args.latency_despite_reports,
        }
    }
}

/// A run that is ready to begin, or to go on.
pub(super) struct Ready {
    pub(super) folder: RunFolder,
    pub(super) run: Run,
    pub(super) setting: Setting,
    /// Held, so that no prune takes them away.
    pub(super) kernels: Sides<Kernel>,
    /// It goes on.
    resumed: bool,
    pub(super) asked: Asked,
    /// Whoever watches is told what happens, on standard output.
    pub(super) is_watched: bool,
    judge: Judge,
    /// What was done of it; nothing of a new one.
    past: Past,
    /// How long that took, seconds.
    earlier: f64,
}

/// A run that has ended.
pub(super) struct Finished {
    pub(super) folder: RunFolder,
    pub(super) result: RunResult,
    /// Held, so that no prune takes them away.
    pub(super) kernels: Sides<Kernel>,
    /// What it took until the first trial could begin, checkpoints above all, seconds.
    pub(super) start_seconds: f64,
    /// Why not all trials ran. The result is then of those that did.
    pub(super) stopped: Option<Error>,
}

/// Finds or builds all that the trials need, and makes the run's folder, or reopens it.
pub(super) async fn prepare(args: &CompareArgs, cache: &Cache, cancel: &CancellationToken) -> Result<Ready> {
    match &args.resume {
        None => begin(args, cache, cancel).await,
        Some(folder) => resume(args, &super::found(folder)?, cache, cancel).await,
    }
}

/// A new comparison from its beginning to its end, without a screen. Beside its trials it asks at most what takes longer.
pub(super) async fn whole(args: &CompareArgs, cache: &Cache, cancel: &CancellationToken) -> Result<Finished> {
    let mut ready = begin(args, cache, cancel).await?;
    ready.asked.whole = false;
    let finished = finish(ready, None, cache, cancel).await?;
    match finished.stopped {
        None => Ok(finished),
        Some(error) => Err(error),
    }
}

/// Runs the trials that are left, judges all of them, writes the result.
pub(super) async fn finish(
    mut ready: Ready,
    control: Option<Control>,
    cache: &Cache,
    cancel: &CancellationToken,
) -> Result<Finished> {
    let Run { plan, trials, seed, .. } = ready.run.clone();
    let then = ready.judge.tally();
    let enough = |judge: &Judge, seconds: f64| {
        let left = trials.map_or(0, |all| all.saturating_sub(judge.trials_seen()));
        plan.seconds.is_some_and(|most| seconds >= most)
            || plan.until_report && judge.has_findings()
            || plan.until_decided && judge.is_settled(left)
            || judge.is_hopeless(&then)
    };
    let past = std::mem::take(&mut ready.past);
    let new = past.next..trials.unwrap_or(u32::MAX);
    let over = past.left.is_empty() && new.is_empty() || enough(&ready.judge, ready.earlier);
    let mut ran = Ran::default();
    let (mut seconds, mut start_seconds) = (ready.earlier, 0.0);
    if over {
        eprintln!("trials    all {} were done before; they are judged again", past.done);
    } else {
        let starting = Instant::now();
        settle_start(&mut ready, cache, cancel).await?;
        start_seconds = starting.elapsed().as_secs_f64();
        let progress = Progress::of_trials(trials.map(|n| u64::from(n) * 2), past.done.into());
        let judge = Mutex::new(&mut ready.judge);
        let began = Instant::now();
        if ready.is_watched {
            stream::began(&mut std::io::stdout(), &ready.run)?;
        }
        let tell = |happened: Happened| {
            progress.tell(&happened);
            // Who watched may have gone away; the trials go on.
            let watched = ready.is_watched.then(|| stream::happened(&mut std::io::stdout(), &happened));
            if let Some(Err(error)) = watched {
                tracing::warn!(%error, "nobody reads what happens");
            }
            if let Happened::Ended(record, Again::No) = &happened {
                let mut judge = judge.lock().unwrap_or_else(PoisonError::into_inner);
                let seconds = ready.earlier + began.elapsed().as_secs_f64();
                judge.add(record, seconds);
                if enough(&judge, seconds) {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        };
        let plans = past.left.into_iter().chain(trial::plan(new, seed));
        ran = run_all(&ready.setting, plans, plan.workers, &ready.folder.trials(), cancel, &tell).await;
        seconds += began.elapsed().as_secs_f64();
        progress.finish();
    }
    find_lines(&ready.kernels, &mut ready.judge);
    let mut judgement = ready.judge.judgement();
    if let Some(error) = &ran.stopped {
        let done = judgement.tally.before.all() + judgement.tally.after.all();
        let planned = trials.map_or_else(String::new, |n| format!(" of {}", n * 2));
        let reason = format!("{error} after {done}{planned} trials");
        judgement = Judgement { verdict: Some(Verdict::Inconclusive), reason, ..judgement };
    }
    let repeated = [past.repeated, ran.repeated].concat();
    let mut beside = Beside::default();
    if ran.stopped.is_none() {
        // The trials are done and judged all the same.
        ran.stopped =
            Box::pin(ask_beside(&mut ready, &mut judgement, &mut beside, cache, cancel)).await.err();
    }
    let result = RunResult::new(ready.run, judgement, repeated, seconds, control, beside);
    match (ready.folder.write("result.json", &result), ran.stopped) {
        (Ok(()), stopped) => {
            Ok(Finished { folder: ready.folder, result, kernels: ready.kernels, start_seconds, stopped })
        }
        // What stopped it is what is told, also where the result could not be written either.
        (Err(_), Some(error)) | (Err(error), None) => Err(error),
    }
}

/// Asks what the judged trials do not tell: the lock order, what of the change ran, what takes longer.
async fn ask_beside(
    ready: &mut Ready,
    judgement: &mut Judgement,
    beside: &mut Beside,
    cache: &Cache,
    cancel: &CancellationToken,
) -> Result<()> {
    let Asked { whole, count, time, .. } = ready.asked;
    if whole {
        beside.lock_order = Some(lock_order(ready, judgement, cache, cancel).await?);
        let none = || Some(Coverage::none("--no-coverage"));
        beside.coverage = if count { coverage(ready, cache, cancel).await? } else { none() };
    }
    beside.latency = match &ready.setting.scenario.latency {
        Some(timing) if time => Some(latency(ready, timing, judgement, cache, cancel).await?),
        None if time && whole => Some(timed::unnamed(ready, judgement)),
        _ if whole => Some(Latency::none("--no-latency")),
        _ => None,
    };
    Ok(())
}

/// A new run: everything that can be wrong without a kernel is found before one is built.
async fn begin(args: &CompareArgs, cache: &Cache, cancel: &CancellationToken) -> Result<Ready> {
    let (scenario, scenario_text) = match &args.scenario {
        Some(path) => Scenario::read(path)?,
        None => (Scenario::parse(DEFAULT.0, DEFAULT.1)?, DEFAULT.1.to_owned()),
    };
    let choice = args.accel.and(scenario.machine.accelerator)?;
    if args.exact {
        fits_exactly(&scenario)?;
    }
    let known = super::known_issues(args.known.as_deref())?;
    let machine = ground::machine().await?;
    // What is built later in this run is built from the same source.
    let asked = args.pair.clone().with_source_named()?;
    let request = asked.request()?;
    let pair = {
        let reporter = BuildReporter::new();
        build_pair(cache, &request, &reporter, cancel).await?
    };
    let probed = host::probe_accelerator(&machine.qemu, choice, Some(&pair.before.image), cancel).await?;
    machine.fits(&scenario, probed.accelerator)?;
    if args.exact {
        counts_instructions(probed.accelerator)?;
    }

    let initramfs = crate::image::initramfs()?;
    let name = name(args, &pair);
    let kernels = Sides { before: pair.before, after: pair.after };
    let open_ended = args.time.is_some() || args.until_report;
    let folder = RunFolder::create(&args.results, &name)?;
    let run = Run {
        schema: SCHEMA,
        hotplug: env!("CARGO_PKG_VERSION").into(),
        id: folder.id(),
        started: jiff::Timestamp::now(),
        command: std::env::args().collect(),
        host: machine.note(&probed),
        kernels: Sides { before: ground::note(&kernels.before), after: ground::note(&kernels.after) },
        patches: args.pair.patches.iter().map(|p| p.display().to_string()).collect(),
        scenario: scenario.name.clone(),
        scenario_hash: blake3::hash(scenario_text.as_bytes()).to_hex().to_string(),
        initramfs_hash: blake3::hash(&initramfs).to_hex().to_string(),
        seed: Seed(args.seed.unwrap_or_else(rand::random)),
        trials: args.trials.or_else(|| (!open_ended).then_some(scenario.trials)),
        plan: Plan {
            seconds: args.time.map(|time| time.as_secs_f64()),
            until_report: args.until_report,
            until_decided: args.until_decided,
            cold: args.cold,
            workers: machine.workers(args.workers, &scenario),
            clock: if args.exact { Clock::Exact } else { Clock::Wall },
            boots: args.boots,
        },
        pair: asked.words(),
        start: None,
        continued: Vec::new(),
        replays: None,
    };
    // Who finds a run.json finds all of a run.
    ground::keep(&folder, &scenario_text, &initramfs)?;
    keep_inputs(&folder, args)?;
    folder.write("run.json", &run)?;
    let setting = machine.setting(scenario, probed.accelerator, &kernels, &run, &initramfs).await?;
    let (judge, past) = (Judge::new(known), Past::default());
    Ok(Ready {
        folder,
        run,
        setting,
        kernels,
        resumed: false,
        asked: Asked::by(args),
        is_watched: args.json_lines,
        judge,
        past,
        earlier: 0.0,
    })
}

/// A run that ended, however it did: what counts of it is judged, and what was cut off goes.
async fn resume(args: &CompareArgs, path: &Path, cache: &Cache, cancel: &CancellationToken) -> Result<Ready> {
    let mut run = read_run(path)?;
    if let Some(original) = &run.replays {
        return Err(Error::user(format!("{} holds replays, which are not continued", path.display()))
            .mend(format!("hotplug replay {}", original.display())));
    }
    let (scenario, _) = ground::kept_scenario(path, &run)?;
    let kept = path.join("known.toml");
    let known = match &args.known {
        Some(file) => super::known_issues(Some(file))?,
        None => super::known_issues(kept.exists().then_some(&*kept))?,
    };
    let machine = ground::machine().await?;
    let kernels = Sides {
        before: ground::same_kernel(cache, &run, Side::Before)?,
        after: ground::same_kernel(cache, &run, Side::After)?,
    };
    let initramfs = crate::image::initramfs()?;
    let accelerator = ground::alike(&run, &machine, &initramfs)?;
    host::probe_accelerator(&machine.qemu, accelerator.into(), Some(&kernels.before.image), cancel).await?;

    // From here on something changes in the folder.
    let folder = RunFolder::reopen(path)?;
    let mut judge = Judge::new(known);
    let guests = run.plan.workers.max(1);
    #[expect(clippy::cast_precision_loss, reason = "guests at once are few")]
    let wall = |seconds: f64| seconds / guests as f64;
    let past =
        trial::look_back(&folder.trials(), run.seed, |record, seconds| judge.add(&record, wall(seconds)))?;
    if let Some(trials) = args.trials {
        let least = run.trials.unwrap_or(past.next);
        if trials < least {
            return Err(Error::user(format!("--trials {trials}, but this run has {least} a side"))
                .mend(format!("--trials {least} or more, or none at all")));
        }
        run.trials = Some(trials);
    }
    let earlier = wall(past.seconds);
    if args.workers.is_some() {
        run.plan.workers = machine.workers(args.workers, &scenario);
    }
    let setting = machine.setting(scenario, accelerator, &kernels, &run, &initramfs).await?;
    Ok(Ready {
        folder,
        run,
        setting,
        kernels,
        resumed: true,
        asked: Asked::by(args),
        is_watched: args.json_lines,
        judge,
        past,
        earlier,
    })
}

/// Settles how trials start, as those before them did if there are any, and writes it down.
async fn settle_start(ready: &mut Ready, cache: &Cache, cancel: &CancellationToken) -> Result<()> {
    let earlier = ready.run.start.take();
    let start = match &earlier {
        Some(cold @ Start::Cold { .. }) => cold.clone(),
        _ => {
            ground::start(ready.run.plan.cold, &mut ready.setting, cache, &ready.folder.checkpoints(), cancel)
                .await?
        }
    };
    if let (Some(Start::Restored), Start::Cold { why }) = (&earlier, &start) {
        return Err(Error::infrastructure(format!("the run's trials were restored from checkpoints: {why}")));
    }
    ready.run.start = Some(start);
    if ready.resumed {
        ready.run.continued.push(jiff::Timestamp::now());
    }
    ready.folder.write("run.json", &ready.run)
}

/// Gives the frames of all reports their file, line and inlined callers, from the vmlinux of the kernel that printed
/// them. An image that the user gave has none, and its frames stay as they were printed.
fn find_lines(kernels: &Sides<Kernel>, judge: &mut Judge) {
    for (side, kernel) in [(Side::Before, &kernels.before), (Side::After, &kernels.after)] {
        let mut reports = judge.examples_mut(side).peekable();
        let Some(vmlinux) = kernel.vmlinux.as_ref().filter(|_| reports.peek().is_some()) else { continue };
        match Symbols::open(vmlinux) {
            Ok(symbols) => reports.for_each(|report| symbols.resolve(report)),
            Err(error) => tracing::warn!(%error, "frames get no lines"),
        }
    }
}

/// A time as people write it.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time; write it as 90s, 10m or 8h");
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(parsed).map_err(|_| wrong())
}

impl Ready {
    /// What asks for the run's kernels again, differently made; an error where what they are made of has changed meanwhile.
    pub(super) async fn kernels_again(
        &self,
        cache: &Cache,
        cancel: &CancellationToken,
    ) -> Result<PairRequest> {
        let request = pair_of(&self.run)?.request()?;
        still_asks_for(cache, &request, &self.kernels, cancel).await?;
        Ok(request)
    }
}

/// What asks for the kernels of `run` again.
pub(super) fn pair_of(run: &Run) -> Result<PairArgs> {
    /// The words of `hotplug kernel build`.
    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        pair: PairArgs,
    }
    let words = std::iter::once("hotplug").chain(run.pair.iter().map(String::as_str));
    let words = Words::try_parse_from(words);
    words.map(|words| words.pair).map_err(|error| {
        Error::infrastructure(format!("the run's kernels are named by what nobody can read: {error}"))
    })
}

/// The run's name: its first patch, or what else it compares.
fn name(args: &CompareArgs, pair: &KernelPair) -> String {
    match (args.pair.patches.first(), &args.pair.after) {
        (Some(patch), _) => {
            patch.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
        }
        (None, Some(revision)) => revision.clone(),
        (None, None) if pair.same_image() => "same".into(),
        (None, None) => "images".into(),
    }
}

/// Keeps the patches and the known issues beside the results, as they were.
fn keep_inputs(folder: &RunFolder, args: &CompareArgs) -> Result<()> {
    if let Some(known) = &args.known {
        fs_err::copy(known, folder.path().join("known.toml"))?;
    }
    let patches = folder.path().join("patches");
    for patch in &args.pair.patches {
        fs_err::create_dir_all(&patches)?;
        for file in walkdir::WalkDir::new(patch).sort_by_file_name().into_iter().filter_map(Result::ok) {
            if file.file_type().is_file() {
                fs_err::copy(file.path(), free_name(&patches, file.path()))?;
            }
        }
    }
    Ok(())
}

/// Two patches may have the same file name.
fn free_name(folder: &Path, file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut path = folder.join(&name);
    let mut number = 2;
    while path.exists() {
        path = folder.join(format!("{number}-{name}"));
        number += 1;
    }
    path
}
