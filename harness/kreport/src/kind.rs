//! The kinds of reports: a closed list, with names that are stable from release to release.

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($( $(#[$doc:meta])* $variant:ident = $name:literal, )*) => {
        /// The kind of failure that a kernel report describes. The names are part of the JSON
        /// schema.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Kind {
            $( $(#[$doc])* #[serde(rename = $name)] $variant, )*
        }

        impl Kind {
            /// Every kind, in the order of the documentation.
            pub const ALL: &[Kind] = &[$( Kind::$variant, )*];

            /// The stable kebab-case name, as JSON has it.
            pub fn name(self) -> &'static str {
                match self { $( Kind::$variant => $name, )* }
            }
        }
    };
}

kinds! {
    /// "possible circular locking dependency detected".
    LockdepCircular = "lockdep-circular",
    /// "possible recursive locking detected".
    LockdepRecursive = "lockdep-recursive",
    /// "inconsistent lock state".
    LockdepInconsistent = "lockdep-inconsistent-state",
    /// "possible irq lock inversion dependency detected".
    LockdepIrqInversion = "lockdep-irq-inversion",
    /// "HARDIRQ-safe -> HARDIRQ-unsafe lock order detected", and the same for softirq and reclaim.
    LockdepUnsafeOrder = "lockdep-safe-unsafe-order",
    /// "Invalid wait context".
    LockdepWaitContext = "lockdep-invalid-wait-context",
    /// "held lock freed!".
    LockdepHeldFreed = "lockdep-held-lock-freed",
    /// "bad unlock balance detected!".
    LockdepUnlockBalance = "lockdep-bad-unlock-balance",
    /// "bad contention detected!".
    LockdepBadContention = "lockdep-bad-contention",
    /// "lock held when returning to user space!".
    LockdepHeldAtUserReturn = "lockdep-held-at-user-return",
    /// "comm/pid still has locks held!".
    LockdepHeldAtExit = "lockdep-held-at-exit",
    /// "Nested lock was not taken".
    LockdepNestedNotHeld = "lockdep-nested-lock-not-held",
    /// "`chain_key` collision".
    LockdepChainCollision = "lockdep-chain-key-collision",
    /// "trying to register non-static key".
    LockdepNonStaticKey = "lockdep-non-static-key",
    /// A table of lockdep is full (`MAX_LOCKDEP_*` and similar), or lockdep turned itself off for
    /// another reason.
    LockdepDisarmed = "lockdep-disarmed",
    /// `DEBUG_LOCKS_WARN_ON`: a lock's own consistency check, which turns lockdep off.
    DebugLocksWarning = "debug-locks-warning",
    /// "suspicious RCU usage".
    SuspiciousRcu = "suspicious-rcu-usage",
    /// `WARN_ON()`, `WARN()` and similar, unless another kind applies.
    Warning = "warning",
    /// `BUG_ON`: "kernel BUG at".
    KernelBug = "kernel-bug",
    /// A "BUG: ..." line of a form not listed otherwise.
    Bug = "bug",
    /// The kernel dereferenced a null pointer.
    NullDeref = "null-dereference",
    /// Any other page fault in kernel mode.
    PageFault = "page-fault",
    /// x86 general protection fault.
    GeneralProtection = "general-protection-fault",
    /// Division by zero in the kernel.
    DivideError = "divide-error",
    /// A kernel stack overflowed, or hit its guard page.
    StackOverflow = "stack-overflow",
    /// The stack protector's canary was overwritten.
    StackCorruption = "stack-corruption",
    /// A double fault.
    DoubleFault = "double-fault",
    /// Any other exception that ends in an Oops.
    Oops = "oops",
    /// A machine check.
    MachineCheck = "machine-check",
    /// KASAN.
    Kasan = "kasan",
    /// KFENCE.
    Kfence = "kfence",
    /// KCSAN.
    Kcsan = "kcsan",
    /// KMSAN.
    Kmsan = "kmsan",
    /// UBSAN.
    Ubsan = "ubsan",
    /// kmemleak.
    MemoryLeak = "memory-leak",
    /// `list_add` or `list_del` found inconsistent links.
    ListCorruption = "list-corruption",
    /// `refcount_t` saturated, underflowed, or was revived.
    Refcount = "refcount",
    /// SLUB's checks: redzone, poison, freelist, double free.
    SlabCorruption = "slab-corruption",
    /// "Bad page state", page poison, bad page tables, bad rss counters.
    PageCorruption = "page-corruption",
    /// Hardened usercopy and FORTIFY.
    Usercopy = "usercopy",
    /// "scheduling while atomic".
    ScheduleInAtomic = "scheduling-while-atomic",
    /// "sleeping function called from invalid context".
    SleepInAtomic = "sleeping-in-invalid-context",
    /// "using `smp_processor_id()` in preemptible code" and similar.
    PreemptibleCpuUse = "preemptible-cpu-use",
    /// The checks of `CONFIG_DEBUG_SPINLOCK` and of rwlocks.
    SpinlockBug = "spinlock-bug",
    /// A CPU did not schedule for too long.
    SoftLockup = "soft-lockup",
    /// A CPU took no interrupts for too long.
    HardLockup = "hard-lockup",
    /// An RCU stall of any flavour.
    RcuStall = "rcu-stall",
    /// A worker pool made no progress.
    WorkqueueLockup = "workqueue-lockup",
    /// "workqueue leaked lock or atomic".
    WorkqueueLeak = "workqueue-leaked-lock",
    /// A task was blocked for too long.
    HungTask = "hung-task",
    /// Debug objects.
    DebugObjects = "odebug",
    /// "`unregister_netdevice`: waiting for".
    UnregisterNetdevice = "unregister-netdevice",
    /// The out-of-memory killer ran.
    OutOfMemory = "out-of-memory",
    /// The kernel could not allocate memory: "page allocation failure", and the same for vmalloc and
    /// for the memory map of hotplugged memory.
    AllocationFailure = "page-allocation-failure",
    /// An interrupt that no handler handled ("nobody cared").
    UnhandledIrq = "unhandled-irq",
    /// DMA API debugging.
    DmaApi = "dma-api",
    /// A watchdog timer expired (bite), or reached its pretimeout (bark).
    WatchdogBite = "watchdog-bite",
    /// A panic that no other report explains.
    Panic = "panic",
    /// The kernel started again in the middle of the log, without an announced shutdown or a panic
    /// before.
    Reboot = "unexpected-reboot",
}

impl Kind {
    /// Whether this is one of lockdep's own reports, or RCU's, which uses lockdep's state.
    pub fn is_lockdep(self) -> bool {
        self <= Kind::SuspiciousRcu
    }

    /// Whether lockdep checks nothing after this report (`debug_locks` is 0).
    ///
    /// `suspicious-rcu-usage` does not disarm it: `lockdep_rcu_suspicious()` does not change
    /// `debug_locks`. An Oops does: `oops_enter()` calls `debug_locks_off()` (kernel/panic.c).
    /// Taints with `LOCKDEP_NOW_UNRELIABLE` do the same (`add_taint()`).
    pub fn disarms_lockdep(self) -> bool {
        !matches!(
            self,
            Kind::SuspiciousRcu
                | Kind::Warning
                | Kind::Refcount
                | Kind::DebugObjects
                | Kind::DmaApi
                | Kind::Kcsan
                | Kind::Kmsan
                | Kind::MemoryLeak
                | Kind::UnregisterNetdevice
                | Kind::OutOfMemory
                | Kind::AllocationFailure
                | Kind::UnhandledIrq
                | Kind::HungTask
                | Kind::SoftLockup
                | Kind::RcuStall
                | Kind::WorkqueueLockup
                | Kind::ScheduleInAtomic
                | Kind::SleepInAtomic
                | Kind::PreemptibleCpuUse
        )
    }

    /// Whether only an armed lockdep can print it. [`crate::Report::needs_armed_lockdep`] also
    /// covers assertions.
    pub fn needs_armed_lockdep(self) -> bool {
        self.is_lockdep()
    }

    /// Whether the kernel prints a stack with it. Such a report is incomplete without its stack.
    pub(crate) fn has_stack(self) -> bool {
        !matches!(
            self,
            Kind::UnregisterNetdevice
                | Kind::WatchdogBite
                | Kind::Reboot
                | Kind::Panic
                | Kind::LockdepDisarmed
                | Kind::WorkqueueLockup
                | Kind::RcuStall
                | Kind::MachineCheck
                | Kind::PageCorruption
                | Kind::MemoryLeak
                | Kind::OutOfMemory
                | Kind::DmaApi
                | Kind::DoubleFault
                | Kind::HardLockup
                | Kind::UnhandledIrq
                | Kind::LockdepHeldAtUserReturn
        )
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
