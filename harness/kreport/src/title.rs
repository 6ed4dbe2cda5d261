//! Reads the facts in the first lines of a report (text, location, process), and writes its title.

use super::frame::{self, is_source, named_in};
use super::{Frame, Kind, Locks, Process};

/// The class of an Oops that a breakpoint caused which nothing in the kernel handles
/// (arch/x86/kernel/traps.c, `exc_int3()`).
pub(super) const INT3: &str = "int3";

/// The facts in the first lines of a report.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub kind: Kind,
    /// The text for display.
    pub detail: Option<String>,
    /// The part of `detail` that is the same in every occurrence of the bug.
    pub class: Option<String>,
    pub function: Option<Frame>,
    pub source: Option<String>,
    pub process: Option<Process>,
    pub cpu: Option<u32>,
}

impl Default for Kind {
    /// The least specific kind.
    fn default() -> Self {
        Kind::Bug
    }
}

/// Reads the headline, and the few lines around it that belong to it.
pub(super) fn read(kind: Kind, headline: &str, texts: &[(u64, Box<str>)], at: usize) -> Facts {
    let mut facts = Facts { kind, ..Facts::default() };
    let next = || texts[at + 1..].iter().take(14).map(|(_, text)| text.trim());
    facts.source = headline
        .split([' ', ','])
        .map(|word| word.trim_end_matches(['!', '.', ')']))
        .find(|word| is_source(word))
        .map(str::to_owned);
    facts.process = slashed(headline).or_else(|| bracketed(headline));
    facts.cpu =
        after(headline, "CPU#").or_else(|| after(headline, "CPU: ")).or_else(|| after(headline, "on cpu "));
    match kind {
        Kind::Warning => warning(&mut facts, headline, texts, at),
        Kind::Kasan | Kind::Kfence | Kind::Kcsan | Kind::Kmsan => sanitizer(&mut facts, headline, next()),
        Kind::Ubsan => {
            facts.class = headline
                .strip_prefix("UBSAN: ")
                .and_then(|rest| rest.split(" in ").next())
                .map(str::to_owned);
            facts.source = headline
                .rsplit(" in ")
                .next()
                .map(|place| place.rsplitn(2, ':').last().unwrap_or(place).to_owned())
                .filter(|place| is_source(place))
                .or(facts.source);
        }
        Kind::HungTask => {
            facts.process = headline
                .strip_prefix("INFO: task ")
                .and_then(|rest| rest.split(" blocked ").next())
                .map(|task| task.strip_suffix(" is").unwrap_or(task))
                .and_then(|task| {
                    let task = task.split(" can't die").next()?;
                    let (comm, pid) = task.rsplit_once(':')?;
                    Some(Process { comm: comm.to_owned(), pid: pid.trim().parse().ok()? })
                });
        }
        Kind::SlabCorruption => {
            facts.class = next().take(4).find_map(overwritten).or_else(|| {
                headline.rsplit("): ").next().filter(|_| headline.starts_with("BUG ")).map(letters)
            });
        }
        Kind::RcuStall => {
            facts.class = Some(
                if headline.contains("starved") || headline.contains("timer wakeup") {
                    "starved"
                } else {
                    "stall"
                }
                .to_owned(),
            );
        }
        Kind::LockdepInconsistent => {
            facts.class = texts
                .iter()
                .find_map(|(_, text)| text.trim().strip_prefix("inconsistent {").map(state_family));
        }
        Kind::SuspiciousRcu => suspicious_rcu(&mut facts, headline, next()),
        // Half of the architectures print "NULL pointer dereference" only in some cases. The other
        // cases are recognized by the address.
        Kind::PageFault if small_address(headline) || next().take(3).any(small_address) => {
            facts.kind = Kind::NullDeref;
        }
        // Old kernels print the rest of the sentence on a line of its own.
        Kind::PageFault if next().next().is_some_and(|text| text.starts_with("NULL pointer dereference")) => {
            facts.kind = Kind::NullDeref;
        }
        Kind::LockdepDisarmed if next().any(|text| text.starts_with("DEBUG_LOCKS_WARN_ON(")) => {
            facts.kind = Kind::DebugLocksWarning;
            facts.class = Some(letters(headline));
        }
        Kind::AllocationFailure => allocation(&mut facts, headline),
        Kind::Panic => panic(&mut facts, headline),
        Kind::UnregisterNetdevice => facts.class = Some("refcount".to_owned()),
        Kind::WorkqueueLeak => {
            facts.class = Some("leaked lock or atomic".to_owned());
            facts.function = next().take(3).find_map(work_function);
        }
        Kind::Bug
        | Kind::Oops
        | Kind::LockdepDisarmed
        | Kind::PageCorruption
        | Kind::SpinlockBug
        | Kind::DmaApi
        | Kind::Usercopy
        | Kind::ListCorruption => {
            // The process, and the count and flags of die(), do not identify the bug.
            let words = headline.split(" in process ").next().unwrap_or(headline);
            let class = letters(words.split("[#").next().unwrap_or(words));
            // The name of the exception has a digit. Newer kernels print "Oops: " before it.
            let exception = words.strip_prefix("Oops: ").unwrap_or(words);
            let is_int3 = kind == Kind::Oops && exception.starts_with("int3: ");
            facts.class = Some(if is_int3 { INT3.to_owned() } else { class });
        }
        _ => {}
    }
    if facts.process.is_none() {
        facts.process = next().find_map(slashed);
    }
    if facts.detail.is_none() {
        facts.detail.clone_from(&facts.class);
    }
    facts
}

