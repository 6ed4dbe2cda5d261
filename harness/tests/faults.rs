//! What comes of a QEMU or a guest that fails in a way that real ones hardly can be made to: the binary with a fake in
//! QEMU's place (`examples/fake_qemu`). Whatever happens, no process and no temporary file is left.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

#[expect(dead_code, reason = "real kernels and patches are other tests' business")]
mod common;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::{Run, pid, wait_until};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use serde_json::Value;

/// One DIMM and one CPU, in and out.
const SCENARIO: &str = r#"
about = "the least of everything"
trials = 1
[machine]
cpus = 2
max_cpus = 4
memory = "512M"
max_memory = "4G"
slots = 4
[[dimm]]
name = "dimm"
size = "128M"
[[cpu]]
name = "cpu"
[[lane]]
name = "memory"
steps = [{ plug = "dimm" }, { unplug = "dimm" }]
[[lane]]
name = "cpus"
steps = [{ plug = "cpu" }, { unplug = "cpu" }]
"#;

/// The binary, with the fake in QEMU's place and a file that looks like a kernel.
struct Faulty(Run);

/// Has a child end by a SIGINT that comes before it listens, as from a terminal. A shell that starts us in the background
/// has us, and so our children, ignore it until then (sh(1), asynchronous lists). When `spawn` returns it is done, which a
/// program between us and the child, such as env(1), would not be.
#[expect(unsafe_code, reason = "pre_exec is the only way to change what a child inherits")]
fn hear_sigint(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; sigaction(2) is.
    unsafe {
        command.pre_exec(|| {
            signal(Signal::SIGINT, SigHandler::SigDfl)?;
            Ok(())
        });
    }
}

impl Faulty {
    fn new() -> Self {
        Self(Run::new())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.results().with_file_name(name)
    }

    /// The comparison; `fault` is what goes wrong and when, as `examples/fake_qemu/fault.rs` has it.
    fn compare(&self, fault: &str) -> assert_cmd::Command {
        self.of(self.0.compare(), SCENARIO, fault)
    }

    fn of(&self, mut command: assert_cmd::Command, text: &str, fault: &str) -> assert_cmd::Command {
        let (kernel, scenario, fake) =
            (self.path("bzImage"), self.path("least.toml"), self.path("fake_qemu"));
        if !kernel.exists() {
            std::fs::write(&kernel, image()).unwrap();
            std::fs::write(&scenario, text).unwrap();
            install(&fake);
        }
        command.arg("--scenario").arg(scenario).arg("--cache").arg(self.path("cache"));
        command.arg("--before-image").arg(&kernel).arg("--after-image").arg(&kernel);
        command.args(["--accel", "tcg"]).env("HOTPLUG_QEMU", fake).env("HOTPLUG_FAKE", fault);
        if fault.is_empty() {
            command.env_remove("HOTPLUG_FAKE");
        }
        command
    }

    /// Runs to the end, and has a look at what is left.
    fn run(&self, command: &mut assert_cmd::Command) -> Output {
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked at"), "{stderr}");
        self.0.assert_nothing_left();
        output
    }

