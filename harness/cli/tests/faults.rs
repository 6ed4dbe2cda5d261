//! Failures of QEMU and of a guest that real ones cannot easily be made to show. The binary runs
//! with a fake QEMU (`examples/fake_qemu`). Whatever fails, no process and no temporary file is
//! left.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

#[expect(dead_code, reason = "other tests use the helpers for real kernels and patches")]
mod common;
#[path = "common/fake.rs"]
mod fake;
mod floods;
mod interrupted;
mod phases;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::{Run, wait_until};
use nix::sys::signal::{SigHandler, Signal, signal};
use serde_json::Value;

/// One DIMM and one CPU are plugged and unplugged.
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

/// Scale of all limits, which leaves enough time on a busy machine.
const SCALE: &str = "0.2";
/// Scale for tests that wait for a limit to expire: a minute becomes 1.8 s.
const SHORT: &str = "0.03";

/// The binary, with the fake QEMU and a file that looks like a kernel.
struct Faulty(Run);

/// Restores the default action of SIGINT in a child, so that a SIGINT before its handler is
/// installed ends it, as on a terminal. A shell that starts the tests in the background has them
/// and their children ignore SIGINT (sh(1), asynchronous lists). The action is set when `spawn`
/// returns; with a program in between, such as env(1), it might not be.
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

    /// The comparison. `fault` is what fails and when, in the form of
    /// `examples/fake_qemu/fault.rs`.
    fn compare(&self, fault: &str) -> assert_cmd::Command {
        self.of(self.0.compare(), SCENARIO, fault)
    }

    fn of(&self, mut command: assert_cmd::Command, text: &str, fault: &str) -> assert_cmd::Command {
        let (kernel, scenario, qemu) =
            (self.path("bzImage"), self.path("least.toml"), self.path("fake_qemu"));
        if !kernel.exists() {
            std::fs::write(&kernel, image()).unwrap();
            std::fs::write(&scenario, text).unwrap();
            fake::install(&qemu);
        }
        command.arg("--scenario").arg(scenario).arg("--cache").arg(self.path("cache"));
        command.arg("--before-image").arg(&kernel).arg("--after-image").arg(&kernel);
        // A flood takes long, and shorter limits do not shorten it.
        command.env("HOTPLUG_TIME_SCALE", if fault.starts_with("flood") { "1" } else { SCALE });
        command.args(["--accel", "tcg"]).env("HOTPLUG_QEMU", qemu).env("HOTPLUG_FAKE", fault);
        if fault.is_empty() {
            command.env_remove("HOTPLUG_FAKE");
        }
        command
    }

    /// Runs to the end, and checks that nothing is left behind.
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

    /// A fault of infrastructure in every trial: each trial runs three times, and there is no
    /// verdict.
    fn spoils(fault: &str, says: &[&str]) {
        let faulty = Self::new();
        let mut command = faulty.compare(fault);
        // There are six attempts, each of which waits for its QEMU to end. A flood takes long, and
        // shorter limits do not shorten it.
        if !fault.starts_with("flood") {
            command.env("HOTPLUG_TIME_SCALE", "0.05");
        }
        let output = faulty.run(&mut command);
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

    /// A fault of the first trial's QEMU only: the trial runs again, and the verdict is not
    /// affected.
    fn forgets(fault: &str, scale: &str) -> Self {
        let faulty = Self::new();
        let once = faulty.path("once");
        std::fs::create_dir(&once).unwrap();
        std::fs::set_permissions(&once, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let mut command = faulty.compare(fault);
        command.env("HOTPLUG_TIME_SCALE", scale);
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

/// A file that `hotplug` accepts as a bzImage: the flag of a boot sector, the header's magic, a
/// version.
fn image() -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    image[0x300..0x30b].copy_from_slice(b"6.1.0-fake ");
    image
}

#[test]
fn without_a_fault_a_trial_is_clean() {
    Faulty::bears("");
}

#[test]
fn a_scale_of_the_limits_that_is_no_number_is_told() {
    for scale in ["0", "-1", "a tenth", "inf"] {
        let faulty = Faulty::new();
        let output = faulty.run(faulty.compare("").env("HOTPLUG_TIME_SCALE", scale));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&format!("HOTPLUG_TIME_SCALE={scale} is not a number above 0")), "{said}");
        assert!(!faulty.0.results().exists());
    }
}

