//! The agent's end of its channel.

use std::io::{BufRead, BufReader, Write};
use std::mem::take;
use std::os::unix::net::UnixStream;

use hotplug_protocol::{Answer, Ask, LoadEnd, Output, ProgramEnd, Ran, Request};

use crate::fault::{Moment, strike};
use crate::guest::{Guest, hello};

/// Answers requests until the channel closes.
pub(crate) fn serve(guest: &Guest, channel: UnixStream) {
    for line in BufReader::new(channel).lines() {
        let Some(Ask { id, request }) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else {
            return;
        };
        if request == Request::StopLoad && strike(guest, Moment::Collect).is_err() {
            return;
        }
        if !guest.is_mute() && guest.answer(id, answer(guest, request)).is_err() {
            return;
        }
    }
}

fn answer(guest: &Guest, request: Request) -> Answer {
    let unknown = |what: String| Answer::Failed { errno: 2, what };
    match request {
        Request::Hello => Answer::Hello(hello()),
        Request::Snapshot => Answer::Snapshot(guest.snapshot()),
        Request::Read { path, .. } if path == "/proc/lockdep_stats" => {
            let armed = u8::from(guest.is_armed());
            Answer::Contents(format!(" debug_locks:                             {armed}\n"))
        }
        Request::Read { path, .. } if path == "/sys/kernel/tracing/trace" => {
            guest.trace().map_or_else(|| unknown(format!("open {path}: ENOENT")), Answer::Contents)
        }
        Request::Read { path, .. } => match slot(&path) {
            // QEMU, hw/acpi/cpu.c: CPU_NAME_FMT.
            Some(slot) => Answer::Contents(format!("\\_SB_.CPUS.C{slot:03X}\n")),
            None => unknown(format!("open {path}: ENOENT")),
        },
        // As with a kernel whose writes allocate nothing.
        Request::WriteFailing { .. } => Answer::Injected { errno: 0, is_injected: false },
        Request::StartLoad { loads } => {
            guest.books().loads += loads.len();
            Answer::Done
        }
        Request::StopLoad => {
            let loads = take(&mut guest.books().loads);
            Answer::LoadEnded(vec![LoadEnd { loops: 1000, ..LoadEnd::default() }; loads])
        }
        // The shell of a replay reads a line from the console, and prints it.
        Request::Run(program) if program.name == "shell" => {
            let mut line = String::new();
            let read =
                guest.serial().try_clone().and_then(|serial| BufReader::new(serial).read_line(&mut line));
            let printed = read.and_then(|_| guest.serial().write_all(format!("guest: {line}").as_bytes()));
            let start = printed.err().map_or_else(String::new, |error| error.to_string());
            Answer::Ran(Ran { end: ProgramEnd::Exited(0), output: Output { start, ..Output::default() } })
        }
        // A program of this name does not succeed.
        Request::Run(program) => Answer::Ran(Ran {
            end: ProgramEnd::Exited(i32::from(program.name == "failing")),
            output: Output { start: "ran\n".into(), ..Output::default() },
        }),
        // This is the answer of a kernel without counters.
        Request::Counters => Answer::Counters(Vec::new()),
        Request::Rest => Answer::Rest(guest.rest()),
        Request::Drain => Answer::Drained(guest.newest()),
        Request::Reseed { seed } => {
            guest.reseed(seed);
            Answer::Done
        }
        Request::Write { .. } | Request::Steady | Request::Listen { .. } | Request::Reboot => Answer::Done,
    }
}

/// The slot of the CPU whose ACPI name is read. In this guest it equals the CPU's number.
fn slot(path: &str) -> Option<u32> {
    path.strip_prefix("/sys/devices/system/cpu/cpu")?.strip_suffix("/firmware_node/path")?.parse().ok()
}
