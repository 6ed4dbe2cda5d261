//! The report of a kernel as it is quoted in a mail: without the lines that
//! Documentation/process/submitting-patches.rst asks to leave out of backtraces.

use std::sync::LazyLock;

use regex::Regex;

use crate::text::harmless;

/// The most lines of a report. A circular dependency of three locks has 150, of which the first tell
/// the locks.
const LINES: usize = 60;

/// What takes the place of lines.
const CUT: &str = "[...]";

/// The time and the caller before a line of the console.
static PREFIX: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?").expect("a constant"));

/// Modules, the hardware, registers, code bytes, and the history of interrupts.
static NOISE: LazyLock<Regex> = LazyLock::new(|| {
    let kinds = [
        r"^Modules linked in:",
        r"^Hardware name:",
        r"^Code: ",
        r"^RSP: ",
        r"^R[A-D]X: ",
        r"^R(?:BP|SI|DI|08|09|1\d): ",
        r"^(?:FS|CS|CR2|DR0|DR3|PKRU): ",
        r"^(?:hard|soft)irqs last",
        r"^irq event stamp:",
        r"^Kernel Offset:",
    ];
    Regex::new(&kinds.join("|")).expect("a constant")
});

/// Guesses of the unwinder, and the marks of its stacks. Nothing takes their place.
static GUESS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(?:\? |</?(?:TASK|IRQ|NMI)>)").expect("a constant"));

/// The lines of a report, from the lines that the console printed. Each is cut to `width`.
pub(super) fn trimmed(console: &str, width: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for line in console.lines() {
        let text = PREFIX.replace(line, "");
        if GUESS.is_match(text.trim_start()) {
            continue;
        }
        if NOISE.is_match(text.trim_start()) {
            if all.last().is_some_and(|last| last != CUT) {
                all.push(CUT.to_owned());
            }
        } else if all.len() >= LINES {
            all.push(CUT.to_owned());
            break;
        } else {
            all.push(harmless(text.trim_end(), width.saturating_sub(1)));
        }
    }
    while all.last().is_some_and(String::is_empty) {
        all.pop();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_is_left_out_of_a_report() {
        let log = "[   12.345678][  T33] WARNING: CPU: 1 PID: 33 at mm/slub.c:2771 flush+0x1/0x2\n\
            [   12.345678][  T33] Modules linked in:\n\
            [   12.345678][  T33] Hardware name: QEMU\n\
            [   12.345678][  T33] RIP: 0010:flush+0x1/0x2\n\
            [   12.345678][  T33] RAX: 0000000000000000 RBX: ffff888003b3d000 RCX: 0000000000000000\n\
            [   12.345678][  T33] Call Trace:\n[   12.345678][  T33]  <TASK>\n\
            [   12.345678][  T33]  ? guess+0x1/0x2\n[   12.345678][  T33]  offline_pages+0x1/0x2\n";
        let expected = [
            "WARNING: CPU: 1 PID: 33 at mm/slub.c:2771 flush+0x1/0x2",
            "[...]",
            "RIP: 0010:flush+0x1/0x2",
            "[...]",
            "Call Trace:",
            " offline_pages+0x1/0x2",
        ];
        assert_eq!(trimmed(log, 75), expected);
        let cut = trimmed(&"x".repeat(200), 75);
        assert_eq!((cut.len(), cut[0].chars().count()), (1, 75));
        assert_eq!(trimmed(&"line\n".repeat(500), 75).len(), LINES + 1);
    }
}