    /// Starts it and returns at once.
    fn spawn(&self, fault: &str, arguments: &[&str]) -> Child {
        let mut command = self.compare(fault);
        command.args(arguments);
        let mut plain = Command::new(command.get_program());
        plain.args(command.get_args()).stdout(Stdio::null()).stderr(Stdio::null());
        hear_sigint(&mut plain);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => plain.env(name, value),
                None => plain.env_remove(name),
            };
        }
        plain.spawn().unwrap()
    }

    /// A fault in every trial, by which infrastructure fails: each is tried three times, and there is no verdict.
    fn spoils(fault: &str, says: &[&str]) {
        let faulty = Self::new();
        let output = faulty.run(&mut faulty.compare(fault));
        assert_eq!(output.status.code(), Some(4), "{fault}: {output:?}");
        let result = faulty.0.result();
        assert_eq!(result["verdict"], Value::Null, "{result:#}");
        assert_eq!(result["repeated"].as_array().map(Vec::len), Some(4), "{result:#}");
        for folder in ["before-000", "before-000-again1", "after-000-again2"] {
            let trial = faulty.0.trial(folder);
            assert_eq!(trial["outcome"], "infrastructure", "{fault}: {trial:#}");
            let why = trial["why"].as_str().unwrap();
            assert!(says.iter().all(|words| why.contains(words)), "{fault}: {trial:#}");
        }
    }

    /// A fault of the first trial's QEMU alone.
    fn forgets(fault: &str) -> Self {
        let faulty = Self::new();
        let once = faulty.path("once");
        std::fs::create_dir(&once).unwrap();
        std::fs::set_permissions(&once, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let mut command = faulty.compare(fault);
        let output = faulty.run(command.env("HOTPLUG_FAKE_ONCE", once.join("struck")));
        assert_eq!(output.status.code(), Some(0), "{fault}: {output:?}");
        let result = faulty.0.result();
        assert_eq!(result["repeated"].as_array().map(Vec::len), Some(1), "{fault}: {result:#}");
        assert_eq!(faulty.0.trial("before-000-again1")["outcome"], "clean", "{fault}");
        faulty
    }

    /// A fault that does no harm.
    fn bears(fault: &str) {
        let faulty = Self::new();
        let output = faulty.run(&mut faulty.compare(fault));
        assert_eq!(output.status.code(), Some(0), "{fault}: {output:?}");
        assert_eq!(faulty.0.trial("after-000")["outcome"], "clean", "{fault}");
    }

    /// A fault of the guest: its outcome counts.
    fn comes_to(fault: &str, outcome: &str, status: i32) -> Self {
        let faulty = Self::new();
        let output = faulty.run(&mut faulty.compare(fault));
        assert_eq!(output.status.code(), Some(status), "{fault}: {output:?}");
        for folder in ["before-000", "after-000"] {
            let trial = faulty.0.trial(folder);
            assert_eq!(trial["outcome"], outcome, "{fault}: {trial:#}");
        }
        faulty
    }
}

/// What `hotplug` takes for a bzImage: a boot sector's flag, the header's magic, a version.
fn image() -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    image[0x300..0x30b].copy_from_slice(b"6.1.0-fake ");
    image
}

/// Puts the fake where `nobody`, as whom root's QEMU runs, can go.
///
/// Another process copies it: a file that one of our threads has open for writing while another forks cannot be run.
fn install(to: &Path) {
    let fake = Path::new(env!("CARGO_BIN_EXE_hotplug")).with_file_name("examples/fake_qemu");
    assert!(fake.exists(), "{} is missing: cargo build --example fake_qemu", fake.display());
    let done = Command::new("install").arg("-m755").arg(fake).arg(to).status().unwrap();
    assert!(done.success(), "{done}");
}

#[test]
fn without_a_fault_a_trial_is_clean() {
    Faulty::bears("");
}

/// Every happening on a line of its own, the verdict last, and a page for people.
#[test]
fn a_run_can_be_watched() {
    let faulty = Faulty::new();
    let output = faulty.run(faulty.compare("").arg("--json-lines"));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    let of = |event: &str| events.iter().filter(|one| **one == event).count();
    assert_eq!((events[0], events[events.len() - 1]), ("run", "result"), "{events:?}");
    assert_eq!((of("trial-began"), of("trial-ended"), of("run"), of("result")), (2, 2, 1, 1), "{events:?}");
    let ended = lines.iter().find(|line| line["event"] == "trial-ended").unwrap();
    assert_eq!((&ended["outcome"], &ended["again"]), (&"clean".into(), &false.into()), "{ended:#}");
    let last = &lines[lines.len() - 1]["result"];
    assert_eq!(last["verdict"], faulty.0.result()["verdict"]);
    let page = std::fs::read_to_string(faulty.0.folder().join("report.html")).unwrap();
    assert!(page.contains("before-000: clean") && page.contains("plug dimm0"), "{page}");
}

#[test]
fn a_qemu_that_dies_is_infrastructure_whenever_it_does() {
    for moment in ["boot", "start", "restore", "accepted", "collect"] {
        let says = ["QEMU was killed by SIGKILL", "a word before it is killed"];
        Faulty::spoils(&format!("kill@{moment}"), &says);
    }
}

