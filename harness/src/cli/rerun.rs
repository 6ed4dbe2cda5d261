//! Recorded trials once more: the options and the ground that `replay` and `shrink` share.

use std::path::{Path, PathBuf};

use clap::Args;
use hotplug_side::{Side, Sides};
use tokio_util::sync::CancellationToken;

use super::ground::{self, Machine};
use super::kernel::cache_path;
use super::running::RunningArgs;
use crate::host::{self, Acceleration, AcceleratorRequest};
use crate::kernel::{Cache, Kernel};
use crate::record::{Plan, Run, RunFolder, SCHEMA, read_run};
use crate::scenario::Scenario;
use crate::trial::{Setting, TrialRecord};
use crate::{Error, Result};

/// How recorded trials are run once more.
#[derive(Debug, Clone, Args)]
pub struct RerunArgs {
    /// Boot for each trial, instead of restoring a checkpoint
    #[arg(long)]
    pub cold: bool,
    /// Guests at once [default: number of processors, less where memory is short]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
    /// How guest code is run [default: auto, as was found out once since this machine booted; with this option it is found
    /// out anew]
    #[arg(long, value_enum)]
    pub accel: Option<host::Choice>,
    /// What a run around this one has found; `accel` has no say then.
    #[arg(skip)]
    pub found: Option<host::Accelerator>,
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl RerunArgs {
    /// The same for comparisons whose runs go into `folder`.
    pub(super) fn running(&self, folder: &Path) -> RunningArgs {
        RunningArgs {
            cold: self.cold,
            workers: self.workers,
            results: folder.to_owned(),
            accel: self.accel,
            found: self.found,
            ..RunningArgs::default()
        }
    }
}

/// What a recorded run's trials need to be run once more.
pub(super) struct Rerun {
    pub(super) recorded: Run,
    /// The recorded run's folder.
    source: PathBuf,
    pub(super) scenario: Scenario,
    pub(super) scenario_text: String,
    pub(super) cache: Cache,
    kernels: Sides<Kernel>,
    machine: Machine,
    acceleration: Acceleration,
    pub(super) initramfs: Vec<u8>,
}

impl Rerun {
    /// Finds again what these trials of the run in `source` used, and sees that this machine can do what they did.
    pub(super) async fn look(
        args: &RerunArgs,
        source: &Path,
        records: &[TrialRecord],
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let recorded = read_run(source)?;
        let (scenario, scenario_text) = ground::kept_scenario(source, &recorded)?;
        let machine = ground::machine().await?;
        let cache = Cache::open(cache_path(args.cache.as_deref())?)?;
        let kernels = kernels(records, &cache, &recorded)?;
        let asked = AcceleratorRequest::by(args.accel).and(scenario.machine.accelerator)?;
        let image = Some(&*kernels.after.image);
        let acceleration = host::find_accelerator(&machine.qemu, asked, image, &cache, cancel).await?;
        machine.fits(&scenario, acceleration.accelerator)?;
        Ok(Self {
            recorded,
            source: fs_err::canonicalize(source)?,
            scenario,
            scenario_text,
            cache,
            kernels,
            machine,
            acceleration,
            initramfs: crate::image::initramfs()?,
        })
    }

    /// The run that is about to be, in `folder`, each trial `times` times.
    pub(super) fn run(&self, args: &RerunArgs, folder: &RunFolder, times: u32) -> Run {
        let workers = self.machine.workers(args.workers, &self.scenario);
        Run {
            schema: SCHEMA,
            hotplug: env!("CARGO_PKG_VERSION").into(),
            id: folder.id(),
            started: jiff::Timestamp::now(),
            command: std::env::args().collect(),
            host: self.machine.note(&self.acceleration),
            initramfs_hash: blake3::hash(&self.initramfs).to_hex().to_string(),
            trials: Some(times),
            plan: Plan { cold: args.cold, workers, ..Plan::default() },
            start: None,
            continued: Vec::new(),
            replays: Some(self.source.clone()),
            ..self.recorded.clone()
        }
    }

    /// What the trials share, their start settled and noted in `run`; and what must be held while they run: the kernels,
    /// so that no prune takes them away.
    pub(super) async fn setting(
        self,
        args: &RerunArgs,
        run: &mut Run,
        folder: &RunFolder,
        cancel: &CancellationToken,
    ) -> Result<(Setting, Sides<Kernel>)> {
        let Self { machine, scenario, acceleration, kernels, initramfs, cache, .. } = self;
        let places = ground::places(&kernels, &scenario)?;
        let mut setting =
            machine.setting(scenario, acceleration.accelerator, &kernels, run, &initramfs, places).await?;
        run.start =
            Some(ground::start(args.cold, &mut setting, &cache, &folder.checkpoints(), cancel).await?);
        Ok((setting, kernels))
    }
}

/// The kernels of these trials.
fn kernels(records: &[TrialRecord], cache: &Cache, run: &Run) -> Result<Sides<Kernel>> {
    let kernel = |side| {
        let wanted = records.iter().any(|record| record.side == side);
        wanted.then(|| ground::same_kernel(cache, run, side)).transpose()
    };
    match (kernel(Side::Before)?, kernel(Side::After)?) {
        (Some(before), Some(after)) => Ok(Sides { before, after }),
        // A side that is not replayed needs no kernel: the other's stands in, and no checkpoint is made for it.
        (Some(one), None) | (None, Some(one)) => Ok(Sides { before: one.clone(), after: one }),
        (None, None) => Err(Error::user("there is nothing to replay")),
    }
}
