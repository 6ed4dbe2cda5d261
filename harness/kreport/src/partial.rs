//! An open report, and the rules for first lines that only continue it.

use super::assemble::Gathered;
use super::container::Spot;
use super::patterns::{self, Form, Proof};
use super::prefix::Caller;
use super::{Corruption, Kind, join};

/// Lines and bytes that are kept of one report.
const REPORT_LINES: usize = 4000;
const REPORT_BYTES: usize = 512 * 1024;

/// A report that is still being read.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own that a line may tell")]
pub(super) struct Open {
    pub gathered: Gathered,
    pub callers: Vec<Option<Caller>>,
    pub proved: bool,
    /// A frame was read.
    pub stack: bool,
    /// The end marker was read. Only a panic can still be added.
    pub ended: bool,
    pub die: bool,
    pub bytes: usize,
    pub idle: u32,
    pub time: Option<u64>,
    /// The log has times, and this report's first line has none.
    pub suspect: bool,
    /// The marks before its first line.
    pub prefix: Box<[u8]>,
    /// The number of `>` in them.
    pub level: u8,
    /// Where it stands.
    pub spot: Spot,
    /// Lines in a row that do not have the marks.
    pub strays: u8,
    /// Lines that a mail client broke.
    pub broken: u32,
    /// Lines that only reports have.
    pub known: u32,
}

impl Open {
    /// Whether a panic can be added. A kernel panics once, and a panic is not the cause of a panic.
    pub(super) fn may_panic(&self) -> bool {
        self.proved && self.gathered.panic.is_none() && self.gathered.form.kind != Kind::Panic
    }

    /// Whether a panic directly after this report is its consequence, whatever reason the panic
    /// gives.
    pub(super) fn leads_to_panic(&self) -> bool {
        let fatal = [
            Kind::StackOverflow,
            Kind::MachineCheck,
            Kind::DoubleFault,
            Kind::OutOfMemory,
            Kind::HardLockup,
            Kind::WatchdogBite,
        ];
        self.die || fatal.contains(&self.gathered.form.kind)
    }
}

/// Adds the second half of a line that a mail client broke to the first. Returns false if this is
/// none. A first line may be of another form once it is whole.
pub(super) fn mend(open: &mut Open, text: &str, number: u64, width: usize, timed: bool) -> bool {
    let gathered = &mut open.gathered;
    let first = gathered.texts.len() == gathered.headline + 1;
    let Some((last, head)) = gathered.texts.last_mut() else { return false };
    let whole = first.then(|| patterns::find(&join::joined(head, text))).flatten();
    let special = whole.filter(|form| form.proof == Proof::Sure && form.kind != gathered.form.kind);
    let is_half =
        special.is_some() && *last + 1 == number || join::continues(head, *last, text, number, width, timed);
    if !is_half {
        return false;
    }
    *head = join::joined(head, text).into();
    // The next half follows this one.
    *last = number;
    gathered.last = number;
    if let Some(form) = whole {
        gathered.form = form;
    }
    open.broken += 1;
    open.bytes += text.len();
    true
}

pub(super) fn push(open: &mut Open, text: &str, number: u64) {
    if open.gathered.texts.len() >= REPORT_LINES || open.bytes >= REPORT_BYTES {
        open.gathered.corrupted.get_or_insert(Corruption::TooLong);
        return;
    }
    open.bytes += text.len();
    open.gathered.texts.push((number, text.into()));
}

/// Whether reports of a kind begin with a line of equals signs. Other reports may follow a report
/// that ended with such a line.
pub(super) fn has_banner(kind: Kind) -> bool {
    kind.is_lockdep()
        || matches!(
            kind,
            Kind::Kasan | Kind::Kfence | Kind::Kcsan | Kind::Kmsan | Kind::Ubsan | Kind::SlabCorruption
        )
}

pub(super) fn is_banner(text: &str) -> bool {
    let bare = text.trim();
    bare.len() >= 20 && bare.bytes().all(|byte| byte == b'=')
}

/// Whether this is a line of `die()`, which has the count of Oopses; on alpha, ia64 and openrisc it
/// has none.
pub(super) fn is_die(text: &str) -> bool {
    patterns::counted(text)
        || ["Internal error: ", "Oops#"].iter().any(|head| text.starts_with(head))
        || ["): Oops ", "]: Oops "].iter().any(|words| text.contains(words))
}

/// Whether the reason of a panic implies that another report came before.
pub(super) fn consequence(reason: &str) -> bool {
    const REASONS: [&str; 26] = [
        // arch/x86/kernel/cpu/mce/core.c, arch/powerpc/kernel/traps.c
        "Fatal machine check",
        "Fatal Machine check",
        "Fatal local machine check",
        "Local fatal machine check",
        "Timeout: Not all CPUs entered broadcast exception handler",
        "Machine check",
        "Unrecoverable Machine check",
        "Uncorrected",
        "Fatal exception",
        "panic_on_warn set",
        "Attempted to kill init!",
        "Attempted to kill the idle task!",
        "Oops",
        "hung_task: blocked tasks",
        "softlockup: hung tasks",
        "Hard LOCKUP",
        "RCU Stall",
        "KFENCE: ",
        "System is deadlocked on memory",
        "Out of memory",
        "Asynchronous SError Interrupt",
        "kmsan.panic set",
        "kasan.fault=panic",
        "corrupted stack end detected",
        "kernel: panic_on_warn",
        "Fatal hardware error",
    ];
    // A mail client may have broken the line.
    let half = |known: &str| reason.len() >= 8 && known.starts_with(reason.trim_end());
    REASONS.iter().any(|known| reason.starts_with(known) || half(known)) || reason.contains("panic_on_")
}

