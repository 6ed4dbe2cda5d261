//! `hotplug compare`: from a patch to a verdict.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::kernel::{BuildReporter, PairArgs};
use crate::bytes::Bytes;
use crate::compare::{Judge, Judgement, Verdict};
use crate::host::{self, Accelerator, System};
use crate::kernel::{Cache, Kernel, KernelPair, build_pair};
use crate::kreport::KnownIssues;
use crate::kreport::symbols::Symbols;
use crate::present::{Progress, terminal};
use crate::qemu::{Identity, Platform, Sealed, has_sandbox};
use crate::record::{Host, KernelNote, Run, RunFolder, RunResult, SCHEMA, Start};
use crate::scenario::{DEFAULT, Scenario, Seed};
use crate::side::{Side, Sides};
use crate::trial::checkpoint::{self, Checkpoints};
use crate::trial::{Again, Happened, Setting, run_all};
use crate::{Error, Result};

/// Options of `hotplug compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// The two kernels.
    #[command(flatten)]
    pub pair: PairArgs,
    /// Scenario file [default: dimm-and-cpu, which is built in]
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Trials a side [default: the scenario's; with --for or --until-report as many as it takes]
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

/// What was asked for, read and checked before anything is built.
struct Asked {
    scenario: Scenario,
    scenario_text: String,
    known: KnownIssues,
    host: host::Host,
    qemu: host::Qemu,
}

/// Runs the comparison, prints the screen to `out`, returns the exit status.
pub async fn run(args: &CompareArgs, out: &mut impl Write, cancel: &CancellationToken) -> Result<u8> {
    let asked = read(args).await?;
    let request = args.pair.request()?;
    let cache = args.pair.open_cache()?;
    let pair = {
        let reporter = BuildReporter::new();
        build_pair(&cache, &request, &reporter, cancel).await?
    };
    let probed = host::probe_accelerator(&asked.qemu, args.accel, Some(&pair.before.image), cancel).await?;
    fits(&asked, probed.accelerator)?;

    let initramfs = crate::image::initramfs()?;
    let mut setting = Setting {
        initrd: Sealed::of(&initramfs)?,
        kernels: Sides {
            before: Sealed::copy_of(&pair.before.image)?,
            after: Sealed::copy_of(&pair.after.image)?,
        },
        identity: Identity::choose(probed.accelerator)?,
        sandbox: has_sandbox(&asked.qemu.path).await,
        qemu: asked.qemu,
        accelerator: probed.accelerator,
        host_cpu: asked.host.cpu.clone(),
        platform: Platform::for_releases([&*pair.before.release, &*pair.after.release]),
        scenario: asked.scenario,
        checkpoints: None,
    };
    let open_ended = args.time.is_some() || args.until_report;
    let trials = args.trials.or_else(|| (!open_ended).then_some(setting.scenario.trials));
    let folder = RunFolder::create(&args.results, &name(args, &pair))?;
    let run = Run {
        schema: SCHEMA,
        hotplug: env!("CARGO_PKG_VERSION").into(),
        id: folder.id(),
        started: jiff::Timestamp::now(),
        command: std::env::args().collect(),
        host: Host {
            qemu: setting.qemu.version.to_string(),
            accelerator: probed.accelerator.to_string(),
            accelerator_reason: probed.to_string(),
            cores: asked.host.cores,
            cpu: asked.host.cpu.clone(),
            kernel: asked.host.kernel.clone(),
        },
        kernels: Sides { before: note(&pair.before), after: note(&pair.after) },
        patches: args.pair.patches.iter().map(|p| p.display().to_string()).collect(),
        scenario: setting.scenario.name.clone(),
        scenario_hash: blake3::hash(asked.scenario_text.as_bytes()).to_hex().to_string(),
        initramfs_hash: blake3::hash(&initramfs).to_hex().to_string(),
        seed: Seed(args.seed.unwrap_or_else(rand::random)),
        trials,
    };
    keep_inputs(&folder, args, &asked.scenario_text)?;
    folder.write("run.json", &run)?;

    let start = start(args, &mut setting, &cache, &folder, cancel).await?;
    let workers = match args.workers {
        Some(n) => usize::try_from(n).unwrap_or(1),
        None => workers(&setting.scenario, &asked.host),
    };
    let progress = Progress::of_trials(trials.map(|n| u64::from(n) * 2));
    let judge = Mutex::new(Judge::new(asked.known));
    let began = Instant::now();
    let tell = |happened: Happened| {
        progress.tell(&happened);
        if let Happened::Ended(record, Again::No) = &happened {
            let mut judge = judge.lock().unwrap_or_else(PoisonError::into_inner);
            judge.add(record);
            let left = trials.map_or(0, |all| all.saturating_sub(judge.trials_seen()));
            let enough = args.time.is_some_and(|time| began.elapsed() >= time)
                || args.until_report && judge.has_findings()
                || args.until_decided && judge.is_settled(left);
            return if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        }
        ControlFlow::Continue(())
    };
    let ran =
        run_all(&setting, trials.unwrap_or(u32::MAX), run.seed, workers, &folder.trials(), cancel, &tell)
            .await;
    progress.finish();
    let mut judge = judge.into_inner().unwrap_or_else(PoisonError::into_inner);
    find_lines(&pair, &mut judge);
    let mut judgement = judge.judgement();
    if let Some(error) = &ran.stopped {
        let done = judgement.tally.before.all() + judgement.tally.after.all();
        let planned = trials.map_or_else(String::new, |n| format!(" of {}", n * 2));
        let reason = format!("{error} after {done}{planned} trials");
        judgement = Judgement { verdict: Some(Verdict::Inconclusive), reason, ..judgement };
    }
    let result = RunResult::new(run, start, judgement, ran.repeated, began.elapsed().as_secs_f64());
    let written = folder.write("result.json", &result);
    if let Some(error) = ran.stopped {
        // What stopped it is what is told, also where the result could not be written either.
        if written.is_ok() {
            out.write_all(terminal::screen(&result, folder.path()).as_bytes())?;
        }
        return Err(error);
    }
    written?;
    out.write_all(terminal::screen(&result, folder.path()).as_bytes())?;
    Ok(result.exit_status)
}

/// Has checkpoints made where trials are to be restored; says how trials start.
async fn start(
    args: &CompareArgs,
    setting: &mut Setting,
    cache: &Cache,
    folder: &RunFolder,
    cancel: &CancellationToken,
) -> Result<Start> {
    if args.cold {
        return Ok(Start::Cold { why: "--cold".into() });
    }
    match checkpoint::prepare(setting, cache, &folder.checkpoints(), cancel).await? {
        Checkpoints::Ready(checkpoints) => {
            setting.checkpoints = Some(*checkpoints);
            Ok(Start::Restored)
        }
        Checkpoints::None(why) => Ok(Start::Cold { why: format!("no checkpoint: {why}") }),
    }
}

/// Everything that can be wrong without a kernel is found before one is built.
async fn read(args: &CompareArgs) -> Result<Asked> {
    let (scenario, scenario_text) = match &args.scenario {
        Some(path) => Scenario::read(path)?,
        None => (Scenario::parse(DEFAULT.0, DEFAULT.1)?, DEFAULT.1.to_owned()),
    };
    let known = super::known_issues(args.known.as_deref())?;
    let host = host::survey(&System::this_machine()).await?;
    let qemu = host.qemu()?.clone();
    Ok(Asked { scenario, scenario_text, known, host, qemu })
}

/// What the scenario does, this QEMU can do.
fn fits(asked: &Asked, accelerator: Accelerator) -> Result<()> {
    let scenario = &asked.scenario;
    if scenario.removes_cpus() {
        asked.qemu.check_cpu_removal(accelerator)?;
    }
    let (started, max) = (scenario.cpus_ever_started(), scenario.machine.max_cpus);
    if accelerator == Accelerator::Tcg && started > max {
        let what = format!(
            "scenario {} starts {started} vCPUs in a trial, counting every plug; under TCG QEMU starts at most max_cpus = {max} in its life",
            scenario.name
        );
        return Err(Error::user(what).mend(format!("max_cpus = {started}, or fewer repeats")));
    }
    Ok(())
}

/// Gives the frames of all reports their file, line and inlined callers, from the vmlinux of the kernel that printed
/// them. An image that the user gave has none, and its frames stay as they were printed.
fn find_lines(pair: &KernelPair, judge: &mut Judge) {
    for (side, kernel) in [(Side::Before, &pair.before), (Side::After, &pair.after)] {
        let mut reports = judge.examples_mut(side).peekable();
        let Some(vmlinux) = kernel.vmlinux.as_ref().filter(|_| reports.peek().is_some()) else { continue };
        match Symbols::open(vmlinux) {
            Ok(symbols) => reports.for_each(|report| symbols.resolve(report)),
            Err(error) => tracing::warn!(%error, "frames get no lines"),
        }
    }
}

/// What a QEMU needs beside its guest's memory: 60 MiB resident, and the translated code of a busy guest.
const QEMU_ITSELF: Bytes = Bytes(256 * Bytes::MIB);

/// One guest for each processor, as long as all of them find room when everything is plugged and touched.
fn workers(scenario: &Scenario, host: &host::Host) -> usize {
    let one = scenario.largest().0 + QEMU_ITSELF.0;
    // A quarter is left to whoever else is there.
    let room = host.memory_available.0 / 4 * 3 / one;
    host.cores.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1)
}

/// A time as people write it.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time; write it as 90s, 10m or 8h");
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(parsed).map_err(|_| wrong())
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

fn note(kernel: &Kernel) -> KernelNote {
    let source = match &kernel.record {
        Some(record) => record.source.clone(),
        None => kernel.image.display().to_string(),
    };
    KernelNote {
        id: kernel.id.as_str().to_owned(),
        release: kernel.release.clone(),
        source,
        built: kernel.built.to_string(),
        image_hash: kernel.image_hash.clone(),
        image: kernel.image.clone(),
    }
}

/// Keeps the scenario and the patches beside the results, as they were.
fn keep_inputs(folder: &RunFolder, args: &CompareArgs, scenario_text: &str) -> Result<()> {
    fs_err::write(folder.path().join("scenario.toml"), scenario_text)?;
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
