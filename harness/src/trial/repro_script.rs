//! Writes `repeat.sh`, a script that repeats a trial that was not clean with QEMU and socat alone.
//!
//! The script is for readers who do not have the harness, so it is written to be read. The machine
//! is booted cold. The script repeats the commands to the monitor and the requests to the agent in
//! the order of `qmp.log` and `agent.log`, each after the events that came before it.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hotplug_protocol::{AgentEvent, Ask, Request};
use hotplug_side::Sides;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::context::TrialContext;
use super::outcome::TrialRecord;
use crate::event_log::{Event, Stage, Stamped};
use crate::guest::{TYPED, TYPED_EVERY};
use crate::program_files;
use crate::vmm::{Inherited, LaunchMode, LaunchOptions, command_line, shell_word, shell_words, with_own_kvm};
use crate::{Result, scenario};

/// The files of the kernels and the initramfs, which scripts name.
#[derive(Debug, Clone)]
pub struct OnDisk {
    kernels: Sides<(PathBuf, String)>,
    /// The SHA-256 of the initramfs, which is in the run's folder.
    initramfs: String,
    /// The SHA-256 of the modules of packaged kernels, which follow the initramfs. They are beside
    /// the kernel.
    modules: Sides<Option<String>>,
}

impl OnDisk {
    /// The name of the initramfs in the run's folder.
    pub const INITRAMFS: &str = "initramfs.cpio.gz";

