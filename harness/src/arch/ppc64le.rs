//! 64-bit POWER, little endian: QEMU's pseries, whose firmware interface is PAPR's RTAS.

use super::{Ability, Arch, Architecture, CrossTools};
use crate::bytes::Bytes;

/// 64-bit POWER, little endian.
pub(super) static ARCH: Arch = Arch {
    id: Architecture::Power,
    name: "ppc64le",
    kernel: "powerpc",
    cross: Some(&CrossTools {
        gcc: "powerpc64le-linux-gnu-gcc",
        gcc_package: "gcc-powerpc64le-linux-gnu",
        library: "/usr/powerpc64le-linux-gnu/lib",
        library_package: "libc6-dev-ppc64el-cross",
        rust_target: "powerpc64le-unknown-linux-gnu",
    }),
    required_options: &["PPC_PSERIES", "HVC_CONSOLE"],
    has_wide_kernels: false,
    lacks: &[
        Ability::Holds,
        Ability::Suspend,
        Ability::Nvdimm,
        Ability::VirtioMem,
        Ability::Hmat,
        Ability::Threads,
    ],
    // QEMU loads the ELF file itself (hw/ppc/spapr.c, `spapr_machine_init`).
    image: "vmlinux",
    image_path: "vmlinux",
    linked: &[],
    banner,
    // The banner is in the read-only data, behind the text.
    banner_within: 1 << 30,
    qemu: "qemu-system-ppc64",
    qemu_package: "qemu-system-ppc",
    console: "hvc0",
    cpu_model: "power9",
    lines: None,
    places_have_sockets: false,
    possible_cpus: None,
    // arch/powerpc/kernel/sysfs.c, `show_physical_id`.
    slot_file: "physical_id",
    slot,
    kernel_args: "",
    delay_loop: None,
    // SPAPR_MEMORY_BLOCK_SIZE of QEMU's include/hw/ppc/spapr.h, which is also the size of a block in
    // the guest (arch/powerpc/platforms/pseries/hotplug-memory.c, `pseries_memory_block_size`).
    unit: Bytes(256 * Bytes::MIB),
    block: Bytes(256 * Bytes::MIB),
    // CONFIG_PPC_4K_PAGES, which tinyconfig chooses.
    page: Bytes(4 * Bytes::KIB),
    // The guest only tells that it gives up an unplug (DEVICE_UNPLUG_GUEST_ERROR).
    firmware_acknowledges: false,
    phases: None,
    registers: None,
    loops: &[],
};

/// The slot of a CPU with one thread: the number of its core, which QEMU counts without gaps
/// (hw/ppc/spapr.c, `spapr_get_vcpu_id`).
fn slot(physical_id: &str) -> Option<u32> {
    physical_id.trim_end().parse().ok()
}

/// The banner of a vmlinux, such as `6.1.192 (user@host) (gcc ...) #1 ...`.
///
/// Returns `None` if it is not a kernel of this architecture.
fn banner(file: &[u8]) -> Option<String> {
    const BEFORE: &[u8] = b"Linux version ";
    // elf(5): a 64-bit file, little endian, for EM_PPC64 (21).
    let is_elf = file.get(..6)? == b"\x7fELF\x02\x01" && file.get(18..20)? == [21, 0];
    if !is_elf {
        return None;
    }
    // Format strings contain these words, too.
    let mut versions = memchr::memmem::find_iter(file, BEFORE).map(|at| &file[at + BEFORE.len()..]);
    let text = versions.find(|rest| rest.first().is_some_and(u8::is_ascii_digit));
    let line = text.and_then(|text| text.split(|&byte| byte == b'\n' || byte == 0).next());
    Some(line.map(|line| String::from_utf8_lossy(line).into_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_its_own_kernels_only() {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(18, 0);
        file.extend([21, 0]);
        assert_eq!(banner(&file).unwrap(), "");
        file.extend(b"..Linux version %s\0..Linux version 6.1.192 (a@b) (gcc 12) #1 SMP\n\0..");
        assert_eq!(banner(&file).unwrap(), "6.1.192 (a@b) (gcc 12) #1 SMP");
        // x86-64.
        file[18] = 62;
        assert_eq!(banner(&file), None);
        assert_eq!(banner(b"\x7fELF"), None);
    }

    #[test]
    fn a_cpu_tells_its_slot() {
        assert_eq!(slot("4\n"), Some(4));
        assert_eq!(slot("-1\n"), None);
    }
}
