//! `hotplug doctor`: what the host has and lacks, and the command that installs the rest.

use std::io::Write;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use hotplug::host::{self, Acceleration, AcceleratorRequest, Choice, Host, Qemu, Report, Rights, System};
use hotplug::kernel::Cache;
use hotplug::{Error, Result};

/// Say what this machine has and lacks for a run; install what is lacking.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  hotplug doctor
  hotplug doctor --install

Exit status: 0 nothing is lacking; 2 something is.")]
pub struct Args {
    /// Install what is lacking with apt, as root or through sudo; does nothing where nothing is lacking.
    #[arg(long)]
    install: bool,
    /// The accelerator to try, by booting a small guest.
    #[arg(long, value_name = "auto|kvm|tcg", default_value = "auto")]
    accel: Choice,
}

/// Exit status where something is lacking: the user can install it.
const LACKING: u8 = 2;

/// Runs it and returns the process's exit status.
pub async fn run(args: Args, cancel: CancellationToken) -> Result<u8> {
    let system = System::this_machine();
    let host = host::survey(&system).await?;
    if args.install {
        return install(&system, host, &cancel).await;
    }
    let acceleration = match &host.qemu {
        // Looking is what the doctor is for: an answer of before is not enough.
        Some(qemu) => match look(qemu, args.accel, &host.cache, &cancel).await {
            Err(error) if error.kind() == hotplug::ErrorKind::Interrupted => return Err(error),
            answer => Some(answer),
        },
        None => None,
    };
    let report = Report::new(&system, &host, acceleration.as_ref());
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}, kernel {}\n\n{report}", host.os.name, host.kernel)?;
    Ok(if report.is_complete() { 0 } else { LACKING })
}

/// Finds out anew what runs guests, for the doctor and for all who come after.
async fn look(qemu: &Qemu, choice: Choice, cache: &Path, cancel: &CancellationToken) -> Result<Acceleration> {
    let cache = Cache::open(cache)?;
    host::find_accelerator(qemu, AcceleratorRequest { choice, anew: true }, None, &cache, cancel).await
}

/// Installs, then looks again: what apt had may still be too old. Boots nothing: `make compare` comes by here each
/// time, and probes for itself.
async fn install(system: &System, host: Host, cancel: &CancellationToken) -> Result<u8> {
    let lacking = host::lacking(system, host.qemu.as_ref());
    let plan = host::plan(system, &host.os, &lacking, host.qemu.as_ref())?;
    if plan.is_empty() {
        writeln!(std::io::stdout(), "doctor: nothing to install")?;
        return Ok(0);
    }
    let tell = |step: &str| {
        // Progress only: whoever closed our standard error does not want it.
        let _ = writeln!(std::io::stderr(), "doctor: {step}");
    };
    host::run_plan(&plan, Rights::of_this_process(system), cancel, tell).await?;

    let host = host::survey(system).await?;
    let lacking = host::lacking(system, host.qemu.as_ref());
    // What apt can do was done: a plan for the rest is an error that says what remains.
    let rest = host::plan(system, &host.os, &lacking, host.qemu.as_ref())?;
    if !rest.is_empty() {
        let packages = rest.all_packages().join(", ");
        return Err(Error::infrastructure(format!(
            "apt installed {packages}, and yet what they bring is not found"
        )));
    }
    writeln!(std::io::stdout(), "doctor: installed {}", plan.all_packages().join(", "))?;
    Ok(0)
}
