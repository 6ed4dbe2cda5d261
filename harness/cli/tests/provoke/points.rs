//! The points: ways to make a kernel misbehave, and the reports that follow.

use hotplug_kreport::Kind;

/// One way to misbehave.
pub(crate) struct Point {
    /// Name in lib/provoke.c.
    pub(crate) name: &'static str,
    /// Kinds of the reports that follow, in this order.
    kinds: &'static [Kind],
    /// Additional parameters of the kernel's command line.
    pub(crate) arguments: &'static str,
    /// Kinds that kernels since 6.9 report instead.
    since_6_9: Option<&'static [Kind]>,
}

impl Point {
    /// Kinds that a kernel of this series reports.
    pub(crate) fn kinds(&self, series: (u32, u32)) -> &'static [Kind] {
        self.since_6_9.filter(|_| series >= (6, 9)).unwrap_or(self.kinds)
    }
}

const fn point(name: &'static str, kinds: &'static [Kind]) -> Point {
    Point { name, kinds, arguments: "", since_6_9: None }
}

const fn with(arguments: &'static str, name: &'static str, kinds: &'static [Kind]) -> Point {
    Point { name, kinds, arguments, since_6_9: None }
}

/// Points of the kernel with most checkers.
pub(crate) const POINTS: &[Point] = &[
    point("nothing", &[]),
    point("circular", &[Kind::LockdepCircular]),
    point("circular-three", &[Kind::LockdepCircular]),
    point("recursive", &[Kind::LockdepRecursive]),
    point("inconsistent-hardirq", &[Kind::LockdepInconsistent]),
    point("inconsistent-hardirq-first", &[Kind::LockdepInconsistent]),
    point("inconsistent-softirq", &[Kind::LockdepInconsistent]),
    point("irq-inversion", &[Kind::LockdepIrqInversion]),
    point("safe-unsafe", &[Kind::LockdepUnsafeOrder]),
    point("wait-context", &[Kind::LockdepWaitContext]),
    point("held-freed", &[Kind::LockdepHeldFreed]),
    // CONFIG_DEBUG_RWSEMS warns about the unlock that lockdep has already reported.
    point("unlock-balance", &[Kind::LockdepUnlockBalance, Kind::Warning]),
    // With no lock held at all, __lock_contended() in kernel/locking/lockdep.c takes another
    // branch.
    point("bad-contention", &[Kind::DebugLocksWarning]),
    point("held-at-exit", &[Kind::LockdepHeldAtExit]),
    point("held-at-user-return", &[Kind::LockdepHeldAtUserReturn]),
    point("nested-not-held", &[Kind::LockdepNestedNotHeld]),
    point("non-static-key", &[Kind::LockdepNonStaticKey]),
    point("disarmed", &[Kind::LockdepDisarmed]),
    point("broken-mutex", &[Kind::DebugLocksWarning, Kind::NullDeref]),
    point("suspicious-rcu", &[Kind::SuspiciousRcu]),
    point("warn", &[Kind::Warning]),
    point("warn-on", &[Kind::Warning]),
    point("bug", &[Kind::KernelBug]),
    point("null", &[Kind::NullDeref]),
    point("page-fault", &[Kind::PageFault]),
    point("non-canonical", &[Kind::GeneralProtection]),
    point("divide", &[Kind::DivideError]),
    point("invalid-opcode", &[Kind::Oops]),
    point("double-fault", &[Kind::DoubleFault]),
    point("stack-overflow", &[Kind::StackOverflow]),
    point("stack-corruption", &[Kind::StackCorruption]),
    point("panic", &[Kind::Panic]),
    point("list-add", &[Kind::ListCorruption]),
    point("list-del", &[Kind::ListCorruption]),
    point("refcount-underflow", &[Kind::Refcount]),
    point("refcount-revived", &[Kind::Refcount]),
    point("usercopy", &[Kind::Usercopy]),
    point("debug-object", &[Kind::DebugObjects]),
    with("slub_debug=FZPU", "slab-double-free", &[Kind::SlabCorruption]),
    with("slub_debug=FZPU", "slab-redzone", &[Kind::SlabCorruption]),
    with("slub_debug=FZPU", "slab-poison", &[Kind::SlabCorruption]),
    with("slub_debug=FZPU", "slab-left", &[Kind::SlabCorruption, Kind::Warning]),
    point("bad-page", &[Kind::PageCorruption]),
    with("page_poison=1", "page-poison", &[Kind::PageCorruption]),
    point("schedule-atomic", &[Kind::ScheduleInAtomic, Kind::DebugLocksWarning]),
    point("sleep-atomic", &[Kind::SleepInAtomic]),
    point("preemptible-cpu", &[Kind::PreemptibleCpuUse]),
    point("spinlock-magic", &[Kind::SpinlockBug]),
    with("watchdog_thresh=3 rcupdate.rcu_cpu_stall_suppress=1", "soft-lockup", &[Kind::SoftLockup]),
    // With these limits for every point, other points would reach them on a busy host.
    with("rcupdate.rcu_cpu_stall_timeout=3", "rcu-stall", &[Kind::RcuStall]),
    with("rcupdate.rcu_exp_cpu_stall_timeout=2000", "rcu-stall-expedited", &[Kind::RcuStall]),
    // Since 6.5 a long work item does not block others, unless cpu_intensive_thresh_us is 0.
    with(
        "workqueue.watchdog_thresh=3 workqueue.cpu_intensive_thresh_us=0",
        "workqueue-lockup",
        &[Kind::WorkqueueLockup],
    ),
    point("workqueue-leak", &[Kind::WorkqueueLeak]),
    point("hung-task", &[Kind::HungTask]),
    point("out-of-memory", &[Kind::OutOfMemory]),
    point("kfence-oob", &[Kind::Kfence]),
    point("kfence-use-after-free", &[Kind::Kfence]),
    point("kfence-corruption", &[Kind::Kfence, Kind::Kfence]),
    point("undefined-shift", &[Kind::Ubsan]),
    point("undefined-index", &[Kind::Ubsan]),
    point("unregister-netdevice", &[Kind::UnregisterNetdevice]),
    // lib/string_helpers.c: __fortify_panic() warns before its BUG() since 6.9.
    Point { since_6_9: Some(&[Kind::Usercopy, Kind::KernelBug]), ..point("fortify", &[Kind::Usercopy]) },
];

/// Points that need KASAN.
pub(crate) const KASAN_POINTS: &[Point] = &[
    point("oob-read", &[Kind::Kasan]),
    point("use-after-free", &[Kind::Kasan]),
    point("double-free", &[Kind::Kasan]),
    point("invalid-free", &[Kind::Kasan]),
    point("stack-oob", &[Kind::Kasan]),
    point("global-oob", &[Kind::Kasan]),
    point("vmalloc-oob", &[Kind::Kasan]),
    point("non-canonical", &[Kind::GeneralProtection]),
];

/// Points that need KCSAN.
pub(crate) const KCSAN_POINTS: &[Point] = &[point("data-race", &[Kind::Kcsan])];
