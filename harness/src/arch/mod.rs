//! The architectures of guests. Each is a table, and has code only where it differs in more than a
//! value.

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
    /// The serial lines that carry the agent's two channels where virtio-serial cannot.
    pub lines: &'static [SerialLine; 2],
    /// The parameters that every guest's kernel has on its command line, beside the console.
    pub kernel_args: &'static str,
    /// The option of the kernel's command line that gives the calibration of the delay loop, if
    /// there is one: `lpj=`.
    pub delay_loop: Option<&'static str>,
    /// The size of a memory section, which is the granularity of memory hotplug.
    pub section: Bytes,
    /// The size of a memory block in sysfs, until the guest has reported it. A guest with much
    /// memory has larger ones.
    pub block: Bytes,
    /// The size of a page, until the guest has reported it.
    pub page: Bytes,
    /// Whether the firmware passes on the guest's acknowledgements of plug and unplug (ACPI
    /// `_OST`). If not, a plug ends with the guest's uevents, and an unplug with the removal of the
    /// device or the guest's refusal.
    pub firmware_acknowledges: bool,
    /// The functions whose calls mark the phases of an operation.
    pub phases: &'static PhaseFunctions,
    /// The numbers of registers in gdb's description of the architecture.
    pub registers: &'static GdbRegisters,
    /// Loops of the kernel's text that change no register, in which a held task can wait. `None`
    /// matches any byte. Such bytes are never executed.
    pub loops: &'static [&'static [Option<u8>]],
}

/// The architecture of all guests so far. The machine of a scenario would select a second one.
pub static GUEST: &Arch = &x86_64::ARCH;

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
