//! All that a comparison needs before its first trial: kernels, machine, scenario, and its folder; of a new run, or of one that
//! goes on.

use std::path::{Path, PathBuf};

use clap::Parser;
use hotplug_side::{Side, Sides};
use tokio_util::sync::CancellationToken;

use super::compare::{Asked, CompareArgs};
use super::kernel::{BuildReporter, PairArgs};
use super::timed::{counts_instructions, fits_exactly};
use super::{ground, race};
use crate::compare::Judge;
use crate::kernel::{Cache, Config, Kernel, KernelPair, PairRequest, build_pair, still_asks_for};
use crate::record::{Plan, Run, RunFolder, SCHEMA, Start, read_run};
use crate::scenario::{Clock, DEFAULT, Scenario, Seed};
use crate::trial::{self, Past, Setting};
use crate::{Error, Result, host};

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
    pub(super) audience: Audience,
    pub(super) judge: Judge,
    /// What was done of it; nothing of a new one.
    pub(super) past: Past,
    /// How long that took, seconds.
    pub(super) earlier: f64,
}

/// To whom a run tells what happens in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Audience {
    /// To nobody: it is a part of another.
    #[default]
    Nobody,
    /// Lines for people, on standard error.
    Terminal,
    /// JSON lines for a program, on standard output.
    Program,
}

impl Ready {
    /// Both kernels once more, built with `config`, which `said` says; none where they were given as images, which are taken as
    /// they are.
    pub(super) async fn built_again(
        &self,
        label: &str,
        said: &str,
        config: impl FnOnce(Config) -> Config,
        cache: &Cache,
        cancel: &CancellationToken,
    ) -> Result<Option<Sides<Kernel>>> {
        if self.kernels.before.record.is_none() || self.kernels.after.record.is_none() {
            eprintln!("{label:<10}the kernels as they were given");
            return Ok(None);
        }
        let mut request = self.kernels_again(cache, cancel).await?;
        request.config = config(request.config);
        eprintln!("{label:<10}both kernels again, {said}");
        let reporter = BuildReporter::new();
        let pair = build_pair(cache, &request, &reporter, cancel).await?;
        Ok(Some(Sides { before: pair.before, after: pair.after }))
    }

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

    /// Settles how trials start, as those before them did if there are any, and writes it down.
    pub(super) async fn settle_start(&mut self, cache: &Cache, cancel: &CancellationToken) -> Result<()> {
        let earlier = self.run.start.take();
        let start = match &earlier {
            Some(cold @ Start::Cold { .. }) => cold.clone(),
            _ => {
                ground::start(
                    self.run.plan.cold,
                    &mut self.setting,
                    cache,
                    &self.folder.checkpoints(),
                    cancel,
                )
                .await?
            }
        };
        if let (Some(Start::Restored), Start::Cold { why }) = (&earlier, &start) {
            return Err(Error::infrastructure(format!(
                "the run's trials were restored from checkpoints: {why}"
            )));
        }
        self.run.start = Some(start);
        if self.resumed {
            self.run.continued.push(jiff::Timestamp::now());
        }
        self.folder.write("run.json", &self.run)
    }
}

/// Finds or builds all that the trials need, and makes the run's folder, or reopens it.
pub(super) async fn prepare(args: &CompareArgs, cache: &Cache, cancel: &CancellationToken) -> Result<Ready> {
    match &args.resume {
        None => begin(args, cache, cancel).await,
        Some(folder) => resume(args, &super::found(folder)?, cache, cancel).await,
    }
}