/// Whether a line has an address in the first page, after the words that an architecture prints
/// before it. x86 and s390 mostly print the address on a line of its own; mips, loongarch, riscv
/// and arm print it in the headline.
fn small_address(text: &str) -> bool {
    const WORDS: [&str; 4] = [" at virtual address ", "Failing address: ", " at address ", "address: 0x"];
    WORDS.iter().filter_map(|words| text.split_once(words)).any(|(_, rest)| {
        let rest = rest.trim_start_matches("0x");
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        digits >= 8 && u64::from_str_radix(&rest[..digits.min(16)], 16).is_ok_and(|address| address < 4096)
    })
}

/// 6.12 prints "Object corrupt" in the headline and the kind of corruption on a line below. Older
/// kernels print the kind in the headline.
fn overwritten(text: &str) -> Option<String> {
    let (what, _) = text.strip_prefix('[')?.split_once(" overwritten] ")?;
    Some(format!("{what} overwritten"))
}

/// `last function: f`, since 6.10 `workfn=f` (kernel/workqueue.c, `process_one_work()`).
fn work_function(text: &str) -> Option<Frame> {
    let (_, rest) = text.split_once("last function: ").or_else(|| text.split_once("workfn="))?;
    named_in(&format!(" in {}", rest.split_whitespace().next()?))
}

fn warning(facts: &mut Facts, headline: &str, texts: &[(u64, Box<str>)], at: usize) {
    facts.function = frame::find(headline);
    let after = texts[at + 1..]
        .iter()
        .map(|(_, text)| text.trim())
        .take_while(|text| {
            !text.starts_with("Modules linked in:")
                && !text.starts_with("Kernel panic")
                && !text.starts_with("CPU: ")
                && !text.is_empty()
        })
        .take(4);
    let message: Vec<&str> = texts[..at]
        .iter()
        .map(|(_, text)| text.trim())
        .filter(|text| !text.contains("[ cut here ]"))
        .chain(after)
        .collect();
    let file = facts.source.as_deref().unwrap_or("");
    let says = |word: &str| message.iter().any(|text| text.contains(word));
    if file.ends_with("lib/refcount.c") || file.starts_with("lib/refcount.c:") || says("refcount_t: ") {
        facts.kind = Kind::Refcount;
    } else if file.starts_with("lib/debugobjects.c:") || says("ODEBUG: ") {
        facts.kind = Kind::DebugObjects;
    } else if file.starts_with("lib/list_debug.c:")
        || says("list_add corruption")
        || says("list_del corruption")
    {
        facts.kind = Kind::ListCorruption;
    } else if says("detected buffer overflow") {
        // lib/string_helpers.c, since 6.9
        facts.kind = Kind::Usercopy;
    } else if says("DEBUG_LOCKS_WARN_ON(") {
        facts.kind = Kind::DebugLocksWarning;
    } else if says("DMA-API: ") {
        facts.kind = Kind::DmaApi;
    }
    if let Some(first) = message.first() {
        facts.detail = Some((*first).to_owned());
        if facts.kind != Kind::Warning {
            facts.class = Some(letters(first));
        }
    }
}

