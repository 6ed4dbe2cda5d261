//! Prepares all that a comparison needs before its first trial: kernels, machine, scenario and
//! folder, for a new run or a continued one.

use std::path::{Path, PathBuf};

use futures::future::LocalBoxFuture;
use hotplug_kreport::KnownIssues;
use hotplug_side::{Side, Sides};

use crate::analysis::{Prepared, counts_instructions, fits_exactly};
use crate::compare::Judge;
use crate::environment::{self, Env, HostEnv};
use crate::kernel::{KernelPair, PairSpec};
use crate::record::{Run, RunFolder, RunPlan, SCHEMA, read_run};
use crate::scenario::{Clock, DEFAULT, RACE, Scenario, Seed};
use crate::spec::{ComparisonSpec, ResumeSpec};
use crate::trial::{self, PriorTrials};
use crate::{Error, Result};

/// Prepares a new run. Every error that can be found without a kernel is found before one is built.
///
/// Fails with a user error if a patch, source, scenario or option cannot be used. No folder is left
/// behind then.
pub fn prepare<'a>(spec: &'a ComparisonSpec, env: &'a Env<'a>) -> LocalBoxFuture<'a, Result<Prepared>> {
    Box::pin(begin(spec, env))
}

async fn begin(spec: &ComparisonSpec, env: &Env<'_>) -> Result<Prepared> {
    let (scenario, scenario_text) = scenario(spec)?;
    let running = &spec.running;
    let wanted = running.accelerator_request().and(scenario.machine.accelerator)?;
    if spec.analyses.exact {
        fits_exactly(&scenario)?;
    }
    let known = known_issues(running.known.as_deref())?;
    let host = HostEnv::detect().await?;
    let (named, pair) = kernels(spec, env).await?;
    let probed = env.accelerator(host, wanted, &pair.before.image).await?;
    host.fits(&scenario, probed.accelerator)?;
    if spec.analyses.exact {
        counts_instructions(probed.accelerator)?;
    }

    let initramfs = crate::image::initramfs()?;
    let name = name(&spec.kernels, &pair);
    let kernels = Sides { before: pair.before, after: pair.after };
    // A place that a kernel lacks is an error before there is a folder.
    let places = environment::places(&kernels, &scenario)?;
    let trials = &spec.trials;
    let open_ended = trials.seconds.is_some() || trials.until_report;
    let folder = RunFolder::create(&running.results, &name)?;
    let run = Run {
        schema: SCHEMA,
        hotplug: env!("CARGO_PKG_VERSION").into(),
        id: folder.id(),
        started: jiff::Timestamp::now(),
        command: env.command.to_vec(),
        host: host.note(&probed),
        kernels: Sides {
            before: environment::note(&kernels.before),
            after: environment::note(&kernels.after),
        },
        patches: spec.kernels.patches.iter().map(|p| p.display().to_string()).collect(),
        scenario: scenario.name.clone(),
        scenario_hash: blake3::hash(scenario_text.as_bytes()).to_hex().to_string(),
        initramfs_hash: blake3::hash(initramfs).to_hex().to_string(),
        seed: Seed(running.seed.unwrap_or_else(rand::random)),
        trials: trials.end.or_else(|| (!open_ended).then_some(scenario.trials)),
        plan: RunPlan {
            first: trials.first,
            seconds: trials.seconds,
            until_report: trials.until_report,
            until_seen: trials.until_seen.clone(),
            until_decided: trials.until_decided,
            cold: running.cold,
            workers: host.workers(running.workers, &scenario),
            clock: if spec.analyses.exact { Clock::Exact } else { Clock::Wall },
            boots: spec.analyses.boots,
            sweep: spec.sweep.clone(),
        },
        spec: ComparisonSpec { kernels: named, ..spec.clone() }.absolute(),
        start: None,
        continued: Vec::new(),
        replays: None,
    };
    // `run.json` is written last: a folder that has it has all inputs of the run.
    environment::save_inputs(&folder, &scenario_text, initramfs)?;
    save_patches(&folder, spec)?;
    folder.write("run.json", &run)?;
    let context = host.context(scenario, probed.accelerator, &kernels, &run, initramfs, places).await?;
    let (judge, past) = (Judge::new(known), PriorTrials { next: trials.first, ..PriorTrials::default() });
    Ok(Prepared {
        folder,
        run,
        context,
        kernels,
        resumed: false,
        analyses: spec.analyses.clone(),
        judge,
        past,
        earlier: 0.0,
    })
}

/// The two kernels, and the spec with their source resolved.
async fn kernels(spec: &ComparisonSpec, env: &Env<'_>) -> Result<(PairSpec, KernelPair)> {
    if let Some(pair) = &spec.built {
        return Ok((spec.kernels.clone(), (**pair).clone()));
    }
    // Later builds of this run use the same source.
    let named = spec.kernels.clone().with_source_named()?;
    let pair = env.build(&named.request()?).await?;
    Ok((named, pair))
}