#[test]
fn a_qemu_that_aborts_is_quoted() {
    Faulty::spoils("abort@accepted", &["QEMU was killed by SIGABRT"]);
    Faulty::spoils("abort@collect", &["Assertion `false' failed."]);
}

#[test]
fn a_qemu_that_dies_once_is_tried_again_and_forgotten() {
    for moment in ["start", "restore", "accepted", "collect"] {
        Faulty::forgets(&format!("kill@{moment}"));
    }
}

#[test]
fn a_monitor_that_never_answers_is_given_up_and_tried_again() {
    // It takes the command to restore, and never says that it has.
    let faulty = Faulty::forgets("mute-monitor@restore");
    assert_eq!(faulty.0.trial("before-000")["why"], "the checkpoint: not done within 60 s");
    // It never answers what follows the first plug.
    let faulty = Faulty::forgets("mute-monitor@accepted");
    let why = faulty.0.trial("before-000")["why"].to_string();
    assert!(why.contains("did not answer") && why.contains("within 60 s"), "{why}");
}

#[test]
fn a_run_whose_every_trial_is_spoilt_ends_early() {
    let faulty = Faulty::new();
    let output = faulty.run(faulty.compare("kill@accepted").args(["--trials", "50"]));
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let result = faulty.0.result();
    let spoilt = |side: &str| result["trials"][side]["infrastructure"].as_u64().unwrap();
    // The guests at once: a few that had begun still end.
    assert!((3..8).contains(&spoilt("before").max(spoilt("after"))), "{result:#}");
    assert!(
        result["reason"].as_str().unwrap().contains("failed for reasons outside the kernel"),
        "{result:#}"
    );
}

#[test]
fn a_monitor_that_closes_is_infrastructure() {
    Faulty::spoils("close-monitor@start", &["monitor is gone"]);
    Faulty::spoils("close-monitor@accepted", &["monitor is gone"]);
}

#[test]
fn a_monitor_that_says_no_json_is_infrastructure() {
    Faulty::spoils("garbage-on-monitor@start", &["it said what is not JSON: \\u{7f}ELF"]);
    Faulty::spoils("half-line-on-monitor@restore", &["monitor is gone"]);
    Faulty::spoils("garbage-on-monitor@accepted", &["it said what is not JSON: \\u{7f}ELF"]);
}

#[test]
fn an_event_that_nobody_knows_is_no_harm() {
    Faulty::bears("unknown-event@restore");
    Faulty::bears("unknown-event@accepted");
}

#[test]
fn an_agent_that_says_nonsense_is_infrastructure() {
    Faulty::spoils("garbage-of-agent@accepted", &["what is not of the protocol: \\u{1b}]0;title"]);
}

#[test]
fn an_agent_whose_channel_closes_is_infrastructure() {
    Faulty::spoils("close-agent@accepted", &["QEMU closed the agent's channel"]);
    Faulty::spoils("close-agent@collect", &["QEMU closed the agent's channel"]);
}

#[test]
fn an_agent_that_falls_silent_hangs() {
    let faulty = Faulty::new();
    let scenario = faulty.path("least.toml");
    let mut command = faulty.compare("mute-agent@accepted");
    std::fs::write(&scenario, SCENARIO.replace("trials = 1", "trials = 1\ntime_limit_s = 2")).unwrap();
    let output = faulty.run(&mut command);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let trial = faulty.0.trial("before-000");
    assert_eq!(trial["outcome"], "hung", "{trial:#}");
    assert!(trial["why"].as_str().unwrap().contains("timed out"), "{trial:#}");
}

/// The size of a file of the first trial.
fn size(faulty: &Faulty, file: &str) -> u64 {
    std::fs::metadata(faulty.0.folder().join("trials/before-000").join(file)).unwrap().len()
}

