//! What this machine has: distribution, packages, QEMU, an accelerator that runs guests, room.

mod accelerator;
mod apt;
mod install;
mod known;
mod machine;
mod needs;
mod os;
mod payload;
mod probe;
mod qemu;
mod report;
mod run_plan;
mod system;
mod tsc;

use std::path::PathBuf;

use serde::Serialize;

pub use accelerator::{Acceleration, Accelerator, AcceleratorRequest, Choice, find_accelerator};
pub use install::{Plan, Rights, plan};
pub use machine::Bytes;
pub use needs::{DISK, Found, MEMORY, NEEDS, Need, lacking};
pub use os::Os;
pub use qemu::{FOR_CPU_REMOVAL, OVERRIDE, Qemu, Version};
pub use report::{INSTALL_ALL, Report, Row};
pub use run_plan::run as run_plan;
pub use system::System;
pub use tsc::tsc_hz;

use crate::{Error, Result};

/// What a result says about the machine it was made on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// The distribution.
    pub os: Os,
    /// Release of the running kernel.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Memory in all.
    pub memory: Bytes,
    /// Memory to be had without swapping, when asked.
    pub memory_available: Bytes,
    /// QEMU, if there is one.
    pub qemu: Option<Qemu>,
    /// Where kernels and checkpoints are kept.
    pub cache: PathBuf,
    /// Room on its file system, when asked.
    pub cache_free: Bytes,
}

/// Looks around; takes as long as `qemu --version`, 0.03 s.
///
/// Fails only where `HOTPLUG_QEMU` or the QEMU found is no QEMU.
pub async fn survey(system: &System) -> Result<Host> {
    let (memory, memory_available) = machine::memory(system);
    let cache = machine::cache_folder();
    Ok(Host {
        os: Os::find(system),
        kernel: machine::kernel_release(),
        cpu: machine::cpu_model(system),
        cores: machine::cores(),
        memory,
        memory_available,
        qemu: Qemu::find(system).await?,
        cache_free: machine::free_space(&cache),
        cache,
    })
}

impl Host {
    /// QEMU, or the user's error that there is none.
    pub fn qemu(&self) -> Result<&Qemu> {
        self.qemu.as_ref().ok_or_else(|| {
            Error::user("no QEMU: qemu-system-x86_64 is not on the PATH")
                .help(format!("{INSTALL_ALL}, or set {OVERRIDE}"))
        })
    }
}
