//! Classifies the lines after the first line of a report.

use std::sync::LazyLock;

use super::{Frame, Process, frame};

/// One line of a report's body.
#[derive(Debug, PartialEq)]
pub(super) enum Part {
    /// A stack entry.
    Frame(Frame),
    /// A stack of the running task begins.
    Trace,
    /// Lockdep's "stack backtrace:". 32-bit ARM prints its frames without another heading.
    Own,
    /// `<TASK>`, `<IRQ>`, ...: the x86 stack that the following frames are on.
    Enter(&'static str),
    /// `</TASK>` and similar.
    Leave(&'static str),
    /// A stack with a name begins.
    Heading(String),
    /// The next stack belongs to another task or CPU. The text is the line that announces it.
    Other(String),
    /// `CPU: 1 PID: 27 Comm: kworker/u8:1 ...`.
    Cpu(Option<u32>, Option<Process>),
    /// The instruction pointer, if it is in the kernel.
    Ip(Frame),
    /// The end of the report.
    End,
    /// A line of a report without content that the reader keeps.
    Known,
    /// Empty.
    Blank,
    /// Any other line: a message of the report, or a line that does not belong to it.
    Text,
}

const CONTEXTS: [&str; 7] = ["TASK", "IRQ", "NMI", "SOFTIRQ", "ENTRY_TRAMPOLINE", "EXCEPTION", "HARDIRQ"];

/// The beginnings of lines that only reports have: registers, code bytes, fixed lines of lockdep
/// and KASAN.
static FURNITURE: LazyLock<Vec<Vec<&'static str>>> = LazyLock::new(|| {
    let mut by_first = vec![Vec::new(); 256];
    for known in include_str!("furniture.txt").lines().filter(|line| !line.is_empty()) {
        by_first[usize::from(known.as_bytes()[0])].push(known);
    }
    by_first
});

/// Headings of stacks: the beginning of the line, and a substring (mm/kasan/report*.c,
/// mm/kfence/report.c, mm/kmsan/report.c, kernel/kcsan/report.c, mm/slub.c, `mm/page_owner.c`,
/// `kernel/locking/lockdep.c`).
const HEADINGS: &[(&str, &str)] = &[
    ("Allocated by task", ""),
    ("Freed by task", ""),
    ("allocated by task", ""),
    ("freed by task", ""),
    ("Last potentially related work creation:", ""),
    ("Second to last potentially related work creation:", ""),
    ("Last call_rcu():", ""),
    ("Uninit was ", " at:"),
    ("Local variable ", " created at:"),
    ("page last allocated via order", ""),
    ("page last free", "trace:"),
    ("page_owner tracks the page as", ""),
    ("Allocated in ", " age="),
    ("Freed in ", " age="),
    ("Object allocated", " at:"),
    ("backtrace", ":"),
    ("read", " on cpu "),
    ("write", " on cpu "),
    ("race at unknown origin", " on cpu "),
    ("Out-of-bounds ", " at 0x"),
    ("Use-after-free ", " at 0x"),
    ("Corrupted memory at 0x", ""),
    ("Invalid ", " at 0x"),
    ("Invalid free of 0x", ""),
    ("-> #", "("),
    ("{", "state was registered at:"),
    ("... which became", " at:"),
    ("... acquired at:", ""),
    ("IN-", " at:"),
    ("HARDIRQ-ON-", " at:"),
    ("SOFTIRQ-ON-", " at:"),
    ("RECLAIM_FS-ON-", " at:"),
    ("INITIAL ", " at:"),
    ("INITIAL USE", " at:"),
    ("Preemption disabled at:", ""),
];

/// Classifies a line. Old x86 kernels print a context and the first frame in it on one line:
/// ` <IRQ>  [<ffffffff81012345>] f+0x1/0x2`.
pub(super) fn parts(text: &str) -> (Option<Part>, Part) {
    // mm/kmemleak.c prints this before every line.
    let text = text.strip_prefix("kmemleak: ").unwrap_or(text);
    let bare = text.trim_start();
    if bare.starts_with('<')
        && let Some((mark, rest)) = bare.split_once("> ")
        && let Some(part) = context(&bare[..=mark.len()])
        && let Some(frame) = frame::parse(rest)
    {
        return (Some(part), Part::Frame(frame));
    }
    (None, classify(text))
}

/// Classifies a line that has one part.
pub(super) fn classify(text: &str) -> Part {
    let bare = text.trim();
    if bare.is_empty() {
        return Part::Blank;
    }
    if let Some(frame) = frame::parse(text) {
        return Part::Frame(frame);
    }
    if let Some(part) = context(bare) {
        return part;
    }
    // The CPUs and the tasks of a stall.
    if bare.starts_with("rcu: \t") {
        return Part::Known;
    }
    let bare = bare.strip_prefix("rcu: ").unwrap_or(bare);
    if matches!(bare, "Call Trace:" | "Call trace:" | "Backtrace:" | "Backtrace: " | "Stack traceback:")
        || bare.strip_prefix("Call Trace: ").is_some_and(|rest| rest.starts_with('['))
    {
        return Part::Trace;
    }
    if bare.starts_with("Pid: ") && bare.contains(", comm: ") {
        return old_task(bare);
    }
    if bare.starts_with("CPU: ") || bare.starts_with("CPU ") && bare.contains(" PID: ") {
        return cpu(bare);
    }
    if bare == "stack backtrace:" {
        return Part::Own;
    }
    if bare.starts_with("---[ end ") {
        return Part::End;
    }
    if let Some(part) = instruction(bare) {
        return part;
    }
    if bare.starts_with("NMI backtrace for cpu ")
        || bare.starts_with("RCU grace-period kthread stack dump:")
        || bare.starts_with("Stack dump where RCU GP kthread last ran:")
        || bare.starts_with("task:") && bare.contains("state:")
        || bare.starts_with("Backtrace for blocked task")
        || bare.starts_with("Showing backtraces of running workers")
        || bare.starts_with("Showing backtraces of busy workers")
        || bare.starts_with("Backtrace of last woken worker")
    {
        return Part::Other(bare.trim_end_matches(':').to_owned());
    }
    if let Some((_, _)) = HEADINGS.iter().find(|(head, has)| bare.starts_with(head) && bare.contains(has)) {
        return Part::Heading(bare.trim_end_matches(':').to_owned());
    }
    if FURNITURE[usize::from(bare.as_bytes()[0])].iter().any(|known| bare.starts_with(known))
        || bare.contains(" held by ")
        || bare.starts_with('#')
    {
        return Part::Known;
    }
    Part::Text
}

