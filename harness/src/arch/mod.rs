//! The architectures of guests. Each is a table, and has code only where it differs in more than a
//! value.

mod ppc64le;
mod x86_64;

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;

pub use x86_64::Platform;

/// The name of an architecture of guests, as `uname -m` prints it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Architecture {
    /// x86-64.
    #[default]
    #[serde(rename = "x86_64")]
    X86,
    /// 64-bit POWER, little endian.
    #[serde(rename = "ppc64le")]
    Power,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::X86, Self::Power];

    /// Its table.
    pub fn table(self) -> &'static Arch {
        match self {
            Self::X86 => &x86_64::ARCH,
            Self::Power => &ppc64le::ARCH,
        }
    }

    /// Whether it is the default one.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether programs of this architecture run on this machine without emulation.
    pub fn is_native(self) -> bool {
        match self {
            Self::X86 => cfg!(target_arch = "x86_64"),
            Self::Power => cfg!(all(target_arch = "powerpc64", target_endian = "little")),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.table().name)
    }
}

impl FromStr for Architecture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(|one| one.table().name);
        let found = Self::ALL.into_iter().find(|one| one.table().name == text);
        found.ok_or_else(|| format!("not one of {}", names.join(", ")))
    }
}

/// What a machine of an architecture may be unable to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// Tasks are held at breakpoints (`[[rendezvous]]`, `[sweep]`, `delay`).
    Holds,
    /// The guest suspends.
    Suspend,
    /// Persistent DIMMs.
    Nvdimm,
    /// virtio-mem.
    VirtioMem,
    /// The speed of each node's memory, described by the firmware.
    Hmat,
    /// Cores with several threads, and sockets with several dies.
    Threads,
}

impl Ability {
    /// Its name in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Holds => "holds and delays of tasks",
            Self::Suspend => "suspend",
            Self::Nvdimm => "nvdimms",
            Self::VirtioMem => "virtio-mem",
            Self::Hmat => "HMAT",
            Self::Threads => "dies, or threads of a core, in its topology",
        }
    }
}

/// An architecture of guests.
#[derive(Debug)]
pub struct Arch {
    /// Its name as data.
    pub id: Architecture,
    /// Its name, as `uname -m` prints it.
    pub name: &'static str,
    /// Its name in the kernel's source: the folder below `arch/`, and `ARCH` of its `make`.
    pub kernel: &'static str,
    /// What builds its kernels and its agent on machines of other architectures. None: the tools of
    /// the machine itself do.
    pub cross: Option<&'static CrossTools>,
    /// The options without which its kernels cannot be judged, by name without `CONFIG_`.
    pub required_options: &'static [&'static str],
    /// Whether `wide.config` has been tried with it.
    pub has_wide_kernels: bool,
    /// What its machines cannot do.
    pub lacks: &'static [Ability],
    /// The make target of the bootable image, which is also the image's name in the cache.
    pub image: &'static str,
    /// The path of that image below the object folder.
    pub image_path: &'static str,
    /// Other paths below the object folder that each link writes anew, beside `vmlinux`.
    pub linked: &'static [&'static str],
    /// Reads the banner of an image, such as `6.1.192 (user@host) #1 ...`, from its first
    /// [`Arch::banner_within`] bytes. Returns `None` if it is not an image of this architecture,
    /// and an empty string if the image has no banner.
    pub banner: fn(&[u8]) -> Option<String>,
    /// The largest offset at which the banner can end, in bytes.
    pub banner_within: u64,
    /// QEMU's binary.
    pub qemu: &'static str,
    /// The Debian package of that binary.
    pub qemu_package: &'static str,
    /// The serial console, as `console=` names it.
    pub console: &'static str,
    /// QEMU's CPU model under TCG, unless the scenario names one.
    pub cpu_model: &'static str,
    /// The serial lines that carry the agent's two channels where virtio-serial cannot, if the
    /// machine has any.
    pub lines: Option<&'static [SerialLine; 2]>,
    /// Whether a CPU's place has a socket and a thread, beside the core.
    pub places_have_sockets: bool,
    /// The parameter of the kernel's command line that limits the CPUs that can come. Without one,
    /// a machine has no more CPUs than its scenario names.
    pub possible_cpus: Option<&'static str>,
    /// The file of a CPU in sysfs that tells its slot, below `/sys/devices/system/cpu/cpuN`.
    pub slot_file: &'static str,
    /// Reads the slot from that file.
    pub slot: fn(&str) -> Option<u32>,
    /// The parameters that every guest's kernel has on its command line, beside the console.
    pub kernel_args: &'static str,
    /// The option of the kernel's command line that gives the calibration of the delay loop, if
    /// there is one: `lpj=`.
    pub delay_loop: Option<&'static str>,
    /// The unit of memory hotplug: a memory section, or what the firmware adds at once.
    pub unit: Bytes,
    /// The size of a memory block in sysfs, until the guest has reported it. A guest with much
    /// memory has larger ones.
    pub block: Bytes,
    /// The size of a page, until the guest has reported it.
    pub page: Bytes,
    /// Whether the firmware passes on the guest's acknowledgements of plug and unplug (ACPI
    /// `_OST`). If not, a plug ends with the guest's uevents, and an unplug with the removal of the
    /// device or the guest's refusal.
    pub firmware_acknowledges: bool,
    /// The functions whose calls mark the phases of an operation, if they are known.
    pub phases: Option<&'static PhaseFunctions>,
    /// The numbers of registers in gdb's description of the architecture, if vCPUs can be held.
    pub registers: Option<&'static GdbRegisters>,
    /// Loops of the kernel's text that change no register, in which a held task can wait. `None`
    /// matches any byte. Such bytes are never executed.
    pub loops: &'static [&'static [Option<u8>]],
}