/// The complaint below the headline. Some logs begin with it, without the lines above it.
fn suspicious_rcu<'a>(facts: &mut Facts, headline: &'a str, next: impl Iterator<Item = &'a str>) {
    let first = |text: &'a str| text.split_whitespace().next().filter(|word| is_source(word));
    let complaint = std::iter::once(headline).chain(next).find(|text| first(text).is_some());
    facts.detail = complaint.map(str::to_owned);
    facts.source = complaint.and_then(first).map(str::to_owned);
    facts.class = facts.source.as_deref().and_then(|source| source.split(':').next()).map(str::to_owned);
}

/// `comm: page allocation failure: order:4, mode:0x...`, and the messages of vmalloc and of the
/// memory map: the words before the numbers are the same every time.
fn allocation(facts: &mut Facts, headline: &str) {
    const ENDS: [&str; 2] = ["failure", "error"];
    let at = ["page allocation", "vmemmap alloc", "vmalloc", "alloc failure"]
        .iter()
        .filter_map(|words| headline.find(words))
        .min();
    let words = &headline[at.unwrap_or_default()..];
    let end = ENDS.iter().filter_map(|word| Some(words.find(word)? + word.len())).min();
    facts.class = Some(words[..end.unwrap_or(words.len())].to_owned());
    facts.detail = Some(words.to_owned());
}

fn sanitizer<'a>(facts: &mut Facts, headline: &str, mut next: impl Iterator<Item = &'a str>) {
    let words = headline.splitn(3, ": ").nth(2).unwrap_or(headline);
    let what = words.split(" in ").next().unwrap_or(words);
    let access = next.find_map(|text| {
        ["Read", "Write"]
            .into_iter()
            .find(|word| text.starts_with(word) && text[word.len()..].starts_with(" of size"))
    });
    let what = access.map_or_else(|| what.to_owned(), |access| format!("{what} {access}"));
    facts.class = Some(what);
    // KCSAN names two functions, in either order.
    let place = words.rsplit(" in ").next().unwrap_or("");
    if let Some((one, two)) = place.split_once(" / ") {
        let mut pair = [one.trim(), two.trim()].map(frame::plain_name);
        pair.sort_unstable();
        facts.class =
            Some(format!("{what} {one} / {two}", what = what_of(words), one = pair[0], two = pair[1]));
        return;
    }
    facts.function = named_in(words);
}

fn what_of(words: &str) -> &str {
    words.split(" in ").next().unwrap_or(words)
}

fn panic(facts: &mut Facts, headline: &str) {
    let reason =
        headline.split_once("not syncing").map_or("", |(_, rest)| rest).trim_start_matches([':', ' ']);
    if reason.contains("stack-protector") {
        facts.kind = Kind::StackCorruption;
        facts.function = named_in(reason);
    } else if reason.contains("kernel stack overflow") || reason.starts_with("corrupted stack end") {
        facts.kind = Kind::StackOverflow;
    } else if reason.contains("achine check")
        || reason.contains("broadcast exception handler")
        || reason.starts_with("Fatal hardware error")
    {
        facts.kind = Kind::MachineCheck;
    } else if reason.starts_with("Out of memory") || reason.starts_with("System is deadlocked on memory") {
        facts.kind = Kind::OutOfMemory;
    } else if reason.to_ascii_lowercase().contains("hard lockup") {
        facts.kind = Kind::HardLockup;
    } else if reason.starts_with("softlockup") {
        facts.kind = Kind::SoftLockup;
    } else if reason.starts_with("hung_task") {
        facts.kind = Kind::HungTask;
    } else if reason.to_ascii_lowercase().contains("watchdog") {
        facts.kind = Kind::WatchdogBite;
    }
    facts.detail = Some(reason.to_owned());
    facts.class = Some(letters(reason));
}