    /// Reads the files and hashes them.
    pub fn new(kernels: Sides<&Path>, initramfs: &[u8], modules: Sides<Option<&Path>>) -> Result<Self> {
        let hash = |path: &Path| Ok::<_, crate::Error>(sha256(&fs_err::read(path)?));
        let kernel = |path: &Path| Ok::<_, crate::Error>((path.to_owned(), hash(path)?));
        let kernels = Sides { before: kernel(kernels.before)?, after: kernel(kernels.after)? };
        let [before, after] = [modules.before, modules.after].map(|modules| modules.map(hash).transpose());
        Ok(Self { kernels, initramfs: sha256(initramfs), modules: Sides { before: before?, after: after? } })
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The events of QEMU that operations wait for.
const ENDS: [&str; 5] = [
    "ACPI_DEVICE_OST",
    "DEVICE_DELETED",
    "DEVICE_UNPLUG_GUEST_ERROR",
    "MEM_UNPLUG_ERROR",
    "MEMORY_DEVICE_SIZE_CHANGE",
];

/// The `_OST` statuses of operations that are still in progress. They end no operation.
const GOES_ON: [u64; 2] = [0x80, 0x84];

/// Commands that belong to the harness and not to the trial: they restore and inspect a guest.
const OURS: [&str; 9] = [
    "qmp_capabilities",
    "migrate-set-capabilities",
    "migrate",
    "migrate-incoming",
    "stop",
    "cont",
    "inject-nmi",
    "dump-guest-memory",
    "query-chardev",
];

/// The ids of the script's own requests to the agent. They differ from those of the trial.
const LOAD: u64 = 1_000_000;
const STOP: u64 = LOAD + 1;
const DRAIN: u64 = LOAD + 2;

/// The shortest pause that is repeated, in microseconds. Shorter pauses are lost in the time that a
/// shell takes.
const PAUSE: u64 = 10_000;

/// An action of the script.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A command to the monitor.
    Send(String),
    /// A request to the agent.
    Ask(String),
    /// A wait until a text has appeared in a stream so many times.
    Await { stream: &'static str, text: String, times: u32 },
}

/// Writes the script for the trial in `dir`, whose logs are complete.
pub(super) fn write(context: &TrialContext, dir: &Path, record: &TrialRecord) -> Result<()> {
    let earlier = record.earlier.iter().map(|folder| dir.with_file_name(folder));
    let logs: Vec<Logs> = earlier.chain([dir.to_owned()]).map(|dir| Logs::read(&dir)).collect();
    // If the guest is ready when the lanes begin, its agent has sent one ready event before.
    let before = u32::from(context.scenario.start == scenario::Start::Ready);
    let steps = steps(&logs, before);
    let path = dir.join("repeat.sh");
    crate::files::write_whole(&path, script(context, record, &steps).as_bytes())?;
    Ok(fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?)
}

/// The logs of a trial.
#[derive(Debug, Default)]
struct Logs {
    monitor: String,
    agent: String,
    events: String,
}

impl Logs {
    fn read(dir: &Path) -> Self {
        let read =
            |name| String::from_utf8_lossy(&fs_err::read(dir.join(name)).unwrap_or_default()).into_owned();
        Self { monitor: read("qmp.log"), agent: read("agent.log"), events: read("events.jsonl") }
    }
}

/// The commands, requests and waits of all trials that a guest took, each since its lanes began,
/// with the host's times. `ready` is how many ready events the agent had sent before.
fn steps(logs: &[Logs], ready: u32) -> Vec<(u64, Step)> {
    let mut all: Vec<(u64, Step)> = Vec::new();
    for trial in logs {
        // The clock of each trial begins anew.
        let end = all.last().map_or(0, |(at, _)| *at);
        let own = steps_of(trial);
        let begin = own.first().map_or(0, |(at, _)| *at);
        all.extend(own.into_iter().map(|(at, step)| (end + at - begin, step)));
    }
    let mut seen = HashMap::from([(("agent", READY.to_owned()), ready)]);
    for (_, step) in &mut all {
        if let Step::Await { stream, text, times } = step {
            let count: &mut u32 = seen.entry((*stream, text.clone())).or_default();
            *count += 1;
            *times = *count;
        }
    }
    all
}

/// Those of one trial.
fn steps_of(Logs { monitor, agent, events }: &Logs) -> Vec<(u64, Step)> {
    let mut all: Vec<(u64, Step)> = Vec::new();
    let mut lanes = None;
    for stamped in events.lines().filter_map(|line| serde_json::from_str::<Stamped>(line).ok()) {
        match stamped.what {
            Event::Stage(Stage::Lanes) => lanes = Some(stamped.at.0),
            // The plug of a CPU ends when the agent has brought the CPU online.
            Event::Agent { event: AgentEvent::CpuOnline { cpu, .. }, .. } => {
                let text = format!("{{\"cpu-online\":{{\"cpu\":{cpu},");
                all.push((stamped.at.0, Step::Await { stream: "agent", text, times: 1 }));
            }
            Event::Agent { event: AgentEvent::Ready(_), .. } => {
                all.push((stamped.at.0, Step::Await { stream: "agent", text: READY.into(), times: 1 }));
            }
            _ => {}
        }
    }
    all.extend(monitor.lines().filter_map(said));
    all.extend(asked(agent));
    let lanes = lanes.unwrap_or(u64::MAX);
    all.retain(|(at, _)| *at >= lanes);
    all.sort_by_key(|(at, _)| *at);
    all
}

/// The step of the script for one line of `qmp.log`, if there is one.
fn said(line: &str) -> Option<(u64, Step)> {
    let mut words = line.splitn(3, ' ');
    let (at, direction, json) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let value: Value = serde_json::from_str(json).ok()?;
    if direction == ">" {
        let command = value["execute"].as_str()?;
        let ours = OURS.contains(&command) || command.starts_with("query-");
        return (!ours).then(|| (at, Step::Send(json.to_owned())));
    }
    let event = value["event"].as_str().filter(|event| ENDS.contains(event))?;
    if event == "ACPI_DEVICE_OST" && GOES_ON.iter().any(|status| value["data"]["info"]["status"] == *status) {
        return None;
    }
    // The event as QEMU wrote it, without its time stamp.
    let text = json[json.find("\"event\"")?..].trim_end_matches('}').to_owned();
    Some((at, Step::Await { stream: "qmp", text, times: 1 }))
}

/// The beginning of the agent's ready event.
const READY: &str = "{\"ready\":";

/// The requests of `agent.log` that belong to the trial, and the waits for their answers.
fn asked(log: &str) -> Vec<(u64, Step)> {
    let mut all = Vec::new();
    let mut ours = HashSet::new();
    for line in log.lines() {
        let mut words = line.splitn(3, ' ');
        let (Some(at), Some(direction), Some(text)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let Ok(at) = at.parse() else { continue };
        if direction == "<" {
            if ours.contains(text) {
                let text = answer(text);
                all.push((at, Step::Await { stream: "agent", text, times: 1 }));
            }
        } else if let Ok(ask) = serde_json::from_str::<Ask>(text) {
            let does = match ask.request {
                Request::Write { .. } | Request::Reboot => true,
                // The harness itself reads which CPU was added and whether lockdep still checks.
                Request::Read { path, .. } => {
                    !path.ends_with("/firmware_node/path") && path != crate::guest::LOCKDEP_STATS
                }
                _ => false,
            };
            if does {
                ours.insert(ask.id.to_string());
                all.push((at, Step::Ask(text.to_owned())));
            }
        }
    }
    all
}

/// The beginning of the agent's answer to request `id`.
fn answer(id: impl std::fmt::Display) -> String {
    format!("{{\"answer\":{{\"id\":{id},")
}

fn script(context: &TrialContext, record: &TrialRecord, steps: &[(u64, Step)]) -> String {
    let (kernel, kernel_hash) = context.on_disk.kernels.of(record.side);
    let held = record.holds.iter().map(|hold| format!("\n# Not repeated: {}", one_line(&hold.words())));
    let before = match record.earlier.len() {
        0 => None,
        1 => Some("\n# Its guest had taken a trial before, which comes first.".to_owned()),
        n => Some(format!("\n# Its guest had taken {n} trials before, which come first.")),
    };
    let held: Vec<String> = before.into_iter().chain(held).collect();
    let modules = context.on_disk.modules.of(record.side).as_ref().map(|hash| ("modules", hash.clone()));
    let files = context.scenario.files.as_ref().map(|files| ("programs", sha256(files.bytes())));
    let further: Vec<_> = modules.into_iter().chain(files).collect();
    let (mut hashes, mut append) = (String::new(), String::new());
    for (name, hash) in &further {
        let _ = writeln!(hashes, "{hash}  ${name}");
        let _ = write!(append, " \"${name}\"");
    }
    let append = if further.is_empty() { String::new() } else { APPEND.replace("@FURTHER@", &append) };
    let programs = program_files::place(&context.scenario.name);
    let mut out = HEAD
        .replace("@TRIAL@", &one_line(&record.folder))
        .replace("@OUTCOME@", &record.outcome.to_string())
        .replace("@WHY@", &one_line(&record.why))
        .replace("@HELD@", &held.concat())
        .replace("@KERNEL@", &shell_word(&kernel.display().to_string()))
        .replace("@KERNEL_HASH@", kernel_hash)
        .replace("@INITRAMFS@", OnDisk::INITRAMFS)
        .replace("@INITRAMFS_HASH@", &context.on_disk.initramfs)
        .replace("@PROGRAMS@", &shell_word(&programs.display().to_string()))
        .replace("@HASHES@", &hashes)
        .replace("@APPEND@", &append)
        .replace("@QEMU@", &qemu(context))
        .replace("@SERIAL@", &serial(context));
    if context.scenario.start == scenario::Start::Ready {
        out.push_str(BOOTED);
    }
    let (_, dimm_file) = context.scenario.dimm_file();
    if dimm_file.0 > 0 {
        let _ = writeln!(out, "\n# Memory of DIMMs.\ntruncate -s {} \"$dir/dimms\"", dimm_file.0);
    }
    let ask = |id, request| serde_json::to_string(&Ask { id, request }).unwrap_or_default();
    let loads = &context.scenario.guest.load;
    if !loads.is_empty() && record.ready.is_some() {
        let request = ask(LOAD, Request::StartLoad { loads: loads.clone() });
        let _ = writeln!(out, "\n# The load.\nask {}", shell_word(&request));
        let _ = writeln!(out, "await 1 agent {}", shell_word(&answer(LOAD)));
    }
    if !steps.is_empty() {
        out.push_str("\n# The operations.\n");
    }
    let mut last = steps.first().map_or(0, |(at, _)| *at);
    for (at, step) in steps {
        let pause = at.saturating_sub(std::mem::replace(&mut last, *at));
        // The time since an event was the harness's reaction and the pause of the schedule. Both
        // belong to the trial.
        if !matches!(step, Step::Await { .. }) && (PAUSE..10_000_000).contains(&pause) {
            let _ = writeln!(out, "sleep {}.{:03}", pause / 1_000_000, pause / 1000 % 1000);
        }
        let _ = match step {
            Step::Send(command) => {
                // This closes the quotes before the variable, so that the shell expands it.
                let command = shell_word(command).replace(&Inherited::DimmFile.path(), "'\"$dir\"'/dimms");
                writeln!(out, "send {command}")
            }
            Step::Ask(request) => writeln!(out, "ask {}", shell_word(request)),
            Step::Await { stream, text, times } => {
                writeln!(out, "await {times} {stream} {}", shell_word(text))
            }
        };
    }
    let tail = TAIL
        .replace("@STOP@", &shell_word(&ask(STOP, Request::StopLoad)))
        .replace("@STOPPED@", &shell_word(&answer(STOP)))
        .replace("@DRAIN@", &shell_word(&ask(DRAIN, Request::Drain)))
        .replace("@DRAINED@", &shell_word(&answer(DRAIN)));
    out + &tail
}

/// QEMU's command line for a cold boot, with sockets and files by name.
fn qemu(context: &TrialContext) -> String {
    let alone = LaunchOptions { gdb: false, ..context.launch_options(LaunchMode::Cold) };
    let arguments = with_own_kvm(command_line(&context.scenario, alone));
    let mut text = shell_words(&context.qemu.path, &arguments);
    for (name, file) in [("kernel", Inherited::Kernel), ("initramfs", Inherited::Initrd)] {
        text = text.replace(&file.path(), &format!("\"${name}\""));
    }
    let sockets = [
        ("qmp", Inherited::Qmp),
        ("serial", Inherited::Serial),
        ("agent", Inherited::Agent),
        ("kmsg", Inherited::Kmsg),
    ];
    for (name, file) in sockets {
        text = text.replace(
            &format!("socket,id={name},fd={}", file.number()),
            &format!("socket,id={name},path=\"$dir\"/{name}.socket,server=on"),
        );
    }
    text
}

/// The command that reads the console, and that types at it if the trial did. The typing ends with
/// the console, because the script waits for all processes that it started.
fn serial(context: &TrialContext) -> String {
    let Some(bytes) = context.scenario.guest.typing else {
        return r#"socat -u "$(connect serial)" -"#.into();
    };
    format!(
        r#"while sleep {} && yes '{TYPED}' | head -c {}; do :; done | socat - "$(connect serial)""#,
        TYPED_EVERY.as_secs_f64(),
        bytes.0
    )
}

/// One line for a comment, because a guest's text may contain any characters.
fn one_line(text: &str) -> String {
    crate::text::harmless(text, 120)
}

/// The beginning of the script, until QEMU's monitor is ready.
const HEAD: &str = r#"#!/bin/sh
# Repeats trial @TRIAL@ with QEMU and socat alone. The outcome of the trial was: @OUTCOME@:
#   @WHY@@HELD@
#
# Prints the guest's kernel records in the format of /dev/kmsg (priority, number, microseconds;
# text) on standard output, and its own steps on standard error. A race may not occur every time.
# The trial itself may have begun from a checkpoint of the booted guest; the script boots the guest.
set -u

kernel=@KERNEL@
kernel=$(realpath "${KERNEL:-$kernel}")
initramfs=$(realpath "${INITRAMFS:-"$(dirname "$0")/../../@INITRAMFS@"}")
modules=$(dirname "$kernel")/modules.cpio
programs=$(dirname "$initramfs")/@PROGRAMS@
sha256sum --check --quiet >&2 <<EOF || exit 2
@KERNEL_HASH@  $kernel
@INITRAMFS_HASH@  $initramfs
@HASHES@EOF
command -v socat >/dev/null || { echo 'repeat: no socat: apt-get install socat' >&2; exit 2; }

dir=$(mktemp -d)
qemu=
trap 'kill $qemu 2>/dev/null; wait; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
@APPEND@
say() { printf 'repeat: %s\n' "$*" >&2; }
# One command to QEMU's monitor, one request to the agent in the guest.
send() { say "> $1"; printf '%s\n' "$1" >&3; }
ask() { say "> agent: $1"; printf '%s\n' "$1" >&4; }
# await TIMES STREAM TEXT: waits until TEXT has appeared in STREAM that many times, for $limit
# seconds at most. A guest that hangs answers no more, so after the first timeout the limit is
# shorter.
await() {
    end=$(($(date +%s) + limit))
    until [ "$(grep -cF -e "$3" "$dir/$2")" -ge "$1" ]; do
        kill -0 $qemu 2>/dev/null || finish 'QEMU has ended'
        [ "$(date +%s)" -lt $end ] || { say "no answer in time: $3"; limit=5; return; }
        sleep 0.05
    done
}
finish() {
    say "$1"
    # The last messages of a kernel that panicked or hangs are on its console only.
    [ "$1" = done ] || cat "$dir/serial"
    exit 0
}

# QEMU waits for a connection on each of its four sockets.
cd "$dir"
@QEMU@ &
qemu=$!
connect() { echo "UNIX-CONNECT:$dir/$1.socket,retry=200,interval=0.05"; }
mkfifo commands requests
touch qmp agent serial
socat - "$(connect qmp)" <commands >qmp &
@SERIAL@ >serial &
socat - "$(connect agent)" <requests >agent &
socat -u "$(connect kmsg)" - &
exec 3>commands 4>requests

limit=75
send '{"execute":"qmp_capabilities"}'
"#;

/// The part that puts the kernel's modules and the files of programs behind the agent.
const APPEND: &str = r#"cat "$initramfs"@FURTHER@ >"$dir/initramfs"
initramfs=$dir/initramfs
"#;

/// The part that waits for the guest's boot.
const BOOTED: &str = r#"say 'the guest boots'
limit=180
await 1 agent '{"ready":'
limit=75
"#;

/// The end of the script.
const TAIL: &str = r#"
# The end: receive every record, then quit QEMU.
ask @STOP@
await 1 agent @STOPPED@
ask @DRAIN@
await 1 agent @DRAINED@
sleep 1
send '{"execute":"quit"}'
wait $qemu
finish 'done'
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_after_what_came_before_them() {
        let monitor = r#"10 > {"execute":"cont","id":1}
30 > {"execute":"query-memory-devices","id":2}
31 > {"arguments":{"id":"cpu0"},"execute":"device_add","id":3}
40 < {"timestamp": {"seconds": 1}, "event": "ACPI_DEVICE_OST", "data": {"info": {"device": "cpu0", "source": 3, "status": 132}}}
50 < {"timestamp": {"seconds": 1}, "event": "DEVICE_DELETED", "data": {"device": "cpu0"}}
60 > {"arguments":{"id":"cpu0"},"execute":"device_add","id":4}
70 < {"timestamp": {"seconds": 2}, "event": "DEVICE_DELETED", "data": {"device": "cpu0"}}
"#;
        let agent = r#"32 > {"id":7,"request":"snapshot"}
33 < 7
34 > {"id":8,"request":{"write":{"path":"/sys/x","data":"1"}}}
35 < 8
"#;
        let events = r#"{"at":20,"what":{"stage":"lanes"}}
{"at":80,"what":{"agent":{"at":1,"event":{"cpu-online":{"cpu":2,"errno":0}}}}}
"#;
        let wait = |stream, text: &str, times| Step::Await { stream, text: text.into(), times };
        let deleted = r#""event": "DEVICE_DELETED", "data": {"device": "cpu0""#;
        let logs = || Logs { monitor: monitor.into(), agent: agent.into(), events: events.into() };
        let is: Vec<Step> = steps(&[logs()], 1).into_iter().map(|(_, step)| step).collect();
        assert_eq!(
            is,
            [
                Step::Send(r#"{"arguments":{"id":"cpu0"},"execute":"device_add","id":3}"#.into()),
                Step::Ask(r#"{"id":8,"request":{"write":{"path":"/sys/x","data":"1"}}}"#.into()),
                wait("agent", r#"{"answer":{"id":8,"#, 1),
                wait("qmp", deleted, 1),
                Step::Send(r#"{"arguments":{"id":"cpu0"},"execute":"device_add","id":4}"#.into()),
                wait("qmp", deleted, 2),
                wait("agent", r#"{"cpu-online":{"cpu":2,"#, 1),
            ]
        );
        // Without lanes there are no steps.
        assert_eq!(steps(&[Logs { events: String::new(), ..logs() }], 1), []);
        // A second trial of the guest waits for the next occurrences.
        let both = steps(&[logs(), logs()], 1);
        assert_eq!(both.len(), 14);
        assert_eq!(both[9].1, wait("agent", r#"{"answer":{"id":8,"#, 2));
        assert_eq!(both[10].1, wait("qmp", deleted, 3));
        assert!(both.is_sorted_by_key(|(at, _)| *at));
    }

    #[test]
    fn a_hash_is_what_sha256sum_prints() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }
}
