//! Prepares all that a comparison needs before its first trial: kernels, machine, scenario and
//! folder, for a new run or a continued one.

use std::path::Path;

use futures::future::LocalBoxFuture;
use hotplug_kreport::KnownIssues;
use hotplug_side::{Side, Sides};

use super::masks::Masks;
use super::run::Finished;
use super::scenarios::{
    Chosen, Fitting, asked, chosen, contexts, fit, of_one_architecture, planned, run_hash, run_name,
    with_architecture, with_places, workers,
};
use super::{inputs, settled};
use crate::analysis::{Prepared, ScenarioPart, counts_instructions, fits_exactly};
use crate::compare::Judge;
use crate::environment::{self, Env, HostEnv};
use crate::host::AcceleratorRequest;
use crate::kernel::{KernelPair, PairSpec, SeriesNote, Wanted};
use crate::record::{
    HostRecord, KernelNote, Run, RunFolder, RunPlan, SCHEMA, ScenarioNote, read_result, read_run,
};
use crate::scenario::{Clock, Seed};
use crate::spec::{ComparisonSpec, ResumeSpec};
use crate::trial::{self, Again, PriorTrials, ScenarioOfTrial};
use crate::{Error, Result};

/// A comparison that was prepared.
#[derive(Debug)]
pub enum Preparation {
    /// Its trials decide.
    Trials(Box<Prepared>),
    /// Its verdict is known without any trial: both kernels are the same, or the after kernel does
    /// not compile.
    Settled(Box<Finished>),
}

impl From<Prepared> for Preparation {
    fn from(prepared: Prepared) -> Self {
        Self::Trials(Box::new(prepared))
    }
}

/// Prepares a new run. Every error that can be found without a kernel is found before one is built.
///
/// Fails with a user error if a patch, source, scenario or option cannot be used. No folder is left
/// behind then.
pub fn prepare<'a>(spec: &'a ComparisonSpec, env: &'a Env<'a>) -> LocalBoxFuture<'a, Result<Preparation>> {
    Box::pin(async move { settle_or_begin(&with_architecture(spec)?, env).await })
}

async fn settle_or_begin(spec: &ComparisonSpec, env: &Env<'_>) -> Result<Preparation> {
    let mut checked = check(spec, env).await?;
    let (named, pair) = match kernels(spec, &mut checked, env).await {
        Ok(found) => found,
        Err(error) => {
            let finished = settled::does_not_compile(spec, &checked, error, env).await?;
            return Ok(Preparation::Settled(Box::new(finished)));
        }
    };
    let request = named.request()?;
    // A kernel that is to be built twice was asked for twice.
    let is_asked = matches!(request.before, Wanted::Build { .. }) && request.before == request.after;
    if !spec.even_if_identical && !is_asked && pair.is_identical()? {
        let finished = settled::identical(spec, &checked, named, pair, env).await?;
        return Ok(Preparation::Settled(Box::new(finished)));
    }
    Ok(ready(spec, checked, named, pair, env).await?.into())
}

/// Prepares a run whose trials run in any case.
pub(super) async fn begin(spec: &ComparisonSpec, env: &Env<'_>) -> Result<Prepared> {
    let spec = &with_architecture(spec)?;
    let mut checked = check(spec, env).await?;
    let (named, pair) = kernels(spec, &mut checked, env).await?;
    ready(spec, checked, named, pair, env).await
}

/// What a new run needs beside its kernels.
pub(super) struct Checked {
    pub(super) chosen: Vec<Chosen>,
    pub(super) known: KnownIssues,
    pub(super) masks: Masks,
    pub(super) host: &'static HostEnv,
    wanted: AcceleratorRequest,
    pub(super) series: SeriesNote,
}

/// Checks all that can be checked without a kernel.
async fn check(spec: &ComparisonSpec, env: &Env<'_>) -> Result<Checked> {
    let chosen = chosen(spec)?;
    let running = &spec.running;
    let wanted = asked(running, chosen.iter().map(|one| &one.scenario))?;
    if spec.analyses.exact {
        chosen.iter().try_for_each(|one| fits_exactly(&one.scenario))?;
    }
    let known = known_issues(running.known.as_deref())?;
    let masks = Masks::of(&known, running.known.as_deref())?;
    let series = SeriesNote::of(&spec.kernels, env.cancel).await?;
    for note in &series.notes {
        env.note("note", note);
    }
    let host = HostEnv::detect(spec.kernels.arch.unwrap_or_default()).await?;
    // The agent is missed before a kernel is built.
    host.initramfs()?;
    Ok(Checked { chosen, known, masks, host, wanted, series })
}