/// The context of `{IN-HARDIRQ-W} -> {HARDIRQ-ON-W}`. Which of the two states came first is chance,
/// so only the context identifies the bug.
fn state_family(text: &str) -> String {
    ["HARDIRQ", "SOFTIRQ", "RECLAIM_FS"]
        .into_iter()
        .find(|family| text.contains(family))
        .unwrap_or("state")
        .to_owned()
}

/// Replaces the words that vary from run to run by `N`: addresses, numbers, and words that contain
/// a digit and one of `=`, `:`, `/` and `#`. Symbols lose their offsets and the compiler's
/// suffixes.
pub(super) fn letters(text: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    for word in text.split_whitespace().take(24) {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let digits = bare.bytes().filter(u8::is_ascii_digit).count();
        // Also inside a word: `ffffffff829ecdf0->next`.
        let hex = bare.split(|c: char| !c.is_ascii_alphanumeric()).any(|run| {
            run.len() >= 8
                && run.bytes().all(|b| b.is_ascii_hexdigit())
                && run.bytes().any(|b| b.is_ascii_digit())
        });
        if digits > 0
            && (hex
                || bare.starts_with("0x")
                || digits * 2 >= bare.len()
                || word.contains(['=', ':', '/', '#'])
                || word.starts_with('['))
        {
            if out.last().is_none_or(|last| last != "N") {
                out.push("N".to_owned());
            }
            continue;
        }
        out.push(frame::plain_name(word.split("+0x").next().unwrap_or(word)).to_owned());
    }
    out.join(" ")
}

/// `comm/pid is trying to ...`, `CPU#1: comm/27`, `on CPU#0, comm/12`.
fn slashed(text: &str) -> Option<Process> {
    const VERBS: [&str; 9] = [
        " is trying to ",
        " is freeing memory ",
        " still has locks held",
        " is leaving the kernel",
        " just changed the state",
        " [HC",
        " is exiting",
        " is holding",
        ": Hash chain",
    ];
    let task = if let Some(at) = VERBS.iter().filter_map(|verb| text.find(verb)).min() {
        text[..at].trim_start_matches("WARNING: ").trim_start_matches("BUG: ").trim_start_matches("[ ")
    } else {
        let at = text.find("CPU#")?;
        let (_, task) = text[at..].split_once([':', ','])?;
        task.trim()
    };
    let (comm, pid) = task.rsplit_once('/')?;
    let pid = pid.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    (!comm.is_empty() && comm.len() < 40).then(|| Process { comm: comm.to_owned(), pid })
}

/// `[comm:pid]` of a soft lockup.
fn bracketed(text: &str) -> Option<Process> {
    let inner = text.strip_suffix(']')?.rsplit_once('[')?.1;
    let (comm, pid) = inner.rsplit_once(':')?;
    Some(Process { comm: comm.to_owned(), pid: pid.parse().ok()? })
}

