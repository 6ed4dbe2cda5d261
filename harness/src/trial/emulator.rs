//! Breakpoints that only the emulator ran.
//!
//! A kernel patches its text while other CPUs run it: it writes a breakpoint, makes every CPU
//! serialize, writes the rest of the instruction, and last its first byte over the breakpoint. Only
//! until then it handles the breakpoint (arch/x86/kernel/alternative.c, `text_poke_bp_batch()`,
//! `poke_int3_handler()`). On hardware, no CPU runs the breakpoint later. Under TCG one may: QEMU
//! discards its translations of a page before a write to it takes effect (accel/tcg/cputlb.c,
//! `notdirty_write()`), so that another vCPU can translate the old byte once more in between. The
//! kernel then finds a breakpoint that is not in its memory, and dies of it. Measured on unmodified
//! kernels: `docs/verdicts.md`.

use std::path::Path;

use hotplug_kreport::symbols::Symbols;
use hotplug_kreport::{Frame, Report};
use hotplug_side::Side;
use hotplug_vmlinux::PokeSites;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TrialContext;
use crate::host::Accelerator;

/// The opcode of `int3`.
const INT3: u8 = 0xcc;

/// A kernel that died of a breakpoint in a guest of TCG.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StaleBreakpoint {
    /// The emulator is at fault: the breakpoint is at a place that the kernel patches while it runs,
    /// and is no longer in its memory.
    Emulator {
        /// The breakpoint, such as `folio_add_lru+0xc`.
        at: String,
        /// What the kernel patches there.
        patched: String,
    },
    /// It is not known whether the kernel or the emulator is at fault.
    Unknown {
        /// The breakpoint.
        at: String,
        /// The reason.
        why: String,
    },
}

impl std::fmt::Display for StaleBreakpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Emulator { at, patched } => {
                write!(f, "the emulator ran a breakpoint that the kernel had removed, at {at}, {patched}")
            }
            Self::Unknown { at, why } => {
                write!(f, "int3 at {at}: the kernel or the emulator (TCG) is at fault, and {why}")
            }
        }
    }
}

/// Whether the emulator is at fault for the first Oops of a breakpoint among `reports`, and the
/// place of that report. `None` if there is no such Oops, or if the kernel is at fault. `log` is the
/// log of the reports.
pub(super) fn find(
    context: &TrialContext,
    side: Side,
    reports: &[Report],
    log: &[u8],
) -> Option<(usize, StaleBreakpoint)> {
    if context.accelerator != Accelerator::Tcg {
        return None;
    }
    let place = reports.iter().position(Report::is_of_breakpoint)?;
    let trap = Trap::of(&reports[place], log);
    Some((place, judge(&trap, context.vmlinux.of(side).as_deref())?))
}

/// Reads the kernel's tables, and judges.
fn judge(trap: &Trap, vmlinux: Option<&Path>) -> Option<StaleBreakpoint> {
    let at = trap.at.as_ref().map_or_else(|| "an unknown place".to_owned(), words);
    let unknown = |why: String| Some(StaleBreakpoint::Unknown { at: at.clone(), why });
    let (Some(frame), Some(byte)) = (&trap.at, trap.byte) else {
        return unknown("its registers were not printed".into());
    };
    if byte == INT3 {
        return None;
    }
    if let Some(module) = &frame.module {
        return unknown(format!("the tables of module {module} are not known"));
    }
    let Some(vmlinux) = vmlinux else {
        return unknown(
            "the kernel was given without a vmlinux, which has the places that it patches".into(),
        );
    };
    let (sites, address) = match look_up(vmlinux, frame) {
        Ok(found) => found,
        Err(error) => return unknown(format!("{} cannot be read: {error}", vmlinux.display())),
    };
    if sites.is_empty() {
        return unknown(format!("{} has no table of places that it patches", vmlinux.display()));
    }
    let Some(address) = address else {
        return unknown(format!("{} has no such function, or several", vmlinux.display()));
    };
    let patched = sites.at(address)?;
    Some(StaleBreakpoint::Emulator { at, patched: patched.to_string() })
}

/// The places that the kernel patches, and the address of a frame.
fn look_up(vmlinux: &Path, frame: &Frame) -> crate::Result<(PokeSites, Option<u64>)> {
    let bytes = fs_err::read(vmlinux)?;
    let file = object::File::parse(&*bytes).map_err(crate::Error::infrastructure)?;
    Ok((PokeSites::of(&file), Symbols::open(vmlinux)?.address(frame)))
}

/// The breakpoint that an Oops is about.
#[derive(Debug, Default)]
struct Trap {
    /// The breakpoint itself, which is the byte before the next instruction.
    at: Option<Frame>,
    /// The byte that the kernel read there when it printed the Oops.
    byte: Option<u8>,
}

impl Trap {
    /// Reads the registers: `RIP: 0010:folio_add_lru+0xd/0x110`, and
    /// `Code: ... 90 0f <1f> 44 ...`, in which the byte in brackets is at RIP
    /// (arch/x86/kernel/dumpstack.c, `show_opcodes()`).
    fn of(report: &Report, log: &[u8]) -> Self {
        let (first, last) = (*report.lines.start(), *report.lines.end());
        let number = |line: u64| usize::try_from(line).unwrap_or(usize::MAX);
        let mut lines = log
            .split(|byte| *byte == b'\n')
            .skip(number(first.saturating_sub(1)))
            .take(number(last.saturating_sub(first)).saturating_add(1))
            .map(String::from_utf8_lossy);
        let after = |line: &str, label: &str| line.split_once(label).map(|(_, rest)| rest.trim().to_owned());
        let Some(place) = lines.find_map(|line| after(&line, "RIP: 0010:")) else { return Self::default() };
        let code = lines.next().and_then(|line| after(&line, "Code: "));
        Self { at: breakpoint(&place), byte: code.as_deref().and_then(byte_before) }
    }
}

