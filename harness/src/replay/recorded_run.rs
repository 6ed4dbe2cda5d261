//! Finds the run of recorded trials again: its kernels, scenario and machine. `replay` and `shrink`
//! share this.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hotplug_side::{Side, Sides};

use crate::comparison::{asked, contexts, with_places, workers};
use crate::environment::{self, Env, HostEnv};
use crate::host::Acceleration;
use crate::kernel::{Cache, Kernel};
use crate::record::{Run, RunFolder, RunPlan, SCHEMA, ScenarioNote, StartMethod, read_run};
use crate::scenario::Scenario;
use crate::spec::RunningSpec;
use crate::trial::{TrialContext, TrialRecord, TrialStart};
use crate::{Error, Result};

/// What the trials of a recorded run need to run again.
pub(crate) struct RecordedRun {
    pub(crate) recorded: Run,
    /// The recorded run's folder.
    source: PathBuf,
    /// The scenarios of the trials, with their texts.
    pub(crate) scenarios: Vec<(Scenario, String)>,
    kernels: Sides<Kernel>,
    host: &'static HostEnv,
    acceleration: Acceleration,
    pub(crate) initramfs: &'static [u8],
}

impl RecordedRun {
    /// Finds what these trials of the run in `source` used, and checks that this machine can run
    /// them.
    pub(crate) async fn find(
        running: &RunningSpec,
        source: &Path,
        records: &[TrialRecord],
        env: &Env<'_>,
    ) -> Result<Self> {
        let recorded = read_run(source)?;
        let names: BTreeSet<&str> = records.iter().map(|record| record.scenario.as_str()).collect();
        let scenarios = names
            .into_iter()
            .map(|name| environment::kept_scenario(source, &recorded, name))
            .collect::<Result<Vec<_>>>()?;
        let kernels = kernels(records, env.cache, &recorded)?;
        let host = HostEnv::detect(kernels.before.arch).await?;
        let asked = asked(running, scenarios.iter().map(|(scenario, _)| scenario))?;
        let acceleration = env.accelerator(host, asked, &kernels.after.image).await?;
        scenarios.iter().try_for_each(|(scenario, _)| host.fits(scenario, acceleration.accelerator))?;
        Ok(Self {
            recorded,
            source: fs_err::canonicalize(source)?,
            scenarios,
            kernels,
            host,
            acceleration,
            initramfs: host.initramfs()?,
        })
    }

    /// The new run in `folder`, which runs each trial `times` times.
    pub(crate) fn run(&self, running: &RunningSpec, folder: &RunFolder, times: u32, env: &Env<'_>) -> Run {
        let scenarios = self.scenarios.iter().map(|(scenario, _)| scenario);
        let workers = workers(self.host, running.workers, scenarios);
        let was = self.recorded.scenarios();
        let is_run = |note: &&ScenarioNote| self.scenarios.iter().any(|(one, _)| one.name == note.name);
        let notes = was.iter().filter(is_run);
        let scenarios: Vec<_> =
            notes.map(|note| ScenarioNote { trials: Some(times), start: None, ..note.clone() }).collect();
        let (scenario, scenario_hash) = match scenarios.as_slice() {
            [one] => (one.name.clone(), one.hash.clone()),
            _ => (self.recorded.scenario.clone(), self.recorded.scenario_hash.clone()),
        };
        Run {
            schema: SCHEMA,
            hotplug: env!("CARGO_PKG_VERSION").into(),
            id: folder.id(),
            started: jiff::Timestamp::now(),
            command: env.command.to_vec(),
            host: self.host.note(&self.acceleration),
            initramfs_hash: blake3::hash(self.initramfs).to_hex().to_string(),
            scenario,
            scenario_hash,
            scenarios,
            trials: Some(times),
            plan: RunPlan { cold: running.cold, workers, ..RunPlan::default() },
            start: None,
            continued: Vec::new(),
            replays: Some(self.source.clone()),
            ..self.recorded.clone()
        }
    }

    /// The scenarios and their texts.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&Scenario, &str)> {
        self.scenarios.iter().map(|(scenario, text)| (scenario, text.as_str()))
    }

    /// The contexts of the scenarios' trials, and their starts, which are also recorded in `run`.
    /// The kernels that are returned must be held while the trials run, so that no prune removes
    /// them.
    pub(crate) async fn contexts(
        self,
        running: &RunningSpec,
        run: &mut Run,
        folder: &RunFolder,
        env: &Env<'_>,
    ) -> Result<(Vec<(TrialContext, TrialStart)>, Sides<Kernel>)> {
        let Self { host, scenarios, acceleration, kernels, initramfs, .. } = self;
        let parts = with_places(scenarios.into_iter().map(|(scenario, _)| scenario), &kernels)?;
        let parts = contexts(host, parts, acceleration.accelerator, &kernels, run, initramfs).await?;
        let mut all = Vec::new();
        for (context, of_trial) in parts {
            let evidence = of_trial.below(folder.checkpoints());
            let start = environment::start(running.cold, &context, &evidence, env).await?;
            run.set_start(&context.scenario.name, StartMethod::of(&start));
            all.push((context, start));
        }
        Ok((all, kernels))
    }
}

/// The kernels of these trials.
fn kernels(records: &[TrialRecord], cache: &Cache, run: &Run) -> Result<Sides<Kernel>> {
    let kernel = |side| {
        let wanted = records.iter().any(|record| record.side == side);
        wanted.then(|| environment::same_kernel(cache, run, side)).transpose()
    };
    match (kernel(Side::Before)?, kernel(Side::After)?) {
        (Some(before), Some(after)) => Ok(Sides { before, after }),
        // A side that is not replayed needs no kernel. The kernel of the other side takes its
        // place, and no checkpoint is made for it.
        (Some(one), None) | (None, Some(one)) => Ok(Sides { before: one.clone(), after: one }),
        (None, None) => Err(Error::user("there is nothing to replay")),
    }
}