fn after(text: &str, mark: &str) -> Option<u32> {
    let at = text.find(mark)? + mark.len();
    text[at..].split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Writes the title.
pub(super) fn write(
    kind: Kind,
    facts: &Facts,
    blame: Option<&str>,
    assertion: Option<&str>,
    locks: Option<&Locks>,
    process: Option<&Process>,
) -> String {
    let place = blame.map_or_else(String::new, |name| format!(" in {name}"));
    let detail = facts.detail.as_deref().unwrap_or("");
    let class = facts.class.as_deref().unwrap_or("");
    let lock = |which: Option<&super::Lock>| which.map_or_else(|| "a lock".to_owned(), super::Lock::name);
    let wanted = lock(locks.and_then(|locks| locks.wanted.as_ref()));
    let held = lock(locks.and_then(|locks| locks.held.as_ref()));
    match kind {
        Kind::LockdepCircular => format!("possible circular locking: {wanted} wanted, {held} held{place}"),
        Kind::LockdepRecursive => format!("possible recursive locking of {wanted}{place}"),
        Kind::LockdepInconsistent => format!("inconsistent lock state of {wanted}{place}"),
        Kind::LockdepIrqInversion => format!("possible irq lock inversion of {wanted} and {held}{place}"),
        Kind::LockdepUnsafeOrder => {
            format!("irq-safe to irq-unsafe lock order: {wanted} wanted, {held} held{place}")
        }
        Kind::LockdepWaitContext => format!("invalid wait context: {wanted}{place}"),
        Kind::LockdepHeldFreed => format!("held lock freed{place}"),
        Kind::LockdepUnlockBalance => format!("bad unlock balance of {wanted}{place}"),
        Kind::LockdepBadContention => format!("bad contention of {wanted}{place}"),
        Kind::LockdepHeldAtUserReturn => format!("lock held when returning to user space{place}"),
        Kind::LockdepHeldAtExit => format!("task exits with locks held{place}"),
        Kind::LockdepNestedNotHeld => format!("nested lock was not taken: {wanted}{place}"),
        Kind::LockdepChainCollision => format!("lockdep chain_key collision{place}"),
        Kind::LockdepNonStaticKey => format!("trying to register non-static key{place}"),
        Kind::LockdepDisarmed => format!("lockdep turned itself off: {detail}"),
        Kind::DebugLocksWarning => format!("WARNING: {detail}{place}"),
        Kind::SuspiciousRcu => format!("suspicious RCU usage{place}"),
        Kind::Warning => {
            assertion.map_or_else(|| format!("WARNING{place}"), |name| format!("WARNING: {name}{place}"))
        }
        Kind::KernelBug => format!("kernel BUG{place}"),
        Kind::NullDeref => format!("NULL pointer dereference{place}"),
        Kind::PageFault => format!("unable to handle page fault{place}"),
        Kind::GeneralProtection => format!("general protection fault{place}"),
        Kind::DivideError => format!("divide error{place}"),
        Kind::StackOverflow => format!("kernel stack overflow{place}"),
        Kind::StackCorruption => format!("kernel stack is corrupted{place}"),
        Kind::DoubleFault => format!("double fault{place}"),
        Kind::Kasan => format!("KASAN: {class}{place}"),
        Kind::Kfence => format!("KFENCE: {class}{place}"),
        Kind::Kcsan => format!("KCSAN: {class}"),
        Kind::Kmsan => format!("KMSAN: {class}{place}"),
        Kind::Ubsan => format!("UBSAN: {class}{place}"),
        Kind::MemoryLeak => format!("memory leak{place}"),
        Kind::ScheduleInAtomic => format!("scheduling while atomic{place}"),
        Kind::SleepInAtomic => format!("sleeping function called from invalid context{place}"),
        Kind::PreemptibleCpuUse => format!("CPU number used in preemptible code{place}"),
        Kind::SoftLockup => format!("soft lockup{place}"),
        Kind::HardLockup => format!("hard lockup{place}"),
        Kind::RcuStall => {
            format!("RCU {}{place}", if class == "starved" { "kthread starved" } else { "stall" })
        }
        Kind::WorkqueueLockup => "workqueue lockup".to_owned(),
        Kind::HungTask => {
            let comm = facts.process.as_ref().or(process).map_or("", |process| process.comm.as_str());
            format!("task {comm} hung{place}")
        }
        Kind::UnregisterNetdevice => "unregister_netdevice: waiting for a device to become free".to_owned(),
        Kind::OutOfMemory => format!("out of memory{place}"),
        Kind::Panic => format!("kernel panic: {detail}"),
        Kind::Reboot => "the kernel started again without an announced shutdown".to_owned(),
        Kind::WatchdogBite => "a watchdog timer expired".to_owned(),
        _ if class.is_empty() => format!("{kind}{place}"),
        _ => format!("{class}{place}"),
    }
}
