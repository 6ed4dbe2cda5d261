//! How the trials of a comparison are run and where they are kept: options of every subcommand that compares.

use std::path::PathBuf;

use clap::Args;

use crate::host;

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
    #[arg(long, value_enum)]
    pub accel: Option<host::Choice>,
    /// What a run around this one has found; `accel` has no say then.
    #[arg(skip)]
    pub found: Option<host::Accelerator>,
}

impl RunningArgs {
    /// What is asked of the accelerator.
    pub(super) fn asked(&self) -> host::AcceleratorRequest {
        self.found.map_or(host::AcceleratorRequest::by(self.accel), host::AcceleratorRequest::from)
    }
}
