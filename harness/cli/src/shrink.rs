//! `hotplug shrink`: reduces a recorded trial to a minimal scenario that still gives its report.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::replay::RerunArgs;
use super::with_env;
use hotplug::Result;
use hotplug::present::shrink as present;
use hotplug::shrink::{ShrinkSpec, shrink};

/// Options of `hotplug shrink`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example: hotplug shrink last/trials/after-003 --out smaller.toml

Removes lanes, loads, devices, steps, operations and meetings, then parts of the machine, then pauses. A candidate is \
taken at its second report. It is given up once so few reports are unlikely at half the recorded trial's rate \
(docs/results.md).

Exit status: 0 a smaller scenario was written, or the trial is minimal already; 1 the report did not come again; \
2 user error; 4 infrastructure; 130 interrupted, the best scenario so far was written.")]
pub struct ShrinkArgs {
    /// Folder of a trial, such as results/RUN/trials/after-003
    #[arg(value_name = "RESULT/TRIAL")]
    pub recorded: PathBuf,
    /// Report to keep, by the beginning of its signature in result.json [default: the first report]
    #[arg(long, value_name = "SIGNATURE")]
    pub signature: Option<String>,
    /// Trials that measure the rate of the recorded trial, and that of the result; also the maximum
    /// for each candidate
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..))]
    pub times: u32,
    /// Confidence, in percent, that a candidate is worse before it is given up
    #[arg(long, value_name = "PERCENT", default_value_t = 90, value_parser = clap::value_parser!(u32).range(50..100))]
    pub confidence: u32,
    /// Scenario file to write [default: shrunk.toml in the search's folder below --results]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Options for the trials.
    #[command(flatten)]
    pub how: RerunArgs,
}

/// Shrinks, prints the screen to `out`, and returns the exit status.
pub async fn run(args: &ShrinkArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let spec = ShrinkSpec {
        recorded: args.how.at.found(&args.recorded)?,
        signature: args.signature.clone(),
        times: args.times,
        confidence: args.confidence,
        out: args.out.clone(),
        running: args.how.spec(),
    };
    let cache = args.how.open_cache()?;
    let (result, folder, file) =
        with_env(&cache, false, cancel, async |env| shrink(&spec, env).await).await?;
    out.write_all(present::screen(&result, folder.path(), &file).as_bytes())?;
    Ok(result.exit_status)
}