fn context(bare: &str) -> Option<Part> {
    let inner = bare.strip_prefix('<')?.strip_suffix('>')?;
    // x86 prints `<NMI>` and, before 5.x, ` <<EOE>>`, ` <EOI>`; `#DF`, `#DB` and similar are
    // exception stacks.
    let (leave, name) = inner.strip_prefix('/').map_or((false, inner), |name| (true, name));
    // In kernels before 4.13, `<EOI>` and `<<EOE>>` end the frames of an interrupt and of an NMI.
    match name {
        "EOI" => return Some(Part::Leave("IRQ")),
        "<EOE>" => return Some(Part::Leave("NMI")),
        _ => {}
    }
    let name = CONTEXTS.iter().copied().find(|known| *known == name).or_else(|| {
        (name.starts_with('#') || name.starts_with('<') || name == "UNK").then_some("EXCEPTION")
    })?;
    Some(if leave { Part::Leave(name) } else { Part::Enter(name) })
}

/// `CPU: 1 PID: 27 Comm: kworker/1:0 Tainted: G W 6.1.0 #1`, and in 6.12
/// `CPU: 1 UID: 0 PID: 27 Comm: ...`.
fn cpu(bare: &str) -> Part {
    let after = |key: &str| bare.find(key).map(|at| bare[at + key.len()..].trim_start());
    let leading = |text: &str| {
        text.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse::<u32>().ok())
    };
    let cpu = after("CPU:").and_then(leading);
    let pid = after("PID:").and_then(leading);
    let comm = after("Comm:").map(|rest| {
        let end = [" Not tainted", " Tainted:"]
            .iter()
            .filter_map(|mark| rest.find(mark))
            .min()
            .unwrap_or(rest.len());
        rest[..end].to_owned()
    });
    let process = pid.zip(comm).map(|(pid, comm)| Process { comm, pid });
    if process.is_none() { Part::Text } else { Part::Cpu(cpu, process) }
}

/// `Pid: 812, comm: test Not tainted 3.2.0`, before 3.10.
fn old_task(bare: &str) -> Part {
    let task =
        bare.strip_prefix("Pid: ").and_then(|rest| rest.split_once(", comm: ")).and_then(|(pid, rest)| {
            let end = [" Not tainted", " Tainted:"].iter().filter_map(|mark| rest.find(mark)).min()?;
            Some(Process { comm: rest[..end].trim_end().to_owned(), pid: pid.parse().ok()? })
        });
    Part::Cpu(None, task)
}

/// `RIP: 0010:f+0x1/0x2`, `EIP: f+..`, `pc : f+..`, `PC is at f+..`, `NIP [c000..] f+..`,
/// `epc : f+..`, `Krnl PSW : 07.. 00.. (f+0x1/0x2)`.
fn instruction(bare: &str) -> Option<Part> {
    const MARKS: [&str; 16] = [
        "RIP: ",
        // sparc, parisc, m68k, alpha
        "TPC: <",
        "PC: <",
        "IAOQ[0]: ",
        "PC: [<",
        "pc is at ",
        "ERA: ",
        "era   :",
        "EIP: ",
        "EIP is at ",
        "pc : ",
        "PC is at ",
        "NIP [",
        "epc : ",
        "Krnl PSW : ",
        "epc   :",
    ];
    MARKS.iter().any(|mark| bare.starts_with(mark)).then(|| frame::find(bare).map_or(Part::Known, Part::Ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_known_for_what_they_are() {
        assert_eq!(classify("Call Trace:"), Part::Trace);
        assert_eq!(classify(" <TASK>"), Part::Enter("TASK"));
        assert_eq!(classify(" </IRQ>"), Part::Leave("IRQ"));
        let worker = Process { comm: "kworker/1:0".to_owned(), pid: 27 };
        assert_eq!(
            classify("CPU: 1 PID: 27 Comm: kworker/1:0 Not tainted 6.1.0 #1"),
            Part::Cpu(Some(1), Some(worker.clone()))
        );
        assert_eq!(
            classify("CPU: 1 UID: 0 PID: 27 Comm: kworker/1:0 Tainted: G        W          6.12.0 #1"),
            Part::Cpu(Some(1), Some(worker))
        );
        assert!(matches!(classify("RIP: 0010:lockdep_assert_cpus_held+0x3a/0x50"), Part::Ip(_)));
        assert_eq!(classify("RIP: 0033:0x7f0000001234"), Part::Known);
        assert_eq!(classify("---[ end trace 0000000000000000 ]---"), Part::End);
        assert!(matches!(classify("-> #1 (kn->active#45){++++}-{0:0}:"), Part::Heading(_)));
        assert_eq!(classify("smpboot: CPU 3 is now offline"), Part::Text);
    }
}
