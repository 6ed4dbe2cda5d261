//! The architectures of guests: a table of each, and code only where one differs in more than a word.

mod x86_64;

use crate::bytes::Bytes;

pub use x86_64::Platform;

/// An architecture of guests.
#[derive(Debug)]
pub struct Arch {
    /// Its name, as `uname -m` prints it.
    pub name: &'static str,
    /// Its name in the kernel's source: the folder below `arch/`.
    pub kernel: &'static str,
    /// The make target of the bootable image, which is also the image's name in the cache.
    pub image: &'static str,
    /// The path of that image below the object folder.
    pub image_path: &'static str,
    /// Other paths below the object folder that each link writes anew, beside `vmlinux`.
    pub linked: &'static [&'static str],
    /// Reads the banner of an image, such as `6.1.192 (user@host) #1 ...`, from its first [`Arch::banner_within`] bytes.
    /// None: it is not an image of this architecture. Empty: the image has no banner.
    pub banner: fn(&[u8]) -> Option<String>,
    /// Where the banner ends at the latest, bytes.
    pub banner_within: u64,
    /// QEMU's binary.
    pub qemu: &'static str,
    /// The Debian package of that binary.
    pub qemu_package: &'static str,
    /// The serial console, as `console=` names it.
    pub console: &'static str,
    /// What every guest has on its kernel's command line, beside the console.
    pub kernel_args: &'static str,
    /// The option of the kernel's command line that gives the delay loop's calibration, if there is one: `lpj=`.
    pub delay_loop: Option<&'static str>,
    /// The size of a memory section, which is the granularity of memory hotplug.
    pub section: Bytes,
    /// The size of a memory block in sysfs, as far as the guest has not told it. A guest with much memory has larger ones.
    pub block: Bytes,
    /// The size of a page, as far as the guest has not told it.
    pub page: Bytes,
    /// Whether the firmware passes on the guest's acknowledgements of plug and unplug (ACPI `_OST`). If not, a plug ends
    /// with the guest's uevents, and an unplug with the device's end or the guest's refusal.
    pub firmware_acknowledges: bool,
    /// The functions from whose calls the phases of an operation are read.
    pub phases: &'static PhaseFunctions,
    /// The numbers of registers in gdb's description of the architecture.
    pub registers: &'static GdbRegisters,
    /// Loops of the kernel's text that change no register, in which a held task can wait. `None` matches any byte; such
    /// bytes are never run.
    pub loops: &'static [&'static [Option<u8>]],
}

/// The architecture of all guests so far. A second one becomes a choice of the scenario's machine.
pub static GUEST: &Arch = &x86_64::ARCH;

/// Functions of the kernel that mark how far an operation has come.
#[derive(Debug)]
pub struct PhaseFunctions {
    /// The request is queued: its interrupt has been handled.
    pub delivered: &'static str,
    /// The work on one request, from the first to the last.
    pub hotplug: &'static str,
    /// The driver of memory devices adds one.
    pub memory_added: &'static str,
    /// The driver of memory devices removes one.
    pub memory_removed: &'static str,
    /// The driver of CPUs adds one.
    pub cpu_added: &'static str,
    /// The driver of CPUs removes one: by kernel release.
    pub cpu_removed: &'static [&'static str],
    /// A CPU is registered with sysfs.
    pub cpu_registered: &'static str,
    /// The firmware is told that the device can go.
    pub ejected: &'static str,
}

/// Numbers of registers, as QEMU's gdbstub counts them.
#[derive(Debug)]
pub struct GdbRegisters {
    /// The next instruction.
    pub program_counter: u32,
    /// The top of the stack. At a function's entry the return address is there.
    pub stack_pointer: u32,
    /// The flags, 32 bits.
    pub flags: u32,
    /// The bit of the flags that is set while the CPU takes interrupts.
    pub interruptible: u64,
    /// The base of the CPU's own variables, while it is in the kernel.
    pub per_cpu: u32,
}
