//! Lines that are not as the kernel printed them: broken by a mail client or by the name of a task,
//! or glued to the line before.

use super::frame::is_source;
use super::patterns;
use super::prefix::{Caller, timestamp};

/// Widths at which mail clients break lines.
const NARROWEST: usize = 68;
const WIDEST: usize = 80;
/// Bytes of a line that is put together.
const LONGEST: usize = 4096;

/// A line that may be the first half of a headline.
#[derive(Debug)]
pub(super) struct Torn {
    pub number: u64,
    pub time: Option<u64>,
    pub caller: Option<Caller>,
    pub text: Box<str>,
}

impl Torn {
    /// The headline, if `text` is its second half. The halves have one time: the kernel prints a
    /// line end in the name of a task as it is, and each half gets the prefix
    /// (`record_print_text()` in kernel/printk/printk.c). The second half of a line that a mail
    /// client broke has no time.
    pub(super) fn with(
        &self,
        text: &str,
        number: u64,
        time: Option<u64>,
        caller: Option<Caller>,
    ) -> Option<String> {
        let next = number == self.number + 1;
        let same = time.is_none() || time == self.time && caller == self.caller;
        (next && same && !text.trim().is_empty()).then(|| joined(&self.text, text))
    }
}

/// A line of two halves.
pub(super) fn joined(head: &str, tail: &str) -> String {
    format!("{} {}", head.trim_end(), tail.trim())
}

/// Whether line `number` is the second half of line `last`, which has `width` bytes with its prefix.
/// In a log with times, a line without time is a second half or comes from a program.
pub(super) fn continues(head: &str, last: u64, tail: &str, number: u64, width: usize, timed: bool) -> bool {
    last + 1 == number
        && !tail.trim().is_empty()
        && head.len() + tail.len() < LONGEST
        && (timed && is_wrapped(width, tail) || dangles(head, tail.trim()))
}

/// Where a second line of the kernel begins in a text, if it is a headline.
pub(super) fn glued(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'[', bytes).skip_while(|at| *at == 0).find(|at| {
        // Text that quotes a line, and ftrace's console events, are not the log.
        let before = &bytes[..*at];
        if before.last().is_some_and(|byte| b"\"'`(=>".contains(byte))
            || memchr::memmem::find(before, b"console:").is_some()
        {
            return false;
        }
        let Some((_, rest)) = timestamp(&bytes[*at..]) else { return false };
        let rest = super::prefix::bracketed_caller(rest).map_or(rest, |(_, rest)| rest);
        patterns::find(&String::from_utf8_lossy(rest.trim_ascii_start())).is_some()
    })
}

/// Whether `tail` continues the line before it, which had `width` bytes with its prefix, because a
/// mail client broke the line: its first word had no room there.
fn is_wrapped(width: usize, tail: &str) -> bool {
    let word = tail.split_whitespace().next().map_or(0, str::len);
    word > 0 && width <= WIDEST && width + 1 + word > NARROWEST
}

/// Whether a line of a report ends where the kernel's line does not.
fn dangles(text: &str, tail: &str) -> bool {
    const ENDS: [&str; 9] =
        [" in", " at", "},", "}, at:", "address:", " virtual address", " for more than", " /", "Comm:"];
    let bare = text.trim_end();
    if ENDS.iter().any(|end| bare.ends_with(end)) || tail.starts_with("/ ") {
        return true;
    }
    let last = bare.rsplit(' ').next().unwrap_or_default();
    // WARNING: CPU: 1 PID: 27 at kernel/cpu.c:347
    bare.starts_with("WARNING: ") && is_source(last) && tail.contains("+0x")
        // [<c010e5d0>] (unwind_backtrace) from [<c010a8b0>]
        || bare.contains(" from [<") && bare.ends_with(">]")
        // The taint follows the name of the task.
        || bare.starts_with("CPU: ") && bare.contains("Comm: ") && !bare.contains("ainted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glued_lines_are_found() {
        let at = glued("vmap allocation failure: 34 bytes[   76.470000] BUG: unable to handle page fault");
        assert_eq!(at, Some(33));
        assert_eq!(glued("BUG: x says \"[   76.470000] BUG: unable to handle page fault"), None);
        assert_eq!(glued("[   76.470000] BUG: unable to handle page fault"), None);
        assert_eq!(glued("BUG: x [   76.470000] usb 1-1: new device"), None);
    }

    #[test]
    fn a_break_is_told_by_its_width() {
        assert!(is_wrapped(60, "lockdep_assert_cpus_held+0x38/0x50"));
        assert!(!is_wrapped(60, "ok 1"));
        assert!(!is_wrapped(120, "lockdep_assert_cpus_held+0x38/0x50"));
        assert!(dangles("BUG: KASAN: slab-use-after-free in", "foo+0x1/0x2"));
        assert!(!dangles("{HARDIRQ-ON-W} state was registered at:", "  lock_acquire+0x1/0x2"));
    }
}