/// Every event is a line of JSON, the last line is the result, and the run has a page.
#[test]
fn a_run_can_be_watched() {
    let faulty = Faulty::new();
    let output = faulty.run(faulty.compare("").arg("--json-lines"));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    let of = |event: &str| events.iter().filter(|one| **one == event).count();
    assert_eq!(events[events.len() - 1], "result", "{events:?}");
    let notes: Vec<&Value> = lines.iter().filter(|line| line["event"] == "note").collect();
    assert!(notes.iter().any(|note| note["text"].as_str().unwrap().starts_with("checkpoints")), "{notes:#?}");
    assert_eq!((of("trial-began"), of("trial-ended"), of("run"), of("result")), (2, 2, 1, 1), "{events:?}");
    let schema = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/events.schema.json"));
    let schema = jsonschema::validator_for(&serde_json::from_slice(&schema.unwrap()).unwrap()).unwrap();
    for line in &lines {
        assert!(schema.is_valid(line), "{line:#}");
    }
    // A command that fails says so in its last line.
    let output = faulty.run(faulty.compare("").args(["--json-lines", "--scenario", "no-such.toml"]));
    let text = String::from_utf8(output.stdout).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["exit_status"]), (&"error".into(), &2.into()), "{last:#}");
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
        Faulty::forgets(&format!("kill@{moment}"), SCALE);
    }
}

#[test]
fn a_monitor_that_never_answers_is_given_up_and_tried_again() {
    // It accepts the command to restore, and never reports that it has restored.
    let faulty = Faulty::forgets("mute-monitor@restore", SHORT);
    assert_eq!(faulty.0.trial("before-000")["why"], "the checkpoint: not done within 1.8 s");
    // It answers no command after the first plug.
    let faulty = Faulty::forgets("mute-monitor@accepted", SHORT);
    let why = faulty.0.trial("before-000")["why"].to_string();
    assert!(why.contains("did not answer") && why.contains("within 1.8 s"), "{why}");
}

#[test]
fn a_run_whose_every_trial_is_spoilt_ends_early() {
    let faulty = Faulty::new();
    let output = faulty.run(faulty.compare("kill@accepted").args(["--trials", "50"]));
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let result = faulty.0.result();
    let spoilt = |side: &str| result["trials"][side]["infrastructure"].as_u64().unwrap();
    // Concurrent guests that had begun when the run gave up still end.
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
    Faulty::spoils("garbage-on-monitor@start", &["it sent a line that is not JSON: \\u{7f}ELF"]);
    Faulty::spoils("half-line-on-monitor@restore", &["monitor is gone"]);
    Faulty::spoils("garbage-on-monitor@accepted", &["it sent a line that is not JSON: \\u{7f}ELF"]);
}

#[test]
fn an_event_that_nobody_knows_is_no_harm() {
    Faulty::bears("unknown-event@restore");
    Faulty::bears("unknown-event@accepted");
}

#[test]
fn an_agent_that_says_nonsense_is_infrastructure() {
    Faulty::spoils("garbage-of-agent@accepted", &["a line outside of the protocol: \\u{1b}]0;title"]);
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
    command.env("HOTPLUG_TIME_SCALE", SHORT);
    std::fs::write(&scenario, SCENARIO.replace("trials = 1", "trials = 1\ntime_limit_s = 1")).unwrap();
    let output = faulty.run(&mut command);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let trial = faulty.0.trial("before-000");
    assert_eq!(trial["outcome"], "hung", "{trial:#}");
    assert!(trial["why"].as_str().unwrap().contains("timed out"), "{trial:#}");
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
        // A file that is created meanwhile can make a removal fail.
        wait_until(Duration::from_secs(60), || {
            let _ = std::fs::remove_dir_all(faulty.0.results());
            !faulty.0.results().exists()
        });
        running.join().unwrap()
    });
    assert_eq!(running.status.code(), Some(4), "{running:?}");
    let stderr = String::from_utf8(running.stderr).unwrap();
    // While the removal is still in progress, the first error is a file that no longer exists.
    let told = ["it was removed while its trials ran", "No such file or directory"];
    assert!(told.iter().any(|words| stderr.contains(words)), "{stderr}");
    assert_eq!(stderr.matches("hotplug: ").count(), 1, "{stderr}");
    assert!(!faulty.0.results().exists());
}
