//! Whole logs, from bytes to reports.

use super::{Corruption, Kind, Report, fold, scan};

/// One WARNING of the seed patch as 6.1 prints it (arch/x86, kernel/panic.c), with a selectable
/// outer path.
fn seed_warning(time: u32, cpu: u32, pid: u32, outer: &[&str]) -> String {
    let mut text = vec![
        "------------[ cut here ]------------".to_owned(),
        format!("WARNING: CPU: {cpu} PID: {pid} at kernel/cpu.c:347 lockdep_assert_cpus_held+0x38/0x50"),
        "Modules linked in:".to_owned(),
        format!("CPU: {cpu} PID: {pid} Comm: kworker/u8:1 Tainted: G        W          6.1.192 #2"),
        "Hardware name: QEMU Standard PC (Q35 + ICH9, 2009), BIOS rel-1.16.3-0-ga6ed6b701f0a-prebuilt.qemu.org".to_owned(),
        "Workqueue: kacpi_hotplug acpi_hotplug_work_fn".to_owned(),
        "RIP: 0010:lockdep_assert_cpus_held+0x38/0x50".to_owned(),
        "Code: 00 00 75 05 c3 cc cc cc cc be ff ff ff ff".to_owned(),
        "RSP: 0018:ffffc900000f7b50 EFLAGS: 00010246".to_owned(),
        "Call Trace:".to_owned(),
        " <TASK>".to_owned(),
        " ? __warn+0x81/0x130".to_owned(),
        " flush_all_cpus_locked+0x2a/0x130".to_owned(),
        " slab_memory_callback+0x7c/0x110".to_owned(),
        " notifier_call_chain+0x5a/0xc0".to_owned(),
        " blocking_notifier_call_chain+0x3e/0x60".to_owned(),
        " memory_notify+0x1b/0x20".to_owned(),
        " offline_pages+0x29c/0x7a0".to_owned(),
    ];
    text.extend(outer.iter().map(|name| format!(" {name}+0x11/0x22")));
    text.push(" </TASK>".to_owned());
    text.push("irq event stamp: 1234".to_owned());
    text.push("hardirqs last  enabled at (1233): [<ffffffff81234567>] console_unlock+0x1/0x2".to_owned());
    text.push("---[ end trace 0000000000000000 ]---".to_owned());
    text.iter()
        .fold(String::new(), |log, line| format!("{log}[{time:5}.000000][{:>6}] {line}\n", format!("T{pid}")))
}

const ACPI: &[&str] = &[
    "memory_subsys_offline",
    "device_offline",
    "acpi_bus_offline",
    "acpi_device_hotplug",
    "process_one_work",
    "ret_from_fork",
];
const SYSFS: &[&str] = &[
    "memory_subsys_offline",
    "device_offline",
    "online_store",
    "kernfs_fop_write_iter",
    "vfs_write",
    "ksys_write",
];

#[test]
fn the_seed_patch_is_one_bug_however_often_it_reports() {
    let mut log = String::from("[    0.000000][    T0] Linux version 6.1.192\n");
    for round in 0..336 {
        log += &seed_warning(10 + round, 1, 27, ACPI);
        log += &seed_warning(10 + round, 0, 99, SYSFS);
    }
    let reports = scan(log.as_bytes());
    assert_eq!(reports.len(), 672);
    let folded = fold(&reports);
    assert_eq!((folded.len(), folded[0].count), (1, 672));
    let first = folded[0].first;
    assert_eq!(first.title, "WARNING: lockdep_assert_cpus_held in flush_all_cpus_locked");
    assert_eq!(first.blame.as_deref(), Some("flush_all_cpus_locked"));
    assert_eq!(
        first.signature.key,
        "warning | lockdep_assert_cpus_held | flush_all_cpus_locked < slab_memory_callback"
    );
    assert!(first.needs_armed_lockdep() && first.corrupted.is_none());
    assert_eq!(
        (first.cpu, first.process.as_ref().map(|p| p.pid), first.time),
        (Some(1), Some(27), Some(10_000_000))
    );
    assert_eq!(first.source.as_deref(), Some("kernel/cpu.c:347"));
    assert_eq!(first.lines, 2..=29);
}

#[test]
fn interleaved_callers_are_told_apart() {
    let one = seed_warning(10, 1, 27, ACPI);
    let two = seed_warning(10, 0, 99, SYSFS);
    let mixed: Vec<&str> = one.lines().zip(two.lines()).flat_map(|(a, b)| [a, b]).collect();
    let mixed = mixed.join("\n");
    let reports = scan(mixed.as_bytes());
    assert_eq!(reports.len(), 2);
    for report in &reports {
        assert_eq!(report.signature, reports[0].signature);
        assert_eq!(report.corrupted, None);
    }
}