/// A new run: everything that can be wrong without a kernel is found before one is built.
pub(super) async fn begin(args: &CompareArgs, cache: &Cache, cancel: &CancellationToken) -> Result<Ready> {
    let (scenario, scenario_text) = scenario(args)?;
    let wanted = args.running.asked().and(scenario.machine.accelerator)?;
    if args.exact {
        fits_exactly(&scenario)?;
    }
    let known = super::known_issues(args.running.known.as_deref())?;
    let machine = ground::machine().await?;
    let (asked, pair) = kernels(args, cache, cancel).await?;
    let image = Some(&*pair.before.image);
    let probed = host::find_accelerator(&machine.qemu, wanted, image, cache, cancel).await?;
    machine.fits(&scenario, probed.accelerator)?;
    if args.exact {
        counts_instructions(probed.accelerator)?;
    }

    let initramfs = crate::image::initramfs()?;
    let name = name(args, &pair);
    let kernels = Sides { before: pair.before, after: pair.after };
    // A place that a kernel has not is told before there is a folder.
    let places = ground::places(&kernels, &scenario)?;
    let open_ended = args.time.is_some() || args.until_report;
    let folder = RunFolder::create(&args.running.results, &name)?;
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
        seed: Seed(args.running.seed.unwrap_or_else(rand::random)),
        trials: args.trials.or_else(|| (!open_ended).then_some(scenario.trials)),
        plan: Plan {
            first: args.first,
            seconds: args.time.map(|time| time.as_secs_f64()),
            until_report: args.until_report,
            until_seen: args.until_seen.clone(),
            until_decided: args.until_decided,
            cold: args.running.cold,
            workers: machine.workers(args.running.workers, &scenario),
            clock: if args.exact { Clock::Exact } else { Clock::Wall },
            boots: args.boots,
            sweep: args.sweep.clone(),
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
    let setting = machine.setting(scenario, probed.accelerator, &kernels, &run, &initramfs, places).await?;
    let (judge, past) = (Judge::new(known), Past { next: args.first, ..Past::default() });
    Ok(Ready {
        folder,
        run,
        setting,
        kernels,
        resumed: false,
        asked: Asked::by(args),
        audience: Audience::default(),
        judge,
        past,
        earlier: 0.0,
    })
}

/// The two kernels, and what asks for them again.
async fn kernels(
    args: &CompareArgs,
    cache: &Cache,
    cancel: &CancellationToken,
) -> Result<(PairArgs, KernelPair)> {
    if let Some(pair) = &args.kernels {
        return Ok((args.pair.clone(), (**pair).clone()));
    }
    // What is built later in this run is built from the same source.
    let asked = args.pair.clone().with_source_named()?;
    let pair = build_pair(cache, &asked.request()?, &BuildReporter::new(), cancel).await?;
    Ok((asked, pair))
}

/// The scenario that is asked for, and its text.
fn scenario(args: &CompareArgs) -> Result<(Scenario, String)> {
    let usual = if args.sweep.is_some() { race::SCENARIO } else { DEFAULT };
    let (scenario, mut text) = match &args.scenario {
        Some(path) => Scenario::read(path)?,
        None => (Scenario::parse(usual.0, usual.1)?, usual.1.to_owned()),
    };
    let Some(sweep) = &args.sweep else { return Ok((scenario, text)) };
    let file = format!("{}.toml", scenario.name);
    if !scenario.holds.is_empty() {
        return Err(Error::user(format!("{file} says by itself who is held"))
            .help("hotplug compare runs it as it is; or take [sweep], [[rendezvous]] and delays out of it"));
    }
    let table = toml::to_string(sweep).map_err(Error::infrastructure)?;
    text.push_str("\n[sweep]\n");
    text.push_str(&table);
    Ok((Scenario::parse(&file, &text)?, text))
}

/// A run that ended, however it did: what counts of it is judged, and what was cut off goes.
async fn resume(args: &CompareArgs, path: &Path, cache: &Cache, cancel: &CancellationToken) -> Result<Ready> {
    let mut run = read_run(path)?;
    if let Some(original) = &run.replays {
        return Err(Error::user(format!("{} holds replays, which are not continued", path.display()))
            .help(format!("hotplug replay {}", original.display())));
    }
    let (scenario, _) = ground::kept_scenario(path, &run)?;
    let kept = path.join("known.toml");
    let known = match &args.running.known {
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
    let image = Some(&*kernels.before.image);
    host::find_accelerator(&machine.qemu, accelerator.into(), image, cache, cancel).await?;

    // From here on something changes in the folder.
    let folder = RunFolder::reopen(path)?;
    let mut judge = Judge::new(known);
    let guests = run.plan.workers.max(1);
    #[expect(clippy::cast_precision_loss, reason = "guests at once are few")]
    let wall = |seconds: f64| seconds / guests as f64;
    let past = trial::look_back(&folder.trials(), run.plan.first, run.seed, |record, seconds| {
        judge.add(&record, wall(seconds));
    })?;
    if let Some(trials) = args.trials {
        let least = run.trials.unwrap_or(past.next);
        if trials < least {
            return Err(Error::user(format!("--trials {trials}, but this run has {least} a side"))
                .help(format!("--trials {least} or more, or none at all")));
        }
        run.trials = Some(trials);
    }
    let earlier = wall(past.seconds);
    if args.running.workers.is_some() {
        run.plan.workers = machine.workers(args.running.workers, &scenario);
    }
    let places = ground::places(&kernels, &scenario)?;
    let setting = machine.setting(scenario, accelerator, &kernels, &run, &initramfs, places).await?;
    Ok(Ready {
        folder,
        run,
        setting,
        kernels,
        resumed: true,
        asked: Asked::by(args),
        audience: Audience::default(),
        judge,
        past,
        earlier,
    })
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
    if let Some(known) = &args.running.known {
        fs_err::copy(known, folder.path().join("known.toml"))?;
    }
    let patches = folder.path().join("patches");
    for patch in args.pair.base_patch.iter().chain(&args.pair.patches) {
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
