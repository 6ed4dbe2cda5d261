//! `hotplug compare`: from a patch to a verdict.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::kernel::{BuildReporter, PairArgs};
use crate::compare::{Judgement, Sides, Verdict, judge};
use crate::host::{self, Accelerator, System};
use crate::kernel::{Kernel, KernelPair, build_pair};
use crate::kreport::KnownIssues;
use crate::kreport::symbols::Symbols;
use crate::present::{Progress, terminal};
use crate::qemu::{Identity, Platform, PrivateFolder, has_sandbox};
use crate::record::{Host, KernelNote, Run, RunFolder, RunResult, SCHEMA};
use crate::scenario::{DEFAULT, Scenario, Seed};
use crate::side::Side;
use crate::trial::{Setting, TrialRecord, run_all};
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
    /// Trials a side [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub trials: Option<u32>,
    /// Guests at once [default: number of processors]
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
    let mut asked = read(args).await?;
    let request = args.pair.request()?;
    let pair = {
        let reporter = BuildReporter::new();
        build_pair(&args.pair.open_cache()?, &request, &reporter, cancel).await?
    };
    let probed = host::probe_accelerator(&asked.qemu, args.accel, Some(&pair.before.image), cancel).await?;
    fits(&asked, probed.accelerator)?;

    let private = PrivateFolder::create(Identity::choose(probed.accelerator)?)?;
    let initramfs = crate::image::initramfs()?;
    let setting = Setting {
        initrd: private.write("initramfs", &initramfs)?,
        before: private.take_in(&pair.before.image, "before")?,
        after: private.take_in(&pair.after.image, "after")?,
        private,
        qemu: asked.qemu.path.clone(),
        sandbox: has_sandbox(&asked.qemu.path).await,
        accelerator: probed.accelerator,
        platform: Platform::for_releases([&*pair.before.release, &*pair.after.release]),
        scenario: asked.scenario,
    };
    let folder = RunFolder::create(&args.results, &name(args, &pair))?;
    let run = Run {
        schema: SCHEMA,
        hotplug: env!("CARGO_PKG_VERSION").into(),
        id: folder.id(),
        started: jiff::Timestamp::now(),
        command: std::env::args().collect(),
        host: Host {
            qemu: asked.qemu.version.to_string(),
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
        trials: args.trials.unwrap_or(setting.scenario.trials),
    };
    keep_inputs(&folder, args, &asked.scenario_text)?;
    folder.write("run.json", &run)?;

    let progress = Progress::of_trials(u64::from(run.trials) * 2);
    let began = Instant::now();
    let tell = |happened| progress.tell(&happened);
    let mut ran =
        run_all(&setting, run.trials, run.seed, workers(args.workers), &folder.trials(), cancel, &tell).await;
    progress.finish();
    find_lines(&pair, &mut ran.records);
    let mut judgement = judge(&ran.records, &mut asked.known);
    if let Some(error) = &ran.stopped {
        let planned = run.trials * 2;
        let reason = format!("{error} after {} of {planned} trials", ran.records.len());
        judgement = Judgement { verdict: Some(Verdict::Inconclusive), reason, ..judgement };
    }
    let result = RunResult::new(run, judgement, ran.repeated, began.elapsed().as_secs_f64());
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
fn find_lines(pair: &KernelPair, records: &mut [TrialRecord]) {
    for (side, kernel) in [(Side::Before, &pair.before), (Side::After, &pair.after)] {
        let mut reports = records
            .iter_mut()
            .filter(|record| record.side == side)
            .flat_map(|record| &mut record.reports)
            .peekable();
        let Some(vmlinux) = kernel.vmlinux.as_ref().filter(|_| reports.peek().is_some()) else { continue };
        match Symbols::open(vmlinux) {
            Ok(symbols) => reports.for_each(|seen| symbols.resolve(&mut seen.first)),
            Err(error) => tracing::warn!(%error, "frames get no lines"),
        }
    }
}

fn workers(asked: Option<u32>) -> usize {
    match asked {
        Some(n) => usize::try_from(n).unwrap_or(1),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    }
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