/// The breakpoint before an instruction such as `folio_add_lru+0xd/0x110 [module]`.
fn breakpoint(place: &str) -> Option<Frame> {
    let mut words = place.split_whitespace();
    let (function, rest) = words.next()?.rsplit_once("+0x")?;
    let (offset, size) = rest.split_once("/0x")?;
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let module = words.next().and_then(|word| word.strip_prefix('[')?.split([' ', ']']).next());
    Some(Frame {
        function: function.to_owned(),
        offset: Some(number(offset)?.checked_sub(1)?),
        size: Some(number(size)?),
        module: module.map(str::to_owned),
        reliable: true,
        source: None,
        inlined: false,
    })
}

/// The byte before the one in brackets.
fn byte_before(code: &str) -> Option<u8> {
    let mut before = None;
    for word in code.split_whitespace() {
        if word.starts_with('<') {
            return before;
        }
        before = u8::from_str_radix(word, 16).ok();
    }
    None
}

fn words(frame: &Frame) -> String {
    let module = frame.module.as_ref().map_or_else(String::new, |module| format!(" [{module}]"));
    format!("{}+{:#x}{module}", crate::text::harmless(&frame.function, 60), frame.offset.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vmlinux with the jump of a static key at `keyed+0xc`.
    fn vmlinux(folder: &Path) -> std::path::PathBuf {
        const CODE: &str = "\
            .text\n.globl _start, keyed\n_start: nop\n.type keyed, @function\nkeyed: .nops 12\n\
            1: .byte 0x0f, 0x1f, 0x44, 0, 0\n.nops 15\n.size keyed, . - keyed\n\
            .section .rodata, \"a\"\n.globl __start___jump_table, __stop___jump_table\n\
            __start___jump_table: .long 1b - ., 0\n.quad 0\n__stop___jump_table:\n";
        let (code, image) = (folder.join("t.s"), folder.join("vmlinux"));
        std::fs::write(&code, CODE).unwrap();
        let mut cc = std::process::Command::new("cc");
        let built = cc.args(["-g", "-nostdlib", "-static", "-no-pie", "-o"]).args([&image, &code]).status();
        assert!(built.unwrap().success(), "cc did not assemble a small file");
        image
    }

    fn trap(rip: &str, code: &str) -> Trap {
        let log = format!(
            "4,1,1,-;something\n1,2,2,-;int3: 0000 [#1] PREEMPT SMP\n4,3,3,-;CPU: 1 PID: 44 Comm: a\n\
             4,4,4,-;RIP: 0010:{rip}\n4,5,5,-;Code: {code}\n4,6,6,-;Call Trace:\n\
             4,7,7,-; <TASK>\n4,8,8,-; shmem_write_begin+0x1/0x2\n4,9,9,-; </TASK>\n\
             4,10,10,-;---[ end trace 0000000000000000 ]---\n"
        );
        let reports = hotplug_kreport::scan_own(log.as_bytes());
        assert_eq!(reports.len(), 1, "{log}");
        assert!(reports[0].is_of_breakpoint(), "{:?}", reports[0]);
        Trap::of(&reports[0], log.as_bytes())
    }

    #[test]
    fn only_a_breakpoint_that_is_gone_from_a_place_that_the_kernel_patches_is_the_emulators() {
        let folder = tempfile::tempdir().unwrap();
        let image = vmlinux(folder.path());
        let judged = |rip: &str, code: &str| judge(&trap(rip, code), Some(&image));
        let gone = "90 90 90 0f <1f> 44 00 00 c3";
        let at = "keyed+0xc".to_owned();
        let emulator =
            StaleBreakpoint::Emulator { at: at.clone(), patched: "the jump of a static key".into() };
        assert_eq!(judged("keyed+0xd/0x20", gone), Some(emulator));
        // It is at another place, or still in memory.
        assert_eq!(judged("keyed+0xe/0x20", gone), None);
        assert_eq!(judged("keyed+0xd/0x20", "90 90 90 cc <1f> 44 00 00 c3"), None);
        // It cannot be told.
        let why = |stale: Option<StaleBreakpoint>| match stale {
            Some(StaleBreakpoint::Unknown { why, .. }) => why,
            other => panic!("{other:?}"),
        };
        assert!(why(judge(&trap("keyed+0xd/0x20", gone), None)).contains("without a vmlinux"));
        assert!(why(judged("other+0xd/0x20", gone)).contains("no such function"));
        assert!(why(judged("keyed+0xd/0x20 [loop]", gone)).contains("module loop"));
        assert!(why(judged("keyed+0xd/0x20", "Unable to access opcode bytes at 0x1.")).contains("registers"));
        assert!(why(judged("0xffffffffc0000000", gone)).contains("registers"));
        let missing = folder.path().join("gone");
        assert!(why(judge(&trap("keyed+0xd/0x20", gone), Some(&missing))).contains("cannot be read"));
        let own = std::env::current_exe().unwrap();
        assert!(why(judge(&trap("keyed+0xd/0x20", gone), Some(&own))).contains("no table"));
    }
}
