//! The host machine: its distribution, packages, QEMU, accelerator, memory and disk.

mod accelerator;
mod apt;
mod fetch;
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

pub use accelerator::{Acceleration, Accelerator, AcceleratorRequest, Choice, KVM_DEVICE, find_accelerator};
pub use fetch::fetch;
pub use install::{InstallPlan, Rights, plan};
pub use machine::ByteCount;
pub(crate) use machine::free_space;
pub use needs::{Activity, DISK, Found, MEMORY, NEEDS, Need, lacking};
pub use os::Os;
pub use qemu::{FOR_CPU_REMOVAL, OVERRIDE, Qemu, Version};
pub use report::{DoctorReport, INSTALL_ALL, Row};
pub use run_plan::run as run_plan;
pub use system::System;
pub use tsc::tsc_hz;

use crate::arch::Architecture;
use crate::{Error, Result};

/// The host machine, as a result records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// The architecture of its guests.
    pub arch: Architecture,
    /// The distribution.
    pub os: Os,
    /// The release of the running kernel.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// The number of cores that this process may use.
    pub cores: usize,
    /// The total memory.
    pub memory: ByteCount,
    /// The memory that was available without swapping at the time of the survey.
    pub memory_available: ByteCount,
    /// QEMU, if it is installed.
    pub qemu: Option<Qemu>,
    /// The folder of cached kernels and checkpoints.
    pub cache: PathBuf,
    /// The free space on the cache's file system at the time of the survey.
    pub cache_free: ByteCount,
}

/// Surveys the host of guests of an architecture. This takes as long as `qemu --version`, 0.03 s.
///
/// Fails only if the program that `HOTPLUG_QEMU` names, or the one found, is not a QEMU.
pub async fn survey(system: &System, arch: Architecture) -> Result<Host> {
    let (memory, memory_available) = machine::memory(system);
    let cache = machine::cache_folder();
    Ok(Host {
        arch,
        os: Os::find(system),
        kernel: machine::kernel_release(),
        cpu: machine::cpu_model(system),
        cores: machine::cores(),
        memory,
        memory_available,
        qemu: Qemu::find(system, arch.table()).await?,
        cache_free: machine::free_space(&cache),
        cache,
    })
}

impl Host {
    /// The installed QEMU. Fails with a user error if there is none.
    pub fn qemu(&self) -> Result<&Qemu> {
        self.qemu.as_ref().ok_or_else(|| {
            Error::user(format!("no QEMU: {} is not on the PATH", self.arch.table().qemu))
                .help(format!("{}, or set {OVERRIDE}", report::install_all(self.arch)))
        })
    }
}
