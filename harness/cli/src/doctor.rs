//! `hotplug doctor`: checks what the host has and lacks, and installs what is missing.

use std::io::Write;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use hotplug::arch::Architecture;
use hotplug::host::{
    self, Acceleration, AcceleratorRequest, Choice, DoctorReport, Host, Qemu, Rights, System,
};
use hotplug::kernel::Cache;
use hotplug::{Error, Result};

/// Options of `hotplug doctor`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  hotplug doctor
  hotplug doctor --install

Exit status: 0 nothing is missing; 2 something is missing.")]
pub struct Args {
    /// Install what is missing with apt, as root or through sudo; does nothing if all is there
    #[arg(long)]
    install: bool,
    /// Architecture of the guests
    #[arg(long, value_name = "x86_64|ppc64le", default_value = "x86_64")]
    arch: Architecture,
    /// Accelerator to test by booting a small guest
    #[arg(long, value_name = "auto|kvm|tcg", default_value = "auto")]
    accel: Choice,
}

/// Exit status if something is missing that the user can install.
const LACKING: u8 = 2;

/// Runs the checks, or installs. Returns the exit status.
pub async fn run(args: Args, cancel: CancellationToken) -> Result<u8> {
    let system = System::this_machine();
    let host = host::survey(&system, args.arch).await?;
    if args.install {
        return install(&system, host, &cancel).await;
    }
    let acceleration = match &host.qemu {
        // The doctor always probes: a cached answer may be out of date.
        Some(qemu) => match look(qemu, args.arch, args.accel, &host.cache, &cancel).await {
            Err(error) if error.kind() == hotplug::ErrorKind::Interrupted => return Err(error),
            answer => Some(answer),
        },
        None => None,
    };
    let report = DoctorReport::new(&system, &host, acceleration.as_ref());
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}, kernel {}\n\n{report}", host.os.name, host.kernel)?;
    Ok(if report.is_complete() { 0 } else { LACKING })
}

/// Probes the accelerator again and stores the answer in the cache for later commands.
async fn look(
    qemu: &Qemu,
    arch: Architecture,
    choice: Choice,
    cache: &Path,
    cancel: &CancellationToken,
) -> Result<Acceleration> {
    let cache = Cache::open(cache)?;
    host::find_accelerator(qemu, arch, AcceleratorRequest { choice, anew: true }, None, &cache, cancel).await
}

/// Installs, then checks again, because apt's versions may still be too old. Boots no guest:
/// `make compare` calls this each time, and the comparison itself probes the accelerator.
async fn install(system: &System, host: Host, cancel: &CancellationToken) -> Result<u8> {
    let lacking = host::lacking(system, host.arch, host.qemu.as_ref());
    let plan = host::plan(system, &host.os, &lacking, host.qemu.as_ref())?;
    if plan.is_empty() {
        writeln!(std::io::stdout(), "doctor: nothing to install")?;
        return Ok(0);
    }
    let tell = |step: &str| {
        // This is progress only. A closed standard error is no reason to fail.
        let _ = writeln!(std::io::stderr(), "doctor: {step}");
    };
    host::run_plan(&plan, Rights::of_this_process(system), cancel, tell).await?;

    let host = host::survey(system, host.arch).await?;
    let lacking = host::lacking(system, host.arch, host.qemu.as_ref());
    // apt has done what it can. A plan for the rest is an error that lists what is still missing.
    let rest = host::plan(system, &host.os, &lacking, host.qemu.as_ref())?;
    if !rest.is_empty() {
        let packages = rest.all_packages().join(", ");
        return Err(Error::infrastructure(format!(
            "apt installed {packages}, but what these packages provide is still missing"
        )));
    }
    writeln!(std::io::stdout(), "doctor: installed {}", plan.all_packages().join(", "))?;
    Ok(0)
}