#[test]
fn a_qemu_that_floods_fills_no_disk() {
    Faulty::spoils("flood-of-monitor@accepted", &["more than 16 MiB of events"]);
    let faulty = Faulty::comes_to("flood-of-stderr@accepted", "clean", 0);
    let size = size(&faulty, "qemu.stderr");
    assert!(((64 << 20)..(65 << 20)).contains(&size), "qemu.stderr has {size} bytes");
}

#[test]
fn an_agent_that_floods_fills_no_disk() {
    Faulty::spoils("flood-of-agent@accepted", &["more than 16 MiB of events"]);
}

#[test]
fn a_kernel_that_floods_fills_no_disk_and_is_not_called_clean() {
    let faulty = Faulty::comes_to("flood-of-kernel@accepted", "blind", 3);
    for file in ["kmsg.log", "serial.log"] {
        let size = size(&faulty, file);
        assert!(((64 << 20)..(65 << 20)).contains(&size), "{file} has {size} bytes");
    }
    let trial = faulty.0.trial("before-000");
    assert!(trial["lost_records"].as_u64().unwrap() > 1000, "{trial:#}");
}

#[test]
fn floods_take_no_memory_to_speak_of() {
    for (fault, limit) in [("flood-of-agent@accepted", 128), ("flood-of-kernel@accepted", 512)] {
        let faulty = Faulty::new();
        let mut child = faulty.spawn(fault, &[]);
        let mut peak = 0;
        wait_until(Duration::from_secs(300), || {
            peak = peak.max(memory(&child, "VmHWM").unwrap_or(0));
            child.try_wait().unwrap().is_some()
        });
        assert!((1..limit).contains(&(peak >> 10)), "{fault}: {peak} KiB");
        faulty.0.assert_nothing_left();
    }
}

#[test]
fn a_guest_whose_clock_jumps_is_still_judged() {
    let faulty = Faulty::comes_to("clock@accepted", "reported", 0);
    let trial = faulty.0.trial("before-000");
    assert_eq!(trial["reports"][0]["first"]["title"], "WARNING in fake_function", "{trial:#}");
    assert!(trial["reports"][0]["during"].is_string(), "{trial:#}");
}

#[test]
fn results_that_are_removed_meanwhile_end_the_run() {
    let faulty = Faulty::new();
    let mut command = faulty.compare("");
    command.args(["--trials", "100000"]);
    let running = std::thread::scope(|scope| {
        let running = scope.spawn(|| faulty.run(&mut command));
        wait_until(Duration::from_secs(60), || {
            let mut runs = std::fs::read_dir(faulty.0.results()).into_iter().flatten().flatten();
            runs.any(|run| run.path().join("trials/after-003/trial.json").exists())
        });
        // Files that are made meanwhile may keep it from being removed at once.
        wait_until(Duration::from_secs(60), || {
            let _ = std::fs::remove_dir_all(faulty.0.results());
            !faulty.0.results().exists()
        });
        running.join().unwrap()
    });
    assert_eq!(running.status.code(), Some(4), "{running:?}");
    let stderr = String::from_utf8(running.stderr).unwrap();
    // A removal that is still under way is met by the file that is gone already.
    let told = ["it was removed while its trials ran", "No such file or directory"];
    assert!(told.iter().any(|words| stderr.contains(words)), "{stderr}");
    assert_eq!(stderr.matches("hotplug: ").count(), 1, "{stderr}");
    assert!(!faulty.0.results().exists());
}