/// What builds programs of an architecture on machines of other ones.
#[derive(Debug)]
pub struct CrossTools {
    /// The compiler: a prefix, which is `CROSS_COMPILE` of the kernel's `make`, and `gcc`.
    pub gcc: &'static str,
    /// The Debian package of that compiler.
    pub gcc_package: &'static str,
    /// The folder of the C library's static form, `libc.a`.
    pub library: &'static str,
    /// The Debian package of that library.
    pub library_package: &'static str,
    /// Rust's name of the programs for Linux.
    pub rust_target: &'static str,
}

/// A serial line beside the console.
#[derive(Debug)]
pub struct SerialLine {
    /// The guest's name of it: its device node below `/dev`.
    pub tty: &'static str,
    /// QEMU's device, without its `chardev`.
    pub device: &'static str,
}

/// Functions of the kernel that mark the progress of an operation.
#[derive(Debug)]
pub struct PhaseFunctions {
    /// The request is queued, after its interrupt was handled.
    pub delivered: &'static str,
    /// One request is handled, from the first step to the last.
    pub hotplug: &'static str,
    /// The driver of memory devices adds a device.
    pub memory_added: &'static str,
    /// The driver of memory devices removes a device.
    pub memory_removed: &'static str,
    /// The driver of CPUs adds a CPU.
    pub cpu_added: &'static str,
    /// The driver of CPUs removes a CPU. The name depends on the kernel release.
    pub cpu_removed: &'static [&'static str],
    /// A CPU is registered with sysfs.
    pub cpu_registered: &'static str,
    /// The kernel requests the ejection of the device from the firmware.
    pub ejected: &'static str,
}

/// The numbers of registers in QEMU's gdbstub.
#[derive(Debug)]
pub struct GdbRegisters {
    /// The next instruction.
    pub program_counter: u32,
    /// The top of the stack. At a function's entry the return address is there.
    pub stack_pointer: u32,
    /// The flags, 32 bits.
    pub flags: u32,
    /// The bit of the flags that is set while interrupts are enabled.
    pub interruptible: u64,
    /// The base of the per-CPU area, while the CPU is in the kernel.
    pub per_cpu: u32,
}
