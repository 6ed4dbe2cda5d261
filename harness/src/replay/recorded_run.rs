//! Finds the run of recorded trials again: its kernels, scenario and machine. `replay` and `shrink`
//! share this.

use std::path::{Path, PathBuf};

use hotplug_side::{Side, Sides};

use crate::environment::{self, Env, HostEnv};
use crate::host::Acceleration;
use crate::kernel::{Cache, Kernel};
use crate::record::{Run, RunFolder, RunPlan, SCHEMA, StartMethod, read_run};
use crate::scenario::Scenario;
use crate::spec::RunningSpec;
use crate::trial::{TrialContext, TrialRecord, TrialStart};
use crate::{Error, Result, image};

/// What the trials of a recorded run need to run again.
pub(crate) struct RecordedRun {
    pub(crate) recorded: Run,
    /// The recorded run's folder.
    source: PathBuf,
    pub(crate) scenario: Scenario,
    pub(crate) scenario_text: String,
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
        let (scenario, scenario_text) = environment::kept_scenario(source, &recorded)?;
        let host = HostEnv::detect().await?;
        let kernels = kernels(records, env.cache, &recorded)?;
        let asked = running.accelerator_request().and(scenario.machine.accelerator)?;
        let acceleration = env.accelerator(host, asked, &kernels.after.image).await?;
        host.fits(&scenario, acceleration.accelerator)?;
        Ok(Self {
            recorded,
            source: fs_err::canonicalize(source)?,
            scenario,
            scenario_text,
            kernels,
            host,
            acceleration,
            initramfs: image::initramfs()?,
        })
    }

    /// The new run in `folder`, which runs each trial `times` times.
    pub(crate) fn run(&self, running: &RunningSpec, folder: &RunFolder, times: u32, env: &Env<'_>) -> Run {
        let workers = self.host.workers(running.workers, &self.scenario);
        Run {
            schema: SCHEMA,
            hotplug: env!("CARGO_PKG_VERSION").into(),
            id: folder.id(),
            started: jiff::Timestamp::now(),
            command: env.command.to_vec(),
            host: self.host.note(&self.acceleration),
            initramfs_hash: blake3::hash(self.initramfs).to_hex().to_string(),
            trials: Some(times),
            plan: RunPlan { cold: running.cold, workers, ..RunPlan::default() },
            start: None,
            continued: Vec::new(),
            replays: Some(self.source.clone()),
            ..self.recorded.clone()
        }
    }

    /// The context that the trials share, and their start, which is also recorded in `run`. The
    /// kernels that are returned must be held while the trials run, so that no prune removes them.
    pub(crate) async fn context(
        self,
        running: &RunningSpec,
        run: &mut Run,
        folder: &RunFolder,
        env: &Env<'_>,
    ) -> Result<(TrialContext, TrialStart, Sides<Kernel>)> {
        let Self { host, scenario, acceleration, kernels, initramfs, .. } = self;
        let places = environment::places(&kernels, &scenario)?;
        let context =
            host.context(scenario, acceleration.accelerator, &kernels, run, initramfs, places).await?;
        let start = environment::start(running.cold, &context, &folder.checkpoints(), env).await?;
        run.start = Some(StartMethod::of(&start));
        Ok((context, start, kernels))
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