/// Whether a headline is a further line of the report that is open.
pub(super) fn continues(open: &Open, form: &Form, text: &str, number: u64, time: Option<u64>) -> bool {
    let kind = open.gathered.form.kind;
    // Close in the log and in kernel time. A second log in the same file sets the time back.
    let soon = open.time.zip(time).is_none_or(|(then, now)| (then..=then + 2_000_000).contains(&now));
    let near = soon && number - open.gathered.last <= 12;
    let prelude = matches!(
        kind,
        Kind::NullDeref
            | Kind::PageFault
            | Kind::KernelBug
            | Kind::GeneralProtection
            | Kind::StackOverflow
            | Kind::DoubleFault
            | Kind::ListCorruption
            | Kind::Usercopy
            | Kind::Oops
    );
    // The text of fault.c, then that of die().
    if is_die(text) && prelude && !open.die && !open.stack {
        return near;
    }
    // Symbolised logs print a headline for the inlined function and one for the function around it.
    let inlined = open.gathered.texts.last().is_some_and(|(_, text)| text.contains("[inline]"));
    if form.kind == kind && inlined && number == open.gathered.last + 1 {
        return true;
    }
    match form.kind {
        // The unwinder complains while it prints the stack of another report.
        Kind::Warning if form.tagged => !open.ended && near && !open.gathered.form.tagged,
        // The complaint below the line that all of them have.
        Kind::SuspiciousRcu => kind == Kind::SuspiciousRcu && !form.tagged && !open.stack && near,
        Kind::KernelBug | Kind::Warning => {
            // SLUB ends its own reports with a WARN since 6.16 (mm/slub.c: slab_err(),
            // object_err()).
            let slub = kind == Kind::SlabCorruption && text.contains("mm/slub.c");
            // "BUG: key ... has not been registered!", then DEBUG_LOCKS_WARN_ON
            // (kernel/locking/lockdep.c).
            let key = kind == Kind::LockdepDisarmed && text.contains("kernel/locking/lockdep.c");
            // "BUG: Dentry ... still in use", then a WARN (fs/dcache.c: umount_check()).
            let dentry = kind == Kind::Bug && text.contains("fs/dcache.c");
            // "VFS: Close: file count is 0", then CHECK_DATA_CORRUPTION() (fs/open.c: filp_close()).
            let file = kind == Kind::Bug && text.contains("fs/open.c");
            let bare = key || dentry || file || matches!(kind, Kind::ListCorruption | Kind::Usercopy);
            // The stacks of the allocation and of the free and a dump of the object are in between.
            slub && soon || bare && !open.stack && near
        }
        // Every CPU prints its machine check banks. In a hard lockup, the CPU that detected it and
        // the CPU that is stuck print a headline each (arch/powerpc/kernel/watchdog.c).
        Kind::MachineCheck | Kind::HardLockup => kind == form.kind && !open.stack && near,
        // A watchdog barks (pretimeout) before it bites (drivers/watchdog/qcom-wdt.c and similar).
        Kind::WatchdogBite => {
            let barked = open.gathered.texts.first().is_some_and(|(_, first)| first.contains("bark"));
            kind == Kind::WatchdogBite && barked && text.contains("bite") && near
        }
        // WARN prints its text below the line with the location.
        Kind::ListCorruption => {
            matches!(kind, Kind::Warning | Kind::KernelBug | Kind::ListCorruption) && !open.stack && near
        }
        // The task that holds the lock that the hung task waits for, and the stack of that task.
        Kind::HungTask => kind == Kind::HungTask && text.contains(" blocked on a"),
        // One line for each pool, then all of them in detail.
        Kind::WorkqueueLockup => kind == Kind::WorkqueueLockup && soon && number == open.gathered.last + 1,
        // KASAN before 4.8 had SLUB print the object (mm/kasan/report.c: object_err()).
        Kind::SlabCorruption => kind == Kind::Kasan && !open.stack && near,
        Kind::LockdepDisarmed => text.starts_with("turning off") && (kind.is_lockdep() && near),
        Kind::RcuStall => kind == Kind::RcuStall && text.contains(" kthread "),
        Kind::MemoryLeak => kind == Kind::MemoryLeak && !open.stack && text.starts_with("unreferenced"),
        Kind::OutOfMemory => kind == Kind::OutOfMemory && !text.contains("invoked oom-killer"),
        Kind::PageFault | Kind::NullDeref => kind == Kind::PageFault && !open.die && !open.stack && near,
        _ => false,
    }
}
