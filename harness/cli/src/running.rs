//! Options of all subcommands that run trials: how trials run, and where their results are kept.

use std::path::PathBuf;

use clap::Args;

use super::kernel::cache_path;
use hotplug::bisect::LineupSpec;
use hotplug::kernel::Cache;
use hotplug::spec::RunningSpec;
use hotplug::{Result, host};

/// Options for the trials of a comparison.
#[derive(Debug, Clone, Default, Args)]
pub struct RunningArgs {
    /// Boot for each trial instead of restoring a checkpoint
    #[arg(long)]
    pub cold: bool,
    /// Print events as they happen, one JSON object a line, and the result last, but no screen
    #[arg(long)]
    pub json_lines: bool,
    /// Guests that run at once [default: number of processors, fewer if memory is short]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// Seed of all schedules; the run.json of a run records it [default: a random one]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Folder for the results
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
    /// TOML file of known issues, which are listed separately and do not affect the verdict
    #[arg(long, value_name = "FILE")]
    pub known: Option<PathBuf>,
    /// Accelerator of the guests; the option probes the machine again [default: auto, as probed
    /// once since the machine booted]
    #[arg(long, value_name = "auto|kvm|tcg")]
    pub accel: Option<host::Choice>,
}

impl RunningArgs {
    /// The specification of the trials.
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

/// Options for trials of a run that is already recorded or planned.
#[derive(Debug, Clone, Args)]
pub struct RerunArgs {
    /// Boot for each trial instead of restoring a checkpoint
    #[arg(long)]
    pub cold: bool,
    /// Guests that run at once [default: number of processors, fewer if memory is short]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// Folder for the results
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
    /// Accelerator of the guests; the option probes the machine again [default: auto, as probed
    /// once since the machine booted]
    #[arg(long, value_name = "auto|kvm|tcg")]
    pub accel: Option<host::Choice>,
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl RerunArgs {
    /// The specification of the trials.
    pub(super) fn spec(&self) -> RunningSpec {
        RunningSpec {
            cold: self.cold,
            workers: self.workers,
            results: self.results.clone(),
            accelerator: self.accel,
            ..RunningSpec::default()
        }
    }

    /// The cache that these options name.
    pub(super) fn open_cache(&self) -> Result<Cache> {
        Cache::open(cache_path(self.cache.as_deref())?)
    }
}

/// Options that all kernels of a series or a bisection share, and their trials.
#[derive(Debug, Clone, Args)]
pub struct LineupArgs {
    /// Patch for all kernels; can be given several times
    #[arg(long, value_name = "PATCH")]
    pub base_patch: Vec<PathBuf>,
    /// Config fragment over the harness's own; can be given several times, the last one wins
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Parallel compilations [default: number of processors]
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<usize>,
    /// Scenario file [default: the built-in dimm-and-cpu]
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Options for the trials.
    #[command(flatten)]
    pub how: RerunArgs,
}

impl LineupArgs {
    /// The specification that all kernels and trials share.
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