/// A cycle as lockdep.c's `print_circular_bug()` prints it.
fn cycle(wanted: (&str, &str), held: &str, between: &[(&str, &str)]) -> String {
    let mut log = format!(
        "\n======================================================\n\
         WARNING: possible circular locking dependency detected\n\
         6.1.192 #2 Not tainted\n\
         ------------------------------------------------------\n\
         kworker/u8:1/27 is trying to acquire lock:\n\
         ffff888003c0f098 ({}){{++++}}-{{0:0}}, at: __kernfs_remove+0x1/0x2\n\n\
         but task is already holding lock:\n\
         ffffffff8242d430 ({held}){{++++}}-{{0:0}}, at: acpi_processor_remove+0x1/0x2\n\n\
         which lock already depends on the new lock.\n\n\n\
         the existing dependency chain (in reverse order) is:\n",
        wanted.0
    );
    for (depth, (lock, at)) in between.iter().enumerate() {
        let part = format!(
            "\n-> #{} ({lock}){{++++}}-{{0:0}}:\n       lock_acquire+0x1/0x2\n       {at}+0x1/0x2\n       ksys_write+0x1/0x2\n",
            between.len() - depth
        );
        log.push_str(&part);
    }
    let part = format!(
        "\n-> #0 ({}){{++++}}-{{0:0}}:\n       __lock_acquire+0x1/0x2\n       lock_acquire+0x1/0x2\n       {}+0x1/0x2\n       ret_from_fork+0x1/0x2\n\n\
         other info that might help us debug this:\n\n Possible unsafe locking scenario:\n\n       CPU0                    CPU1\n       ----                    ----\n  lock({held});\n  lock({});\n\n *** DEADLOCK ***\n\n\
         1 lock held by kworker/u8:1/27:\n #0: ffffffff8242d430 ({held}){{++++}}-{{0:0}}, at: acpi_processor_remove+0x1/0x2\n\n\
         stack backtrace:\nCPU: 1 PID: 27 Comm: kworker/u8:1 Not tainted 6.1.192 #2\nCall Trace:\n <TASK>\n dump_stack_lvl+0x1/0x2\n check_noncircular+0x1/0x2\n __lock_acquire+0x1/0x2\n lock_acquire+0x1/0x2\n {}+0x1/0x2\n </TASK>\n",
        wanted.0, wanted.1, wanted.0, wanted.1
    );
    log.push_str(&part);
    log
}

#[test]
fn one_cycle_printed_with_two_chains_is_one_bug() {
    let before = cycle(
        ("kn->active#45", "__kernfs_remove"),
        "cpu_hotplug_lock",
        &[("cpu_hotplug_lock", "mem_hotplug_begin")],
    );
    let after = cycle(
        ("kn->active#44", "__kernfs_remove"),
        "cpu_hotplug_lock",
        &[("cpu_hotplug_lock", "_cpu_up"), ("cpu_add_remove_lock", "cpu_up")],
    );
    let other = cycle(("&a", "foo"), "&b", &[("&b", "bar")]);
    let reports: Vec<Report> = [before, after, other].iter().flat_map(|log| scan(log.as_bytes())).collect();
    assert_eq!(reports.len(), 3);
    assert_eq!(reports[0].kind, Kind::LockdepCircular);
    assert_eq!(reports[0].signature.key, "lockdep-circular | cpu_hotplug_lock + kn->active");
    let locks = reports[1].locks.as_ref().unwrap();
    let ring: Vec<_> = locks.cycle.iter().map(|lock| (lock.name(), lock.at.clone().unwrap())).collect();
    assert_eq!(ring[0], ("kn->active".to_owned(), "__kernfs_remove".to_owned()));
    assert_eq!(ring[1], ("cpu_add_remove_lock".to_owned(), "cpu_up".to_owned()));
    assert_eq!(ring[2], ("cpu_hotplug_lock".to_owned(), "_cpu_up".to_owned()));
    assert_eq!(locks.held_by_task.len(), 1);
    assert_eq!(locks.scenario.len(), 4);
    let folded = fold(&reports);
    assert_eq!(folded.iter().map(|group| group.count).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn an_oops_and_its_panic_are_one_report() {
    let log = "\
[    2.000000] BUG: kernel NULL pointer dereference, address: 0000000000000010
[    2.000000] #PF: supervisor read access in kernel mode
[    2.000000] #PF: error_code(0x0000) - not-present page
[    2.000000] PGD 0 P4D 0 
[    2.000000] Oops: 0000 [#1] PREEMPT SMP
[    2.000000] CPU: 0 PID: 1 Comm: init Not tainted 6.1.0 #1
[    2.000000] RIP: 0010:foo_probe+0x10/0x20
[    2.000000] Call Trace:
[    2.000000]  <TASK>
[    2.000000]  bar+0x1/0x2
[    2.000000]  </TASK>
[    2.000000] Modules linked in:
[    2.000000] CR2: 0000000000000010
[    2.000000] ---[ end trace 0000000000000000 ]---
[    2.000000] RIP: 0010:foo_probe+0x10/0x20
[    2.000000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009
[    2.000000] Kernel Offset: disabled
[    2.000000] ---[ end Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009 ]---
";
    let reports = scan(log.as_bytes());
    assert_eq!(reports.len(), 1, "{reports:#?}");
    assert_eq!((reports[0].kind, reports[0].blame.as_deref()), (Kind::NullDeref, Some("foo_probe")));
    assert!(reports[0].panic.as_deref().unwrap().starts_with("Attempted to kill init!"));
    assert_eq!(reports[0].corrupted, None);
}

#[test]
fn a_cut_report_says_so() {
    let whole = seed_warning(10, 1, 27, ACPI);
    let cut = whole.lines().take(14).collect::<Vec<_>>().join("\n") + "\n";
    assert_eq!(scan(cut.as_bytes())[0].corrupted, Some(Corruption::CutByEnd));
    let two = format!("{cut}{whole}");
    let reports = scan(two.as_bytes());
    assert_eq!(reports.len(), 2);
    assert_eq!(reports[0].corrupted, Some(Corruption::CutByReport));
    assert_eq!(reports[1].corrupted, None);
}
