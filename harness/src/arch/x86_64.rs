//! x86-64: ACPI hotplug, q35 and i440FX.

use super::{Arch, Architecture, GdbRegisters, PhaseFunctions, SerialLine};
use crate::bytes::Bytes;
use crate::release::Release;

/// x86-64.
pub(super) static ARCH: Arch = Arch {
    id: Architecture::X86,
    name: "x86_64",
    kernel: "x86",
    cross: None,
    required_options: &["ACPI_HOTPLUG_MEMORY", "SERIAL_8250_CONSOLE"],
    has_wide_kernels: true,
    lacks: &[],
    image: "bzImage",
    image_path: "arch/x86/boot/bzImage",
    linked: &["arch/x86/boot/bzImage", "arch/x86/boot/vmlinux.bin"],
    banner,
    // The setup code, which contains the banner, has at most 255 sectors after the first, because
    // `setup_sects` is one byte.
    banner_within: 256 * 512,
    qemu: "qemu-system-x86_64",
    qemu_package: "qemu-system-x86",
    console: "ttyS0",
    cpu_model: "max",
    // The interrupt of the third is that of the first by default. ISA interrupts cannot be shared.
    lines: Some(&[
        SerialLine { tty: "ttyS1", device: "isa-serial,index=1" },
        SerialLine { tty: "ttyS2", device: "isa-serial,index=2,irq=5" },
    ]),
    places_have_sockets: true,
    possible_cpus: Some("possible_cpus"),
    slot_file: "firmware_node/path",
    slot,
    // Under TCG, idle vCPUs in emulated MWAIT starve the busy ones.
    // The addresses of the guest are those of its vmlinux, also with CONFIG_RANDOMIZE_BASE.
    kernel_args: "idle=halt nokaslr",
    delay_loop: Some("lpj"),
    // SECTION_SIZE_BITS of arch/x86/include/asm/sparsemem.h.
    unit: Bytes(128 * Bytes::MIB),
    // MIN_MEMORY_BLOCK_SIZE, which guests with less than 64 GiB have (arch/x86/mm/init_64.c).
    block: Bytes(128 * Bytes::MIB),
    page: Bytes(4 * Bytes::KIB),
    firmware_acknowledges: true,
    phases: Some(&PhaseFunctions {
        // drivers/acpi/osl.c, drivers/acpi/scan.c.
        delivered: "acpi_hotplug_schedule",
        hotplug: "acpi_device_hotplug",
        memory_added: "acpi_memory_device_add",
        memory_removed: "acpi_memory_device_remove",
        cpu_added: "acpi_processor_add",
        // 6.12 removes a CPU after its ejection (drivers/acpi/acpi_processor.c).
        cpu_removed: &["acpi_processor_remove", "acpi_processor_post_eject"],
        cpu_registered: "arch_register_cpu",
        ejected: "acpi_evaluate_ej0",
    }),
    // gdb's `i386:x86-64`: QEMU's gdb-xml/i386-64bit.xml.
    registers: Some(&GdbRegisters {
        program_counter: 16,
        stack_pointer: 7,
        flags: 17,
        interruptible: INTERRUPT_FLAG,
        per_cpu: 25,
    }),
    loops: &[STOPPED_CPU, PAUSE],
};

/// The slot of a CPU. The path of its ACPI device has the slot: `\_SB_.CPUS.C003` is slot 3 (QEMU,
/// hw/acpi/cpu.c: `CPU_NAME_FMT`).
fn slot(path: &str) -> Option<u32> {
    let (_, slot) = path.trim_end().rsplit_once(".C")?;
    u32::from_str_radix(slot, 16).ok()
}

/// `IF` of `eflags` (arch/x86/include/uapi/asm/processor-flags.h, `X86_EFLAGS_IF`).
const INTERRUPT_FLAG: u64 = 1 << 9;

/// `jmp 1f; verw ...; 1: hlt; jmp` back to the first instruction. Stopped CPUs wait there
/// (arch/x86/kernel/process.c, `stop_this_cpu()`).
const STOPPED_CPU: &[Option<u8>] = &[
    Some(0xeb),
    Some(0x07),
    Some(0x0f),
    Some(0x00),
    Some(0x2d),
    None,
    None,
    None,
    None,
    Some(0xf4),
    Some(0xeb),
    Some(0xf4),
];