/// The requested scenario and its text.
fn scenario(spec: &ComparisonSpec) -> Result<(Scenario, String)> {
    let usual = if spec.sweep.is_some() { RACE } else { DEFAULT };
    let (scenario, mut text) = match &spec.scenario {
        Some(path) => Scenario::read(path)?,
        None => (Scenario::parse(usual.0, usual.1)?, usual.1.to_owned()),
    };
    let Some(sweep) = &spec.sweep else { return Ok((scenario, text)) };
    let file = format!("{}.toml", scenario.name);
    if !scenario.holds.is_empty() {
        return Err(Error::user(format!("{file} defines holds of its own"))
            .help("run it with `hotplug compare`, or remove its [sweep], [[rendezvous]] and delays"));
    }
    let table = toml::to_string(sweep).map_err(Error::infrastructure)?;
    text.push_str("\n[sweep]\n");
    text.push_str(&table);
    Ok((Scenario::parse(&file, &text)?, text))
}

/// Reopens a run, however it ended. Judges its completed trials, and removes those that were cut
/// off.
///
/// Fails with a user error if the folder is not that of a run, or if its trials cannot be continued
/// here under the same conditions.
pub fn resume<'a>(spec: &'a ResumeSpec, env: &'a Env<'a>) -> LocalBoxFuture<'a, Result<Prepared>> {
    Box::pin(reopen(spec, env))
}

async fn reopen(spec: &ResumeSpec, env: &Env<'_>) -> Result<Prepared> {
    let path = &*spec.run;
    let mut run = read_run(path)?;
    if let Some(original) = &run.replays {
        return Err(Error::user(format!("{} contains replays, which cannot be continued", path.display()))
            .help(format!("hotplug replay {}", original.display())));
    }
    let (scenario, _) = environment::kept_scenario(path, &run)?;
    let kept = path.join("known.toml");
    let known = known_issues(spec.known.as_deref().or(kept.exists().then_some(&*kept)))?;
    let host = HostEnv::detect().await?;
    let kernels = Sides {
        before: environment::same_kernel(env.cache, &run, Side::Before)?,
        after: environment::same_kernel(env.cache, &run, Side::After)?,
    };
    let initramfs = crate::image::initramfs()?;
    let accelerator = environment::check_same_environment(&run, host, initramfs)?;
    env.accelerator(host, accelerator.into(), &kernels.before.image).await?;

    // From here on, the folder is modified.
    let folder = RunFolder::reopen(path)?;
    let mut judge = Judge::new(known);
    let guests = run.plan.workers.max(1);
    #[expect(clippy::cast_precision_loss, reason = "guests at once are few")]
    let wall = |seconds: f64| seconds / guests as f64;
    let past = trial::look_back(&folder.trials(), run.plan.first, run.seed, |record, seconds| {
        judge.add(&record, wall(seconds));
    })?;
    if let Some(trials) = spec.trials {
        let least = run.trials.unwrap_or(past.next);
        if trials < least {
            return Err(Error::user(format!("--trials {trials}, but this run has {least} a side"))
                .help(format!("use --trials {least} or more, or omit the option")));
        }
        run.trials = Some(trials);
    }
    let earlier = wall(past.seconds);
    if spec.workers.is_some() {
        run.plan.workers = host.workers(spec.workers, &scenario);
    }
    let places = environment::places(&kernels, &scenario)?;
    let context = host.context(scenario, accelerator, &kernels, &run, initramfs, places).await?;
    Ok(Prepared {
        folder,
        run,
        context,
        kernels,
        resumed: true,
        analyses: spec.analyses.clone(),
        judge,
        past,
        earlier,
    })
}

/// The name of the run: its first patch, or what it compares otherwise.
fn name(spec: &PairSpec, pair: &KernelPair) -> String {
    match (spec.patches.first(), &spec.after) {
        (Some(patch), _) => {
            patch.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
        }
        (None, Some(revision)) => revision.clone(),
        (None, None) if pair.same_image() => "same".into(),
        (None, None) => "images".into(),
    }
}

/// Copies the patches and the known issues into the run's folder.
fn save_patches(folder: &RunFolder, spec: &ComparisonSpec) -> Result<()> {
    if let Some(known) = &spec.running.known {
        fs_err::copy(known, folder.path().join("known.toml"))?;
    }
    let patches = folder.path().join("patches");
    for patch in spec.kernels.base_patches.iter().chain(&spec.kernels.patches) {
        fs_err::create_dir_all(&patches)?;
        for file in walkdir::WalkDir::new(patch).sort_by_file_name().into_iter().filter_map(Result::ok) {
            if file.file_type().is_file() {
                fs_err::copy(file.path(), free_name(&patches, file.path()))?;
            }
        }
    }
    Ok(())
}

/// A free path in `folder`, because two patches may have the same file name.
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

/// Reads the file of known issues, if one is given. Today's date decides which entries have
/// expired.
pub fn known_issues(file: Option<&Path>) -> Result<KnownIssues> {
    let Some(file) = file else { return Ok(KnownIssues::default()) };
    let text = fs_err::read_to_string(file).map_err(|error| {
        Error::user(format!("cannot read the known issues: {error}")).help("check the path given to --known")
    })?;
    Ok(KnownIssues::parse(&file.display().to_string(), &text, jiff::ZonedDateTime::now().date())?)
}
