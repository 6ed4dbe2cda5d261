//! Kernels that really misbehave: `guest-images/patches/provoke` makes a kernel do one wrong thing a boot, and the reader
//! has to find it on the console, by kind and by the signature that the fixture of an earlier boot has.
//!
//! `make fixtures` writes the fixtures anew from what these kernels print, those of the sanitizers' own builds included;
//! `make fixtures SOURCE=linux-source-6.12` from another source. Read the difference before it is committed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use hotplug::kreport::symbols::Symbols;
use hotplug::kreport::{Kind, Report, scan};
use serde_json::{Value, json};

/// Longest a boot may take. Under TCG with both cores busy the slowest of them takes half of it.
const LIMIT: Duration = Duration::from_secs(100);

/// Boots of one point before the machine is given up: under TCG on a busy host a vCPU sometimes gets no timer interrupt any
/// more, before the kernel has come to do what it is asked (trial/workers.rs has the figures).
const ATTEMPTS: u32 = 3;

/// Lines of the boot that a fixture keeps before the kernel is provoked.
const LEAD: usize = 10;

/// One way to misbehave.
struct Point {
    /// As lib/provoke.c calls it.
    name: &'static str,
    /// Kinds of the reports that come of it, in this order.
    kinds: &'static [Kind],
    /// More for the kernel's command line.
    arguments: &'static str,
}

const fn point(name: &'static str, kinds: &'static [Kind]) -> Point {
    Point { name, kinds, arguments: "" }
}

const fn with(arguments: &'static str, name: &'static str, kinds: &'static [Kind]) -> Point {
    Point { name, kinds, arguments }
}

/// What one kernel with most checkers can be made to do.
const POINTS: &[Point] = &[
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
    // CONFIG_DEBUG_RWSEMS warns of what lockdep has already reported.
    point("unlock-balance", &[Kind::LockdepUnlockBalance, Kind::Warning]),
    // With no lock held at all, lockdep takes another way out: __lock_contended() in kernel/locking/lockdep.c.
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
    // The same limits for every point would be reached by others on a busy host.
    with("rcupdate.rcu_cpu_stall_timeout=3", "rcu-stall", &[Kind::RcuStall]),
    with("rcupdate.rcu_exp_cpu_stall_timeout=2000", "rcu-stall-expedited", &[Kind::RcuStall]),
    // Since 6.5 a work item that takes long is in nobody's way, unless this is 0.
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
];

/// What kernels of some releases report otherwise.
const SINCE_6_9: &[Point] = &[
    // lib/string_helpers.c: __fortify_panic() warns before its BUG().
    point("fortify", &[Kind::Usercopy, Kind::KernelBug]),
];
const BEFORE_6_9: &[Point] = &[point("fortify", &[Kind::Usercopy])];

/// What needs KASAN.
const KASAN_POINTS: &[Point] = &[
    point("oob-read", &[Kind::Kasan]),
    point("use-after-free", &[Kind::Kasan]),
    point("double-free", &[Kind::Kasan]),
    point("invalid-free", &[Kind::Kasan]),
    point("stack-oob", &[Kind::Kasan]),
    point("global-oob", &[Kind::Kasan]),
    point("vmalloc-oob", &[Kind::Kasan]),
    point("non-canonical", &[Kind::GeneralProtection]),
];

/// What needs KCSAN.
const KCSAN_POINTS: &[Point] = &[point("data-race", &[Kind::Kcsan])];

