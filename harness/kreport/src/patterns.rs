//! The table of report forms: the beginning of each first line, its kind, and how much it proves.
//!
//! Each row cites the kernel file that prints it. Rows are tried in order: special before general.

use super::Kind;

/// How much a first line proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// No other text looks like it.
    Sure,
    /// Boot messages and programs print similar lines: it counts only if registers or a stack
    /// follow.
    Body,
}

/// One form of report.
#[derive(Debug)]
pub(super) struct Form {
    /// The beginning of the text, after an optional subsystem prefix.
    pub head: &'static str,
    /// Substrings that must follow, in this order.
    pub has: &'static [&'static str],
    /// The kind of report.
    pub kind: Kind,
    /// The evidence that the line is.
    pub proof: Proof,
    /// `head` follows one of [`TAGS`]. The tag changed over the years: 4.11 turned INFO into
    /// WARNING, after a week of ERR.
    pub tagged: bool,
}

const TAGS: [&str; 4] = ["WARNING: ", "INFO: ", "BUG: ", "ERR: "];

/// `pr_fmt` prefixes that stand before some of the first lines.
const SUBSYSTEMS: [&str; 7] =
    ["rcu: ", "watchdog: ", "NMI watchdog: ", "traps: ", "mce: ", "workqueue: ", "mm: "];