/// `pause; jmp` back, which keeps a processor of the host busy. Any matching bytes of the text are
/// usable, whatever instructions they are part of.
const PAUSE: &[Option<u8>] = &[Some(0xf3), Some(0x90), Some(0xeb), Some(0xfc)];

/// Offset of the boot flag 0xAA55, little endian.
const BOOT_FLAG: usize = 0x1FE;
/// Offset of the magic `HdrS`.
const MAGIC: usize = 0x202;
/// Offset of `kernel_version`, which holds the offset of the version string, minus 0x200.
const KERNEL_VERSION: usize = 0x20E;

/// The banner of a bzImage, such as `6.1.192 (user@host) #1 ...`.
///
/// `setup` is the start of the file. Returns `None` if it is not a kernel.
fn banner(setup: &[u8]) -> Option<String> {
    if setup.get(BOOT_FLAG..BOOT_FLAG + 2)? != [0x55, 0xAA] || setup.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let low = *setup.get(KERNEL_VERSION)?;
    let high = *setup.get(KERNEL_VERSION + 1)?;
    let at = usize::from(u16::from_le_bytes([low, high]));
    if at == 0 {
        return Some(String::new());
    }
    let text = setup.get(at + 0x200..)?.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// The platform that the machine presents to the guest, under TCG.
///
/// Kernels since 6.9 fix the set of possible CPUs at boot (`topology_hotplug_apic()`). They count
/// the CPUs that ACPI lists as absent among the possible ones only in a virtual machine (6.12.117,
/// arch/x86/kernel/acpi/boot.c, `acpi_is_processor_usable()`). Linux does not know TCG's own
/// signature, so each plug of a CPU ends in "Unable to map lapic to logical cpu number". The
/// signature that a machine without KVM can present is `VMware`'s backdoor port and serial number.
/// Linux looks for them if CPUID reports no hypervisor (arch/x86/kernel/cpu/vmware.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// TCG, which Linux takes for bare metal.
    Qemu,
    /// A virtual machine that Linux recognizes.
    Vmware,
}

impl Platform {
    /// The platform that kernels of these releases (`uname -r`) need. Both sides of a pair get the
    /// same machine.
    pub fn for_releases<'a>(arch: Architecture, releases: impl IntoIterator<Item = &'a str>) -> Self {
        let needs = |release: &str| Release::of(release) >= Release { major: 6, minor: 9 };
        if arch == Architecture::X86 && releases.into_iter().any(needs) { Self::Vmware } else { Self::Qemu }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(version: &str) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&[0x55, 0xAA]);
        bytes[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        bytes[KERNEL_VERSION..KERNEL_VERSION + 2].copy_from_slice(&0x100_u16.to_le_bytes());
        bytes[0x300..0x300 + version.len()].copy_from_slice(version.as_bytes());
        bytes
    }

    #[test]
    fn reads_the_version() {
        assert_eq!(banner(&image("6.1.192 (a@b) #1 SMP")).unwrap(), "6.1.192 (a@b) #1 SMP");
    }

    #[test]
    fn refuses_what_is_no_kernel() {
        assert_eq!(banner(b"\x7fELF"), None);
        assert_eq!(banner(&[0; 4096]), None);
        let mut cut = image("6.1");
        cut.truncate(0x2ff);
        assert_eq!(banner(&cut), None);
    }

    #[test]
    fn newer_kernels_are_shown_a_virtual_machine_that_they_know() {
        for (releases, platform) in [
            (["6.1.192", "6.1.192"], Platform::Qemu),
            (["6.8.0-rc1", "5.15.1"], Platform::Qemu),
            (["6.8.12", "6.12.117"], Platform::Vmware),
            (["7.0.0-rc2-next", "6.1"], Platform::Vmware),
            (["unknown", ""], Platform::Qemu),
        ] {
            assert_eq!(Platform::for_releases(Architecture::X86, releases), platform, "{releases:?}");
        }
    }
}