fn writes_fixtures() -> bool {
    std::env::var_os("HOTPLUG_WRITE_FIXTURES").is_some()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The kernel with the patch and these fragments.
struct Kernel {
    image: PathBuf,
    vmlinux: PathBuf,
    /// `6.1` of `6.1.192`.
    series: String,
}

impl Kernel {
    /// Built in the user's cache, or found there.
    fn with(fragments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hotplug"));
        command.args(["kernel", "build", "--json"]);
        for fragment in fragments {
            command.arg("--config").arg(root().join("guest-images/configs").join(fragment));
        }
        if let Some(source) = std::env::var_os("HOTPLUG_FIXTURE_SOURCE") {
            command.arg("--source").arg(source);
        }
        command.arg(root().join("guest-images/patches/provoke"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let pair: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |name: &str| pair["after"][name].as_str().unwrap().to_owned();
        let release = text("release");
        let series = release.split('.').take(2).collect::<Vec<_>>().join(".");
        Self { image: text("image").into(), vmlinux: text("vmlinux").into(), series }
    }

    /// Boots it and lets it misbehave: everything on its console until it reboots.
    fn provoke(&self, point: &Point, initrd: &Path) -> Vec<u8> {
        let mut hung = String::new();
        for _ in 0..ATTEMPTS {
            match self.boot(point, initrd) {
                Ok(log) => return log,
                Err(log) => hung = String::from_utf8_lossy(&log).into_owned(),
            }
            // One that hangs where it was provoked is not asked again.
            assert!(!hung.contains("provoke: "), "{}: no reboot:\n{hung}", point.name);
        }
        panic!("{}: did not boot, {ATTEMPTS} times:\n{hung}", point.name)
    }

    /// What is wrong with a boot. Where a stalled task is when it is looked at, or which of two CPUs is first, is chance, so
    /// that a boot which differs is set against two others: they must both be as they should.
    fn judge(&self, name: &str, point: &Point, initrd: &Path, log: &[u8]) -> Vec<String> {
        let mut wrong = check(name, point, log);
        if !wrong.is_empty() {
            let others = [(); 2].map(|()| check(name, point, &self.provoke(point, initrd)));
            if others.iter().all(Vec::is_empty) {
                eprintln!("once of three boots: {}", wrong.join("\n"));
                wrong.clear();
            }
        }
        wrong
    }

    /// One boot's console; an error when it does not end.
    fn boot(&self, point: &Point, initrd: &Path) -> Result<Vec<u8>, Vec<u8>> {
        let append = format!(
            "console=ttyS0 idle=halt panic=-1 rcupdate.rcu_cpu_stall_timeout=60 {} provoke={}",
            point.arguments, point.name
        );
        let qemu = std::env::var_os("HOTPLUG_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into());
        let mut command = Command::new(qemu);
        command.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "256M"]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"]);
        command.args(["-serial", "stdio"]).arg("-kernel").arg(&self.image).arg("-initrd").arg(initrd);
        command.args(["-append", &append]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        read_to_end(command.spawn().unwrap())
    }
}

/// QEMU's standard output until QEMU ends; an error when it has to be ended.
fn read_to_end(mut qemu: Child) -> Result<Vec<u8>, Vec<u8>> {
    let mut stdout = qemu.stdout.take().unwrap();
    let (send, receive) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut log = Vec::new();
        stdout.read_to_end(&mut log).unwrap();
        let _ = send.send(());
        log
    });
    let late = receive.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
    if late {
        qemu.kill().unwrap();
    }
    qemu.wait().unwrap();
    let log = reader.join().unwrap();
    if late { Err(log) } else { Ok(log) }
}

/// Runs all points, as many at once as there are processors; what is wrong, a line each.
fn run(kernel: &Kernel, config: &str, points: &[Point]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let initrd = folder.path().join("initramfs");
    std::fs::write(&initrd, hotplug::image::initramfs().unwrap()).unwrap();
    let (queue, wrong) = (Mutex::new(points.iter()), Mutex::new(Vec::new()));
    let worker = || {
        let symbols = Symbols::open(&kernel.vmlinux).unwrap();
        loop {
            let Some(point) = queue.lock().unwrap().next() else { return };
            let log = kernel.provoke(point, &initrd);
            let name = format!("provoked-{}-{config}{}", kernel.series, point.name);
            let said = if writes_fixtures() {
                write(&name, point, &log)
            } else {
                kernel.judge(&name, point, &initrd, &log)
            };
            let unresolved = scan(&log).into_iter().find_map(|report| unresolved(&symbols, report));
            let mut wrong = wrong.lock().unwrap();
            wrong.extend(said);
            wrong.extend(unresolved.map(|why| format!("{name}: {why}")));
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().unwrap().get() {
            scope.spawn(worker);
        }
    });
    wrong.into_inner().unwrap()
}

/// The kernel's own vmlinux tells file and line of each frame that the kernel is sure of.
fn unresolved(symbols: &Symbols, mut report: Report) -> Option<String> {
    symbols.resolve(&mut report);
    let bare: Vec<_> = report
        .frames
        .iter()
        .filter(|frame| frame.reliable && frame.size.is_some() && frame.source.is_none())
        // Assembly without line information of its own; and the compiler's clones, of which there are several of one
        // name and size.
        .filter(|frame| {
            let name = &frame.function;
            !name.starts_with("ret_from_fork") && !name.starts_with("asm_") && !name.contains(".constprop")
        })
        .map(|frame| frame.function.clone())
        .collect();
    (!bare.is_empty()).then(|| format!("no source lines for {bare:?}"))
}

/// Kinds of the reports, one for those that repeat themselves: how often a stall does is a matter of time.
fn kinds(reports: &[Report]) -> Vec<Kind> {
    let mut all: Vec<_> = reports.iter().map(|report| (report.kind, &report.signature)).collect();
    all.dedup();
    all.into_iter().map(|(kind, _)| kind).collect()
}

/// The reports of this boot against what the point does, and against the fixture of an earlier boot.
fn check(name: &str, point: &Point, log: &[u8]) -> Vec<String> {
    let reports = scan(log);
    let mut wrong = Vec::new();
    if kinds(&reports) != point.kinds {
        let mut text = format!("{name}: {:?}, not {:?}", kinds(&reports), point.kinds);
        for report in &reports {
            let _ = write!(text, "\n    {}", report.title);
        }
        wrong.push(text);
    }
    let cut = |report: &&Report| report.corrupted.is_some();
    wrong.extend(reports.iter().find(cut).map(|report| format!("{name}: corrupted: {}", report.title)));
    let Ok(text) = std::fs::read_to_string(fixture(name, "json")) else { return wrong };
    let expected: Value = serde_json::from_str(&text).unwrap();
    let mut keys: Vec<_> =
        expected["reports"].as_array().unwrap().iter().map(|report| report["key"].clone()).collect();
    let mut now: Vec<_> = reports.iter().map(|report| json!(report.signature.key)).collect();
    keys.dedup();
    now.dedup();
    if keys != now {
        wrong.push(format!("{name}: signed {now:?}, in another boot {keys:?}"));
    }
    wrong
}

fn fixture(name: &str, ending: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kreport");
    folder.join(format!("{name}.{ending}"))
}

/// Keeps the log from shortly before the point on, and what the reader makes of it.
fn write(name: &str, point: &Point, log: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(log).replace('\r', "");
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.iter().position(|line| line.contains("provoke: ")).unwrap_or(lines.len());
    // PID 1 says nothing before it returns to user space.
    let start =
        if start == lines.len() { lines.len().saturating_sub(60) } else { start.saturating_sub(LEAD) };
    let trimmed = lines[start..].join("\n") + "\n";
    let reports = scan(trimmed.as_bytes());
    let expected: Vec<Value> = reports
        .iter()
        .map(|report| {
            let mut value = json!({ "kind": report.kind, "key": report.signature.key });
            if let Some(blame) = &report.blame {
                value["blame"] = json!(blame);
            }
            if let Some(panic) = &report.panic {
                value["panic"] = json!(panic);
            }
            value
        })
        .collect();
    let source = format!("lib/provoke.c (guest-images/patches/provoke), `provoke={}`", point.name);
    let json = json!({ "source": source, "reports": expected });
    std::fs::write(fixture(name, "log"), &trimmed).unwrap();
    std::fs::write(fixture(name, "json"), format!("{json:#}\n")).unwrap();
    // What the boot itself reported would be cut off.
    if kinds(&scan(log)) == kinds(&reports) {
        check(name, point, trimmed.as_bytes())
    } else {
        check(name, point, log)
    }
}

#[test]
fn a_kernel_that_misbehaves_is_found_out() {
    let kernel = Kernel::with(&["provoke.config"]);
    let mut numbers = kernel.series.split('.').map(|number| number.parse::<u32>().unwrap());
    let since_6_9 = (numbers.next(), numbers.next()) >= (Some(6), Some(9));
    let mut wrong = run(&kernel, "", POINTS);
    wrong.extend(run(&kernel, "", if since_6_9 { SINCE_6_9 } else { BEFORE_6_9 }));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A kernel each, so only when fixtures are written: their logs are fixtures, which are read in every run.
#[test]
fn sanitizers_have_kernels_of_their_own() {
    if !writes_fixtures() {
        for (config, points) in [("kasan-", KASAN_POINTS), ("kcsan-", KCSAN_POINTS)] {
            for point in points {
                let log = fixture(&format!("provoked-6.1-{config}{}", point.name), "log");
                let log = std::fs::read(&log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
                assert_eq!(kinds(&scan(&log)), point.kinds, "{}", point.name);
            }
        }
        return;
    }
    let mut wrong = run(&Kernel::with(&["provoke.config", "provoke-kasan.config"]), "kasan-", KASAN_POINTS);
    wrong.extend(run(&Kernel::with(&["provoke.config", "provoke-kcsan.config"]), "kcsan-", KCSAN_POINTS));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
