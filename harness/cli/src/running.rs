//! How the trials of a comparison are run and where they are kept: options of every subcommand that compares.

use std::path::PathBuf;

use clap::Args;

use super::kernel::cache_path;
use hotplug::bisect::LineupSpec;
use hotplug::kernel::Cache;
use hotplug::spec::RunningSpec;
use hotplug::{Result, host};

/// Options of how trials run.
#[derive(Debug, Clone, Default, Args)]
pub struct RunningArgs {
    /// Boot for each trial, instead of restoring a checkpoint
    #[arg(long)]
    pub cold: bool,
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
    /// How guest code is run [default: auto, as was found out once since this machine booted; with this option it is found
    /// out anew]
    #[arg(long, value_name = "auto|kvm|tcg")]
    pub accel: Option<host::Choice>,
}

impl RunningArgs {
    /// How the trials run.
    pub(super) fn spec(&self) -> RunningSpec {
        RunningSpec {
            cold: self.cold,
            workers: self.workers,
            seed: self.seed,
            results: self.results.clone(),
            known: self.known.clone(),
            accelerator: self.accel,
            found: None,
        }
    }
}

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
    #[arg(long, value_name = "auto|kvm|tcg")]
    pub accel: Option<host::Choice>,
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl RerunArgs {
    /// How the trials run.
    pub(super) fn spec(&self) -> RunningSpec {
        RunningSpec {
            cold: self.cold,
            workers: self.workers,
            results: self.results.clone(),
            accelerator: self.accel,
            ..RunningSpec::default()
        }
    }

    /// The cache they name.
    pub(super) fn open_cache(&self) -> Result<Cache> {
        Cache::open(cache_path(self.cache.as_deref())?)
    }
}

/// What many kernels have in common, and their trials.
#[derive(Debug, Clone, Args)]
pub struct LineupArgs {
    /// A patch that all kernels have; can be given several times
    #[arg(long, value_name = "PATCH")]
    pub base_patch: Vec<PathBuf>,
    /// Config fragment over the harness's own; can be given several times, the last one wins
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Compilations at once [default: number of processors]
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<usize>,
    /// Scenario file [default: dimm-and-cpu, which is built in]
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// How trials run.
    #[command(flatten)]
    pub how: RerunArgs,
}

impl LineupArgs {
    /// What all kernels and trials have.
    pub(super) fn spec(&self) -> LineupSpec {
        LineupSpec {
            base_patches: self.base_patch.clone(),
            config: self.config.clone(),
            jobs: self.jobs,
            scenario: self.scenario.clone(),
            running: self.how.spec(),
        }
    }
}