/// Prepares the trials of a run with these kernels.
async fn ready(
    spec: &ComparisonSpec,
    checked: Checked,
    named: PairSpec,
    pair: KernelPair,
    env: &Env<'_>,
) -> Result<Prepared> {
    let Checked { chosen, known, host, wanted, series, masks: _ } = checked;
    let running = &spec.running;
    let probed = env.accelerator(host, wanted, &pair.before.image).await?;
    if spec.analyses.exact {
        counts_instructions(probed.accelerator)?;
    }

    of_one_architecture(&pair, &named)?;
    let initramfs = host.initramfs()?;
    let name = name(&spec.kernels, &pair);
    let kernels = Sides { before: pair.before, after: pair.after };
    let trials = &spec.trials;
    let Fitting { parts, notes, looks } = fit(spec, &chosen, host, probed.accelerator, &kernels)?;
    let mut judge = Judge::new(known)
        .in_looks(looks)
        .at_any_time(trials.until_decided.then_some(trials.first))
        .known_may_worsen(running.known_may_worsen);
    for note in &notes {
        note.left_out.iter().for_each(|why| judge.leave_out(&note.name, why));
    }
    let folder = RunFolder::create(&running.results, &name)?;
    let parts_of_record = RunParts {
        initramfs,
        host: host.note(&probed),
        kernels: Sides {
            before: environment::note(&kernels.before),
            after: environment::note(&kernels.after),
        },
        scenarios: notes,
        series,
        looks,
        workers: workers(host, running.workers, parts.iter().map(|(scenario, _)| scenario)),
    };
    let run = record(spec, named, parts_of_record, &chosen, &folder, env)?;
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

/// The parts of `run.json` that are not in the spec.
pub(super) struct RunParts {
    pub(super) initramfs: &'static [u8],
    pub(super) host: HostRecord,
    pub(super) kernels: Sides<KernelNote>,
    pub(super) scenarios: Vec<ScenarioNote>,
    pub(super) series: SeriesNote,
    pub(super) looks: u32,
    pub(super) workers: usize,
}

/// Writes the inputs of a run and its `run.json` into its folder.
pub(super) fn record(
    spec: &ComparisonSpec,
    named: PairSpec,
    parts: RunParts,
    chosen: &[Chosen],
    folder: &RunFolder,
    env: &Env<'_>,
) -> Result<Run> {
    let RunParts { initramfs, host, kernels, scenarios, series, looks, workers } = parts;
    let (trials, running) = (&spec.trials, &spec.running);
    let kept = inputs::keep(folder.path(), ComparisonSpec { kernels: named, ..spec.clone() }.absolute())?;
    let run = Run {
        schema: SCHEMA,
        hotplug: env!("CARGO_PKG_VERSION").into(),
        id: folder.id(),
        started: jiff::Timestamp::now(),
        command: env.command.to_vec(),
        settings: env.settings.to_vec(),
        host,
        kernels,
        patches: spec.kernels.patches_as_given(),
        series: series.patches,
        notes: series.notes,
        reply_to: series.reply_to,
        scenario: run_name(spec, &scenarios),
        scenario_hash: run_hash(&scenarios),
        trials: planned(&scenarios, trials.first),
        scenarios,
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
            workers,
            clock: if spec.analyses.exact { Clock::Exact } else { Clock::Wall },
            boots: spec.analyses.boots,
            sweep: spec.sweep.clone(),
        },
        spec: kept,
        start: None,
        continued: Vec::new(),
        replays: None,
    };
    // `run.json` is written last: a folder that has it has all inputs of the run.
    let texts = chosen.iter().map(|one| (&one.scenario, one.text.as_str()));
    environment::save_inputs(folder, &run, texts, initramfs)?;
    folder.write("run.json", &run)?;
    Ok(run)
}

/// The two kernels with the masks that apply, and the spec with their source resolved. The notes of
/// the run say what is masked.
async fn kernels(
    spec: &ComparisonSpec,
    checked: &mut Checked,
    env: &Env<'_>,
) -> Result<(PairSpec, KernelPair)> {
    if let Some(pair) = &spec.built {
        return Ok((spec.kernels.clone(), (**pair).clone()));
    }
    // Later builds of this run use the same source.
    let named = spec.kernels.clone().with_source_named()?;
    if named.given().iter().any(Option::is_some) {
        checked.masks.leave_out_all("a kernel was not built here");
    }
    let (kernels, pair) = loop {
        let kernels = checked.masks.under(named.clone());
        match env.build(&kernels.request()?).await {
            Ok(pair) => break (kernels, pair),
            Err(error) if checked.masks.leave_out(&error) => {}
            Err(error) => return Err(error),
        }
    };
    for note in checked.masks.notes() {
        env.note("mask", &note);
        checked.series.notes.push(note);
    }
    Ok((kernels, pair))
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
    if let Some(settled) = read_result(path).ok().and_then(|result| result.settled) {
        return Err(Error::user(format!("{} has no trials to continue: {settled}", path.display())));
    }
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
    let kernels = Sides {
        before: environment::same_kernel(env.cache, &run, Side::Before)?,
        after: environment::same_kernel(env.cache, &run, Side::After)?,
    };
    let host = HostEnv::detect(kernels.before.arch).await?;
    let initramfs = host.initramfs()?;
    let accelerator = environment::check_same_environment(&run, host, initramfs)?;
    env.accelerator(host, accelerator.into(), &kernels.before.image).await?;

    // From here on, the folder is modified.
    let folder = RunFolder::reopen(path)?;
    let may_worsen = run.spec.running.known_may_worsen;
    let mut judge = Judge::new(known)
        .in_looks(run.plan.looks)
        .at_any_time(run.plan.until_decided.then_some(run.plan.first))
        .known_may_worsen(may_worsen);
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
            |record, seconds, again| match again {
                Again::No => judge.add(record, earlier + wall(seconds)),
                Again::Yes => judge.add_repeated(record),
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
    change_name(spec).unwrap_or_else(|| if pair.same_image() { "same" } else { "images" }.to_owned())
}

/// The name of the first patch, or of the after revision.
pub(super) fn change_name(spec: &PairSpec) -> Option<String> {
    let patch = spec
        .patches
        .first()
        .map(|patch| patch.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()));
    patch.or_else(|| spec.after.clone())
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