const fn sure(kind: Kind, head: &'static str, has: &'static [&'static str]) -> Form {
    Form { head, has, kind, proof: Proof::Sure, tagged: false }
}

const fn body(kind: Kind, head: &'static str, has: &'static [&'static str]) -> Form {
    Form { head, has, kind, proof: Proof::Body, tagged: false }
}

const fn tagged(kind: Kind, head: &'static str, has: &'static [&'static str]) -> Form {
    Form { head, has, kind, proof: Proof::Sure, tagged: true }
}

/// A complaint of the unwinder, which is a line without a stack.
const fn unwinder(head: &'static str, has: &'static [&'static str]) -> Form {
    Form { head, has, kind: Kind::Warning, proof: Proof::Sure, tagged: true }
}

/// All forms.
pub(super) const FORMS: &[Form] = &[
    // kernel/locking/lockdep.c
    tagged(Kind::LockdepCircular, "possible circular locking dependency detected", &[]),
    tagged(Kind::LockdepRecursive, "possible recursive locking detected", &[]),
    tagged(Kind::LockdepInconsistent, "inconsistent lock state", &[]),
    tagged(Kind::LockdepIrqInversion, "possible irq lock inversion dependency detected", &[]),
    tagged(Kind::LockdepUnsafeOrder, "", &["-safe -> ", "-unsafe lock order detected"]),
    tagged(Kind::LockdepWaitContext, "Invalid wait context", &[]),
    tagged(Kind::LockdepHeldFreed, "held lock freed!", &[]),
    tagged(Kind::LockdepUnlockBalance, "bad unlock balance detected!", &[]),
    tagged(Kind::LockdepBadContention, "bad contention detected!", &[]),
    tagged(Kind::LockdepHeldAtUserReturn, "lock held when returning to user space!", &[]),
    tagged(Kind::LockdepHeldAtExit, "", &["/", " still has locks held!"]),
    tagged(Kind::LockdepHeldAtExit, "lock held at task exit time!", &[]),
    tagged(Kind::LockdepNestedNotHeld, "Nested lock was not taken", &[]),
    tagged(Kind::LockdepChainCollision, "chain_key collision", &[]),
    // before 4.11
    sure(Kind::LockdepChainCollision, "[chain_key collision ]", &[]),
    tagged(Kind::SuspiciousRcu, "suspicious RCU usage", &[]),
    // before 2.6.37
    tagged(Kind::SuspiciousRcu, "suspicious rcu_dereference_check() usage", &[]),
    // the first line of the complaint itself, where the lines above it are left out
    body(Kind::SuspiciousRcu, "", &[".c:", " suspicious rcu_", " usage!"]),
    body(Kind::SuspiciousRcu, "", &[".h:", " suspicious rcu_", " usage!"]),
    tagged(Kind::LockdepNonStaticKey, "trying to register non-static key", &[]),
    sure(Kind::LockdepDisarmed, "BUG: MAX_LOCK", &[" too low!"]),
    sure(Kind::LockdepDisarmed, "BUG: MAX_STACK_TRACE_ENTRIES too low!", &[]),
    sure(Kind::LockdepDisarmed, "BUG: looking up invalid subclass: ", &[]),
    sure(Kind::LockdepDisarmed, "BUG: key ", &[" has not been registered!"]),
    sure(Kind::LockdepDisarmed, "turning off the locking correctness validator.", &[]),
    // lockdep_cleanup_dead_cpu(), since 6.13: a line without a stack
    sure(Kind::Bug, "CPU ", &[" left hardirqs enabled!"]),
    // kernel/panic.c, before and after the rewording of 6.17; lib/bug.c
    sure(Kind::Warning, "WARNING: CPU: ", &[" PID: ", " at "]),
    sure(Kind::Warning, "WARNING: ", &[" at ", ", CPU#"]),
    sure(Kind::Warning, "WARNING: at ", &["+0x"]),
    // arch/x86/mm/extable.c
    body(Kind::Warning, "unchecked MSR access error: ", &[" at rIP: "]),
    sure(Kind::KernelBug, "kernel BUG at ", &[]),
    sure(Kind::KernelBug, "Kernel BUG at ", &[]),
    // mm/kasan/report.c, mm/kfence/report.c, kernel/kcsan/report.c, mm/kmsan/report.c, lib/ubsan.c,
    // mm/kmemleak.c
    sure(Kind::Kasan, "BUG: KASAN: ", &[]),
    sure(Kind::Kfence, "BUG: KFENCE: ", &[]),
    sure(Kind::Kcsan, "BUG: KCSAN: ", &[]),
    sure(Kind::Kmsan, "BUG: KMSAN: ", &[]),
    sure(Kind::Ubsan, "UBSAN: ", &[" in ", ":"]),
    // arch/arm64/kernel/traps.c with CONFIG_UBSAN_TRAP
    sure(Kind::Ubsan, "Internal error: UBSAN: ", &["[#"]),
    sure(Kind::MemoryLeak, "BUG: memory leak", &[]),
    sure(Kind::MemoryLeak, "unreferenced object 0x", &[" (size "]),
    sure(Kind::MemoryLeak, "kmemleak: ", &[" new suspected memory leaks"]),
    // mm/page_alloc.c, mm/vmalloc.c, mm/sparse-vmemmap.c: warn_alloc(), since 2.6.32
    sure(Kind::AllocationFailure, "", &[": ", "failure: order:", ", mode:0x"]),
    sure(Kind::AllocationFailure, "", &[": page allocation failure. order:", ", mode:0x"]),
    sure(Kind::AllocationFailure, "", &[": vmalloc", ", mode:0x"]),
    // mm/slub.c, mm/slab.c, mm/page_poison.c, mm/memory.c, kernel/fork.c,
    // mm/pgtable-generic.c
    sure(Kind::SlabCorruption, "BUG ", &["ainted", "): "]),
    sure(Kind::SlabCorruption, "Slab corruption", &["start="]),
    sure(Kind::SlabCorruption, "slab error in ", &["(): "]),
    sure(Kind::PageCorruption, "BUG: Bad page ", &[" in process "]),
    sure(Kind::PageCorruption, "BUG: Bad rss-counter state ", &[]),
    sure(Kind::PageCorruption, "BUG: non-zero ", &[" on freeing mm"]),
    sure(Kind::PageCorruption, "BUG: mempool element poison mismatch", &[]),
    body(Kind::PageCorruption, "pagealloc: memory corruption", &[]),
    body(Kind::PageCorruption, "pagealloc: single bit error", &[]),
    sure(Kind::PageCorruption, "mm/pgtable-generic.c:", &[": bad p"]),
    // lib/list_debug.c, mm/usercopy.c, lib/string_helpers.c
    body(Kind::ListCorruption, "list_add corruption", &[]),
    body(Kind::ListCorruption, "list_add double add", &[]),
    body(Kind::ListCorruption, "list_del corruption", &[]),
    body(Kind::Usercopy, "usercopy: Kernel memory ", &[" attempt detected "]),
    body(Kind::Usercopy, "detected buffer overflow in ", &[]),
    // arch/x86/kernel/traps.c, arch/arm64/kernel/traps.c, arch/s390/kernel/traps.c
    sure(Kind::StackOverflow, "BUG: ", &["stack guard page was hit at "]),
    body(Kind::StackOverflow, "Insufficient stack space to handle exception!", &[]),
    body(Kind::StackOverflow, "Kernel stack overflow", &[]),
    sure(Kind::DoubleFault, "PANIC: double fault", &[]),
    // arch/*/mm/fault.c
    sure(Kind::NullDeref, "BUG: kernel NULL pointer dereference", &[]),
    sure(Kind::NullDeref, "BUG: Kernel NULL pointer dereference", &[]),
    sure(Kind::NullDeref, "BUG: unable to handle kernel NULL pointer dereference", &[]),
    sure(Kind::PageFault, "BUG: unable to handle ", &[]),
    sure(Kind::PageFault, "BUG: Unable to handle ", &[]),
    sure(Kind::NullDeref, "Unable to handle kernel NULL pointer dereference", &[]),
    sure(Kind::PageFault, "Unable to handle kernel ", &[" at "]),
    body(Kind::PageFault, "Unable to handle kernel ", &[]),
    sure(Kind::PageFault, "CPU ", &[" Unable to handle kernel paging request at "]),
    body(Kind::Oops, "Unhandled fault: ", &["abort"]),
    body(Kind::PageFault, "Unhandled fault", &[]),
    // arch/parisc/kernel/traps.c: parisc_terminate()
    body(Kind::NullDeref, "Bad Address (null pointer deref?): Code=", &[]),
    body(Kind::PageFault, "Kernel Fault: Code=", &[]),
    // arch/*/kernel/{traps,dumpstack}.c: all of these have the count of Oopses, `[#1]`
    sure(Kind::GeneralProtection, "general protection fault", &["[#"]),
    sure(Kind::GeneralProtection, "Oops: general protection fault", &["[#"]),
    sure(Kind::DivideError, "divide error: ", &["[#"]),
    sure(Kind::DivideError, "Oops: divide error: ", &["[#"]),
    body(Kind::DivideError, "Division by zero in kernel.", &[]),
    sure(Kind::DoubleFault, "double fault: ", &["[#"]),
    sure(Kind::DoubleFault, "Oops: double fault: ", &["[#"]),
    // arch/powerpc/kernel/{mce,traps}.c
    sure(Kind::MachineCheck, "Oops: Machine check", &["[#"]),
    body(Kind::MachineCheck, "Machine check in kernel mode.", &[]),
    sure(Kind::KernelBug, "Internal error: Oops - BUG", &["[#"]),
    sure(Kind::KernelBug, "Kernel bug detected[#", &["]"]),
    sure(Kind::KernelBug, "Kernel BUG [#", &["]"]),
    sure(Kind::Oops, "Internal error: ", &["[#"]),
    sure(Kind::Oops, "Oops", &["[#"]),
    sure(Kind::Oops, "", &[" ilc:", " [#"]),
    body(Kind::Oops, "", &["[#", "]"]),
    // arch/{alpha,ia64,openrisc}/kernel/traps.c: without a count
    body(Kind::Oops, "", &["): Oops "]),
    body(Kind::Oops, "", &["]: Oops "]),
    body(Kind::Oops, "Oops#", &[": "]),
    body(Kind::Oops, "SError Interrupt on CPU", &[]),
    body(Kind::Oops, "Bad mode in ", &[]),
    body(Kind::Oops, "Unhandled prefetch abort", &[]),
    // kernel/sched/core.c, kernel/locking/spinlock_debug.c, lib/smp_processor_id.c
    sure(Kind::ScheduleInAtomic, "BUG: scheduling while atomic: ", &[]),
    sure(Kind::ScheduleInAtomic, "BUG: scheduling in a non-blocking section", &[]),
    body(Kind::ScheduleInAtomic, "bad: scheduling from the idle thread!", &[]),
    sure(Kind::SleepInAtomic, "BUG: sleeping function called from invalid context", &[]),
    sure(Kind::PreemptibleCpuUse, "BUG: using ", &[" in preemptible "]),
    sure(Kind::SpinlockBug, "BUG: spinlock ", &[" on CPU#"]),
    sure(Kind::SpinlockBug, "BUG: rwlock", &[" on CPU#"]),
    // kernel/watchdog.c, kernel/watchdog_hld.c, arch/powerpc/kernel/watchdog.c, kernel/workqueue.c
    sure(Kind::SoftLockup, "BUG: soft lockup - CPU#", &[]),
    sure(Kind::HardLockup, "Watchdog detected hard LOCKUP on cpu", &[]),
    sure(Kind::HardLockup, "CPU", &["etected hard LOCKUP "]),
    sure(Kind::HardLockup, "CPU ", &[" Hard LOCKUP"]),
    sure(Kind::HardLockup, "Watchdog CPU:", &[" Hard LOCKUP"]),
    // arch/x86/kernel/nmi.c, before 2.6.38
    sure(Kind::HardLockup, "BUG: NMI Watchdog detected LOCKUP", &[]),
    sure(Kind::HardLockup, "NMI Watchdog detected LOCKUP", &[]),
    sure(Kind::SoftLockup, "BUG: soft lockup detected on CPU#", &[]),
    sure(Kind::WorkqueueLockup, "BUG: workqueue lockup - pool", &[]),
    sure(Kind::WorkqueueLeak, "BUG: workqueue leaked ", &[]),
    // kernel/rcu/tree_stall.h, tree_exp.h, tasks.h
    sure(Kind::RcuStall, "INFO: rcu", &["detected stall"]),
    sure(Kind::RcuStall, "INFO: rcu", &["detected expedited stalls"]),
    sure(Kind::RcuStall, "rcu_", &[" kthread starved for ", " jiffies!"]),
    sure(Kind::RcuStall, "rcu_", &[" kthread timer wakeup didn't happen for "]),
    // kernel/hung_task.c
    sure(Kind::HungTask, "INFO: task ", &[" blocked", "for more than "]),
    sure(Kind::HungTask, "INFO: task ", &[" blocked on a"]),
    sure(Kind::HungTask, "INFO: task ", &[" can't die for more than "]),
    // net/core/dev.c, mm/oom_kill.c, kernel/irq/spurious.c, fs/super.c
    sure(Kind::UnregisterNetdevice, "unregister_netdevice: waiting for ", &["Usage count"]),
    sure(Kind::UnregisterNetdevice, "unregister_netdevice: waiting for ", &[" to become free"]),
    sure(Kind::UnregisterNetdevice, "unregister_netdevice: device ", &[" never was registered"]),
    sure(Kind::OutOfMemory, "", &[" invoked oom-killer: gfp_mask="]),
    sure(Kind::OutOfMemory, "Out of memory: Kill", &[" process "]),
    sure(Kind::OutOfMemory, "Memory cgroup out of memory: Kill", &[" process "]),
    sure(Kind::UnhandledIrq, "irq ", &[": nobody cared"]),
    sure(Kind::Bug, "VFS: Busy inodes after unmount", &[]),
    // fs/open.c: filp_close()
    sure(Kind::Bug, "VFS: Close: file count is 0", &[]),
    sure(Kind::MachineCheck, "[Hardware Error]: CPU ", &["Machine Check", "Exception: "]),
    // arch/powerpc/kernel/mce.c
    body(Kind::MachineCheck, "MCE: CPU", &[": machine check (", "[Not recovered"]),
    // drivers/watchdog/softdog.c, pretimeout governors, Qualcomm's and Google's trees
    sure(Kind::WatchdogBite, "softdog: Initiating system reboot", &[]),
    sure(Kind::WatchdogBite, "Watchdog bite", &[]),
    sure(Kind::WatchdogBite, "", &["atchdog bark!"]),
    sure(Kind::WatchdogBite, "", &["Causing a ", "atchdog bite!"]),
    sure(Kind::WatchdogBite, "watchdog", &[": pretimeout event"]),
    // kernel/panic.c
    sure(Kind::Panic, "Kernel panic - not syncing", &[]),
    // arch/x86/kernel/{unwind_frame,unwind_orc,dumpstack_32,dumpstack_64}.c
    unwinder("kernel stack ", &[" has bad "]),
    unwinder("stack going in the wrong direction?", &[]),
    unwinder("stack recursion on stack type ", &[]),
    unwinder("missing ", &[" value at "]),
    unwinder("unknown ", &[" base reg "]),
    unwinder("unknown .orc_unwind entry type ", &[]),
    unwinder("can't access ", &["registers at "]),
    unwinder("WARNING: bad lookup ", &[" ip="]),
    unwinder("WARNING: Corrupt .orc_unwind table", &[]),
    unwinder("WARNING: Bad or missing .orc_unwind table", &[]),
    // Any other line that begins with "BUG: ", and edited first lines of a WARNING.
    body(Kind::Bug, "BUG: ", &[]),
    body(Kind::Warning, "WARNING: ", &[".c:"]),
    body(Kind::Warning, "WARNING: ", &[".h:"]),
    body(Kind::Warning, "WARNING: ", &["+0x", "/0x"]),
];

/// At least one substring of each form: a line without any of them begins no report. Each has four
/// bytes or more and is rare in harmless logs, and there are fewer than 64. The SIMD search is fast
/// under these conditions.
#[rustfmt::skip]
pub(super) const TRIGGERS: &[&str] = &[
    "WARNING: ", "INFO: ", "ERR: ", "BUG:", "BUG ", "Oops", "UBSAN: ", "unreferenced object 0x", "new suspected memory leaks",
    "turning off the lock", "corruption", "slab error in ", "list_add double", "pagealloc: ", "pgtable-generic.c",
    "usercopy: ", "detected buffer overflow", "Insufficient stack", "stack overflow", "PANIC: double",
    "Unable to handle", "Unhandled ", "SError Int", "Bad mode in", "bad: scheduling", " LOCKUP", "Division by zero in k",
    "systemd-shutdown", "going down for", "ting system re",
    " kthread ", "unregister_netdevice: ", "invoked oom-killer", "ut of memory: Kill",
    "nobody cared", "VFS: ", "[Hardware Error]: CPU", "atchdog b", "pretimeout event", "unchecked MSR", "Bad Address (", "Kernel Fault: ", "achine check",
    "Kernel panic - not", "[ cut here ]", "Linux version ", "reboot: ", "Starting new kernel", "-- Boot ",
    "printk messages dropped", "general protection fault", "Internal error: ",
    "left hardirqs enabled", " failure: order:", "allocation failure. ", "vmalloc", "suspicious rcu_", "[chain_key col",
    // Oopses are numbered. Five numbers are enough: a log with a sixth Oops has five reports
    // already.
    "[#1]", "[#2]", "[#3]", "[#4]", "[#5]",
];

/// The form that a text begins, if any.
pub(super) fn find(text: &str) -> Option<&'static Form> {
    let text = text.strip_prefix("[ ").unwrap_or(text);
    let text = SUBSYSTEMS.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
    let rest = TAGS.iter().find_map(|tag| text.strip_prefix(tag));
    FORMS.iter().find(|form| {
        let text = if form.tagged { rest } else { Some(text) };
        let mut after = text.and_then(|text| text.strip_prefix(form.head));
        for part in form.has {
            after = after.and_then(|text| text.find(part).map(|at| &text[at + part.len()..]));
        }
        after.is_some() && (!form.has.contains(&"[#") || counted(text.unwrap_or_default()))
    })
}

/// Whether a text ends as in `die()`: with the count, and then nothing, a colon, or flags such as
/// `PREEMPT SMP KASAN`.
pub(super) fn counted(text: &str) -> bool {
    text.split("[#").skip(1).any(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let Some(flags) = rest[digits..].strip_prefix(']') else { return false };
        let flags = flags.trim();
        digits > 0 && (flags.is_empty() || flags.starts_with(|c: char| c == ':' || c.is_ascii_uppercase()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_a_trigger() {
        for form in FORMS {
            let tag = if form.tagged { "WARNING: " } else { "" };
            let sample = format!("{tag}{}{}", form.head, form.has.join("")).replace("[#", "[#1]");
            assert!(TRIGGERS.iter().any(|trigger| sample.contains(trigger)), "{sample:?}");
        }
    }

    #[test]
    fn triggers_suit_the_simd_search() {
        assert!(
            TRIGGERS.len() < 64 && TRIGGERS.iter().all(|trigger| trigger.len() >= 4),
            "{}",
            TRIGGERS.len()
        );
    }

    #[test]
    fn special_before_general() {
        let kind = |text| find(text).map(|form| form.kind);
        assert_eq!(
            kind("WARNING: possible circular locking dependency detected"),
            Some(Kind::LockdepCircular)
        );
        assert_eq!(kind("[ INFO: possible recursive locking detected ]"), Some(Kind::LockdepRecursive));
        assert_eq!(kind("[ BUG: Invalid wait context ]"), Some(Kind::LockdepWaitContext));
        assert_eq!(
            kind("WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected"),
            Some(Kind::LockdepUnsafeOrder)
        );
        assert_eq!(kind("watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [a:1]"), Some(Kind::SoftLockup));
        assert_eq!(kind("rcu: INFO: rcu_sched self-detected stall on CPU"), Some(Kind::RcuStall));
        assert_eq!(kind("BUG kmalloc-64 (Not tainted): Poison overwritten"), Some(Kind::SlabCorruption));
        assert_eq!(kind("specification exception: 0006 ilc:2 [#1] SMP"), Some(Kind::Oops));
        assert_eq!(kind("foo[#1] started"), None);
        assert_eq!(kind("Oops: 0000 [#12] PREEMPT(voluntary) SMP"), Some(Kind::Oops));
        assert_eq!(kind("Kernel command line: panic=1"), None);
        assert_eq!(kind("WARNING: Spectre v2 mitigation leaves CPU vulnerable"), None);
    }
}
