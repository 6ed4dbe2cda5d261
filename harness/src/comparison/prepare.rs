//! Prepares all that a comparison needs before its first trial: kernels, machine, scenario and
//! folder, for a new run or a continued one.

use std::path::{Path, PathBuf};

use futures::future::LocalBoxFuture;
use hotplug_kreport::KnownIssues;
use hotplug_side::{Side, Sides};

use super::scenarios::{
    Fitting, asked, chosen, contexts, fit, planned, run_hash, run_name, with_places, workers,
};
use crate::analysis::{Prepared, ScenarioPart, counts_instructions, fits_exactly};
use crate::compare::Judge;
use crate::environment::{self, Env, HostEnv};
use crate::kernel::{KernelPair, PairSpec};
use crate::record::{Run, RunFolder, RunPlan, SCHEMA, read_run};
use crate::scenario::{Clock, Seed};
use crate::spec::{ComparisonSpec, ResumeSpec};
use crate::trial::{self, PriorTrials, ScenarioOfTrial};
use crate::{Error, Result};

/// Prepares a new run. Every error that can be found without a kernel is found before one is built.
///
/// Fails with a user error if a patch, source, scenario or option cannot be used. No folder is left
/// behind then.
pub fn prepare<'a>(spec: &'a ComparisonSpec, env: &'a Env<'a>) -> LocalBoxFuture<'a, Result<Prepared>> {
    Box::pin(begin(spec, env))
}

async fn begin(spec: &ComparisonSpec, env: &Env<'_>) -> Result<Prepared> {
    let chosen = chosen(spec)?;
    let running = &spec.running;
    let wanted = asked(running, chosen.iter().map(|one| &one.scenario))?;
    if spec.analyses.exact {
        chosen.iter().try_for_each(|one| fits_exactly(&one.scenario))?;
    }
    let known = known_issues(running.known.as_deref())?;
    let host = HostEnv::detect().await?;
    let (named, pair) = kernels(spec, env).await?;
    let probed = env.accelerator(host, wanted, &pair.before.image).await?;
    if spec.analyses.exact {
        counts_instructions(probed.accelerator)?;
    }

    let initramfs = crate::image::initramfs()?;
    let name = name(&spec.kernels, &pair);
    let kernels = Sides { before: pair.before, after: pair.after };
    let trials = &spec.trials;
    let Fitting { parts, notes, looks } = fit(spec, &chosen, host, probed.accelerator, &kernels)?;
    let mut judge = Judge::new(known).in_looks(looks);
    for note in &notes {
        note.left_out.iter().for_each(|why| judge.leave_out(&note.name, why));
    }
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
        scenario: run_name(spec, &notes),
        scenario_hash: run_hash(&notes),
        trials: planned(&notes, trials.first),
        scenarios: notes,
        initramfs_hash: blake3::hash(initramfs).to_hex().to_string(),
        seed: Seed(running.seed.unwrap_or_else(rand::random)),
        plan: RunPlan {
            first: trials.first,
            seconds: trials.seconds,
            until_report: trials.until_report,
            until_seen: trials.until_seen.clone(),
            until_decided: trials.until_decided,
            looks,
            cold: running.cold,
            rounds: running.rounds,
            workers: workers(host, running.workers, parts.iter().map(|(scenario, _)| scenario)),
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
    let texts = chosen.iter().map(|one| (&one.scenario, one.text.as_str()));
    environment::save_inputs(&folder, &run, texts, initramfs)?;
    save_patches(&folder, spec)?;
    folder.write("run.json", &run)?;
    let base = contexts(host, parts, probed.accelerator, &kernels, &run, initramfs).await?;
    let parts = base
        .into_iter()
        .map(|(context, of_trial)| ScenarioPart {
            context,
            of_trial,
            past: PriorTrials { next: trials.first, ..PriorTrials::default() },
        })
        .collect();
    Ok(Prepared {
        folder,
        run,
        parts,
        kernels,
        resumed: false,
        analyses: spec.analyses.clone(),
        judge,
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
    let mut notes = run.scenarios();
    let running = || notes.iter().filter(|note| note.left_out.is_none());
    let scenarios = running()
        .map(|note| Ok(environment::kept_scenario(path, &run, &note.name)?.0))
        .collect::<Result<Vec<_>>>()?;
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
    let mut judge = Judge::new(known).in_looks(run.plan.looks);
    let guests = run.plan.workers.max(1);
    #[expect(clippy::cast_precision_loss, reason = "guests at once are few")]
    let wall = |seconds: f64| seconds / guests as f64;
    let several = notes.len() > 1;
    let (mut prior, mut earlier) = (Vec::new(), 0.0);
    for (place, scenario) in scenarios.iter().enumerate() {
        let of_trial = ScenarioOfTrial::new(place, &scenario.name, several);
        let name = &scenario.name;
        let past = trial::look_back(
            &folder.trials(),
            &of_trial,
            name,
            run.plan.first,
            run.seed,
            |record, seconds| {
                judge.add(&record, earlier + wall(seconds));
            },
        )?;
        earlier += wall(past.seconds);
        prior.push(past);
    }
    for note in &mut notes {
        if let Some(why) = &note.left_out {
            judge.leave_out(&note.name, why);
        }
        let Some(trials) = spec.trials else { continue };
        let at = scenarios.iter().position(|scenario| scenario.name == note.name);
        let least = note.trials.unwrap_or(at.map_or(0, |at| prior[at].next));
        if trials < least {
            return Err(Error::user(format!("--trials {trials}, but this run has {least} a side"))
                .help(format!("use --trials {least} or more, or omit the option")));
        }
        note.trials = Some(trials);
    }
    run.trials = planned(&notes, run.plan.first);
    run.scenarios = notes;
    if spec.workers.is_some() {
        run.plan.workers = workers(host, spec.workers, scenarios.iter());
    }
    let parts = with_places(scenarios, &kernels)?;
    let parts = contexts(host, parts, accelerator, &kernels, &run, initramfs)
        .await?
        .into_iter()
        .zip(prior)
        .map(|((context, of_trial), past)| ScenarioPart { context, of_trial, past })
        .collect();
    Ok(Prepared {
        folder,
        run,
        parts,
        kernels,
        resumed: true,
        analyses: spec.analyses.clone(),
        judge,
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