/// A figure of `/proc/pid/status`, KiB.
fn memory(child: &Child, figure: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// Memory of the harness after `early` and after `late` trials a side, KiB.
fn growth(early: u32, late: u32) -> (u64, u64) {
    let faulty = Faulty::new();
    let mut child = faulty.spawn("", &["--trials", &late.to_string()]);
    let ended = |number: u32| {
        let mut runs = std::fs::read_dir(faulty.0.results()).into_iter().flatten().flatten();
        runs.any(|run| run.path().join(format!("trials/after-{number:03}/trial.json")).exists())
    };
    let mut figures = Vec::new();
    for number in [early, late - late / 20] {
        wait_until(Duration::from_secs(1800), || {
            assert!(child.try_wait().unwrap().is_none(), "it ended before trial {number} was seen");
            ended(number)
        });
        figures.push(memory(&child, "VmHWM").unwrap());
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(faulty.0.result()["trials"]["after"]["trials"], late);
    faulty.0.assert_nothing_left();
    (figures[0], figures[1])
}

#[test]
fn memory_does_not_grow_with_the_number_of_trials() {
    let (early, late) = growth(100, 1000);
    assert!(late < early + 2048, "{early} KiB became {late} KiB");
}

#[test]
#[ignore = "takes minutes and a gigabyte of disk; the thousand trials above would show the same growth"]
fn memory_does_not_grow_with_ten_thousand_trials() {
    let (early, late) = growth(100, 5000);
    eprintln!("{early} KiB after 200 trials, {late} KiB after 9500");
    assert!(late < early + 4096, "{early} KiB became {late} KiB");
}

/// Moments at which a run is interrupted.
fn moments() -> impl Iterator<Item = Duration> {
    // Spread over a start, which takes a second at most, and some trials.
    (0..34_u64).map(|n| Duration::from_millis(n * 617 % 1700))
}

/// Whatever was written can be read.
fn assert_readable(faulty: &Faulty) {
    for entry in walkdir::WalkDir::new(faulty.0.results()).into_iter().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read(entry.path()).unwrap();
            let parsed: Result<Value, _> = serde_json::from_slice(&text);
            assert!(parsed.is_ok(), "{}: {}", entry.path().display(), parsed.unwrap_err());
        }
    }
    let begun = std::fs::read_dir(faulty.0.results()).into_iter().flatten().flatten();
    for run in begun.filter(|run| run.path().join("trials/before-000").exists()) {
        assert!(run.path().join("run.json").exists(), "{}", run.path().display());
    }
}

/// Ends runs at all moments by these signals, and has a look at what is left.
fn interrupted(signals: &[Signal], status: Option<i32>) {
    for moment in moments() {
        let faulty = Faulty::new();
        let mut child = faulty.spawn("", &["--trials", "100000"]);
        // The moment is what is tried here, not something that is waited for.
        std::thread::sleep(moment);
        for signal in signals {
            kill(pid(&child), *signal).unwrap();
        }
        let ended = child.wait().unwrap();
        // A signal that comes before anybody listens ends it as it ends any process.
        let early = moment < Duration::from_millis(100) && ended.code().is_none();
        assert!(ended.code() == status || early, "{moment:?}: {ended}");
        wait_until(Duration::from_secs(30), || faulty.0.qemus().is_empty());
        faulty.0.assert_nothing_left();
        assert_readable(&faulty);
    }
}

#[test]
fn ctrl_c_at_any_moment_leaves_nothing() {
    interrupted(&[Signal::SIGINT], Some(130));
}

#[test]
fn ctrl_c_twice_at_any_moment_leaves_nothing() {
    interrupted(&[Signal::SIGINT, Signal::SIGINT], Some(130));
}

#[test]
fn sigkill_at_any_moment_leaves_nothing() {
    interrupted(&[Signal::SIGKILL], None);
}

/// What the fake's kernel traced of [`SCENARIO`]'s DIMM, microseconds after 10 s: delivered 100, driver 120, registered 250,
/// online 600, heard of at 650; then away.
const TRACE: &str = "\
# tracer: function_graph
# heard 10000650
   10.000100 |   0)  kworker-5  |     2.000 us  |  acpi_hotplug_schedule();
   10.000110 |   0)  kworker-7  |               |  acpi_device_hotplug() {
   10.000120 |   0)  kworker-7  |               |    acpi_memory_device_add() {
   10.000200 |   0)  kworker-7  |    50.000 us  |      create_memory_block_devices();
   10.000400 |   0)  kworker-7  | ! 200.000 us  |      online_pages();
   10.001000 |   0)  kworker-7  | ! 880.000 us  |    } /* acpi_memory_device_add */
   10.001010 |   0)  kworker-7  | ! 900.000 us  |  } /* acpi_device_hotplug */
   10.002000 |   0)  kworker-5  |     2.000 us  |  acpi_hotplug_schedule();
   10.002010 |   0)  kworker-7  |               |  acpi_device_hotplug() {
   10.002100 |   0)  kworker-7  | ! 300.000 us  |    offline_pages();
   10.002500 |   0)  kworker-7  | ! 100.000 us  |    acpi_memory_device_remove();
   10.002700 |   0)  kworker-7  |    40.000 us  |    acpi_evaluate_ej0();
   10.002810 |   0)  kworker-7  | ! 800.000 us  |  } /* acpi_device_hotplug */
