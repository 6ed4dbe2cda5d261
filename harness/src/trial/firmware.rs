//! Guests that hang in the firmware, before their kernel begins.
//!
//! `SeaBIOS` starts the other CPUs, then reads how many CPUs there are, and waits until as many have
//! answered (src/fw/smp.c, `smp_scan()`). A CPU that is plugged in between does not answer, or
//! answers uncounted, and `SeaBIOS` waits for ever. The kernel has no part in that.

/// The addresses of the BIOS and of the ROMs of devices, below 1 MiB. The setup code of a Linux
/// kernel runs below them (Documentation/arch/x86/boot.rst).
const ROMS: std::ops::Range<u64> = 0xc_0000..0x10_0000;

/// The bit of CR0 that turns paging on. Firmware runs without it, and a kernel with it.
const PAGING: u64 = 1 << 31;

/// The physical address at which the first CPU runs code of the firmware, from the answer to
/// `info registers -a` (QEMU's target/i386/cpu-dump.c, `x86_cpu_dump_state()`). `None` if it runs
/// other code, or if there is no such answer.
pub(super) fn place(account: &str) -> Option<u64> {
    let registers = account.split("CPU#").nth(1)?;
    let hexadecimal = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let register = |name: &str| {
        let value = registers.split_whitespace().find_map(|word| word.strip_prefix(name))?;
        hexadecimal(value)
    };
    // `CS =f000 000f0000 0000ffff 00009b00`: the selector, the base, the limit and the flags.
    let code = registers.lines().find_map(|line| line.trim_start().strip_prefix("CS ="))?;
    let base = hexadecimal(code.split_whitespace().nth(1)?)?;
    // A CPU in long mode has RIP, which firmware below 1 MiB never has.
    let at = base.checked_add(register("EIP=")?)?;
    let is_paging = register("CR0=")? & PAGING != 0;
    (!is_paging && ROMS.contains(&at)).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::place;

    /// The registers of a guest of QEMU 10.0.2 that got a CPU while `SeaBIOS` 1.16.3 started the
    /// others.
    const WAITING: &str = "
CPU#0
EAX=00000004 EBX=00000004 ECX=00000000 EDX=00042000
EIP=000eda8c EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0
CS =0008 00000000 ffffffff 00c09b00 DPL=0 CS32 [-RA]
CR0=00000011 CR2=00000000 CR3=00000000 CR4=00000000

CPU#1
EIP=000fd0cf EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1
CS =0008 00000000 ffffffff 00cf9b00 DPL=0 CS32 [-RA]
CR0=00000012 CR2=00000000 CR3=00000000 CR4=00000000
";

    #[test]
    fn a_cpu_that_runs_the_bios_is_in_the_firmware() {
        assert_eq!(place(WAITING), Some(0xeda8c));
        // It waits for an interrupt in real mode.
        let real = WAITING
            .replace("EIP=000eda8c", "EIP=0000b7ee")
            .replace("CS =0008 00000000", "CS =f000 000f0000")
            .replace("CR0=00000011", "CR0=00000010");
        assert_eq!(place(&real), Some(0xfb7ee));
    }

    #[test]
    fn a_cpu_that_runs_anything_else_is_not() {
        // The setup code of the kernel, its decompressor, and the kernel.
        assert_eq!(place(&WAITING.replace("EIP=000eda8c", "EIP=0001eda8")), None);
        assert_eq!(place(&WAITING.replace("EIP=000eda8c", "EIP=001eda8c")), None);
        assert_eq!(place(&WAITING.replace("CR0=00000011", "CR0=80000011")), None);
        let long = WAITING.replace("EIP=000eda8c", "RIP=ffffffff810eda8c");
        assert_eq!(place(&long), None);
        assert_eq!(place("no such command"), None);
        assert_eq!(place(&WAITING.replace("CS =0008", "CS =")), None);
    }
}