";

/// The phases of operations, by a guest whose clock is scripted and by the host's own, which never mix.
#[test]
fn phases_are_each_told_by_one_clock() {
    let faulty = Faulty::new();
    let trace = faulty.path("trace.txt");
    std::fs::write(&trace, TRACE).unwrap();
    let text = SCENARIO.split("[[lane]]\nname = \"cpus\"").next().unwrap();
    let table = "[latency]\nfunctions = [\"offline_pages\"]\n\
        phases = [\"plug dimm: driver..online\", \"plug dimm: asked..ended\"]\ntrials = 1\n";
    let mut command = faulty.0.compare_with_control();
    command.args(["--no-control", "--no-coverage", "--boots", "4"]).env("HOTPLUG_FAKE_TRACE", &trace);
    let output = faulty.run(&mut faulty.of(command, &format!("{text}{table}"), ""));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("no change (within"), "{output:?}");
    let times = std::fs::read(faulty.0.folder().join("latency/1/trials/before-000/latency.json")).unwrap();
    let times: Value = serde_json::from_slice(&times).unwrap();
    let course = |operation: &str, first: &str| {
        let courses = times["courses"].as_array().unwrap();
        let is_it = |course: &&Value| course["operation"] == operation && course["marks"][0][0] == first;
        let course = courses.iter().find(is_it).unwrap_or_else(|| panic!("{times:#}"));
        let mark = |mark: &Value| (mark[0].as_str().unwrap().to_owned(), mark[1].as_f64().unwrap());
        course["marks"].as_array().unwrap().iter().map(mark).collect::<Vec<(String, f64)>>()
    };
    let near = |marks: Vec<(String, f64)>, expected: &[(&str, f64)]| {
        let names = |all: &[(String, f64)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&marks), expected.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
        for ((name, at), (_, after)) in marks.iter().zip(expected) {
            assert!((at - 1e7 - after).abs() < 1e-3, "{name} at {at}");
        }
    };
    near(
        course("plug dimm", "delivered"),
        &[
            ("delivered", 100.0),
            ("driver", 120.0),
            ("registered", 250.0),
            ("online", 600.0),
            ("visible", 650.0),
        ],
    );
    near(
        course("unplug dimm", "delivered"),
        &[
            ("delivered", 2000.0),
            ("offline-begun", 2100.0),
            ("offline-done", 2400.0),
            ("removed", 2600.0),
            ("ejected", 2740.0),
        ],
    );
    // What comes by the monitor and what by the agent is in no order: a uevent may even come after the operation's end.
    for (operation, told, late) in [
        ("plug dimm", ["told"].as_slice(), "told-online"),
        ("unplug dimm", &["deleted", "told"], "told-offline"),
    ] {
        let marks = course(operation, "asked");
        let mut names: Vec<&str> = marks.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names.remove(0), names.remove(0), names.pop()), ("asked", "accepted", Some("ended")));
        names.retain(|name| *name != late);
        names.sort_unstable();
        assert_eq!(names, told, "{marks:?}");
        assert!(marks.is_sorted_by(|a, b| a.1 <= b.1), "{marks:?}");
    }
    let result = faulty.0.result();
    let metrics = result["latency"]["metrics"].as_array().unwrap();
    let metric = |name: &str| metrics.iter().find(|metric| metric["name"] == name).unwrap();
    let online = metric("plug dimm: driver..online");
    assert_eq!(
        (&online["told"], &online["boots"]["after"][3]),
        (&"no-change".into(), &480_000.0.into()),
        "{online:#}"
    );
    assert_eq!(metric("offline_pages")["told"], "no-change");
    assert_eq!(metric("plug dimm: asked..ended")["samples"]["before"], 4);
}
