//! The fault of this process, from `HOTPLUG_FAKE=what@moment`. With `HOTPLUG_FAKE_ONCE=path` only
//! the first process that creates this file has the fault.

use std::io::{self, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use hotplug_protocol::AgentEvent;

use crate::guest::Guest;

/// When a fault occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before the monitor's greeting, in a guest that boots.
    Boot,
    /// Before the monitor's greeting, in a guest that is restored.
    Start,
    /// While the checkpoint is loaded.
    Restore,
    /// QEMU has accepted a device, and the guest has not been notified.
    Accepted,
    /// The harness sends the last requests of a trial.
    Collect,
}

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Kill,
    Abort,
    CloseMonitor,
    GarbageOnMonitor,
    HalfLineOnMonitor,
    UnknownEvent,
    FloodOfMonitor,
    FloodOfStderr,
    MuteMonitor,
    MuteAgent,
    CloseAgent,
    GarbageOfAgent,
    FloodOfAgent,
    FloodOfKernel,
    Clock,
}

/// A fault of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    what: What,
    moment: Moment,
}

impl Fault {
    /// The fault that the environment defines, if any.
    pub(crate) fn chosen() -> io::Result<Option<Self>> {
        let Ok(text) = std::env::var("HOTPLUG_FAKE") else { return Ok(None) };
        // With an unknown fault, a test would pass for the wrong reason.
        let unknown = || io::Error::other(format!("HOTPLUG_FAKE={text} is not a known fault"));
        let (what, moment) = text.split_once('@').ok_or_else(unknown)?;
        let fault = Self {
            what: Self::what(what).ok_or_else(unknown)?,
            moment: Self::moment(moment).ok_or_else(unknown)?,
        };
        Ok(Some(fault))
    }

    fn what(name: &str) -> Option<What> {
        Some(match name {
            "kill" => What::Kill,
            "abort" => What::Abort,
            "close-monitor" => What::CloseMonitor,
            "garbage-on-monitor" => What::GarbageOnMonitor,
            "half-line-on-monitor" => What::HalfLineOnMonitor,
            "unknown-event" => What::UnknownEvent,
            "flood-of-monitor" => What::FloodOfMonitor,
            "flood-of-stderr" => What::FloodOfStderr,
            "mute-monitor" => What::MuteMonitor,
            "mute-agent" => What::MuteAgent,
            "close-agent" => What::CloseAgent,
            "garbage-of-agent" => What::GarbageOfAgent,
            "flood-of-agent" => What::FloodOfAgent,
            "flood-of-kernel" => What::FloodOfKernel,
            "clock" => What::Clock,
            _ => return None,
        })
    }

    fn moment(name: &str) -> Option<Moment> {
        Some(match name {
            "boot" => Moment::Boot,
            "start" => Moment::Start,
            "restore" => Moment::Restore,
            "accepted" => Moment::Accepted,
            "collect" => Moment::Collect,
            _ => return None,
        })
    }

    /// Whether this process has the fault, if only one process may have it.
    fn is_ours() -> bool {
        match std::env::var_os("HOTPLUG_FAKE_ONCE") {
            Some(path) => std::fs::File::create_new(path).is_ok(),
            None => true,
        }
    }
}

/// Causes the fault, if this is its moment.
pub(crate) fn strike(guest: &Guest, moment: Moment) -> io::Result<()> {
    let Some(fault) = guest.fault.filter(|fault| fault.moment == moment && Fault::is_ours()) else {
        return Ok(());
    };
    match fault.what {
        What::Kill => {
            eprintln!("qemu-system-x86_64: a word before it is killed");
            Ok(nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL)?)
        }
        What::Abort => {
            eprintln!("qemu-system-x86_64: ../hw/fake.c:1: fake: Assertion `false' failed.");
            std::process::abort()
        }
        What::CloseMonitor => guest.monitor().shutdown(Shutdown::Both),
        What::GarbageOnMonitor => guest.monitor().write_all(b"\x7fELF\x1b[2J no JSON\n"),
        What::HalfLineOnMonitor => {
            guest.monitor().write_all(b"{\"return\": {}, \"id")?;
            guest.monitor().shutdown(Shutdown::Both)
        }
        What::UnknownEvent => guest.event("NEW_IN_QEMU_12", &serde_json::json!({ "x": [1, 2] })),
        What::FloodOfMonitor => loop {
            guest.event("NEW_IN_QEMU_12", &serde_json::json!({ "x": [1, 2] }))?;
        },
        What::FloodOfStderr => {
            let line =
                "qemu-system-x86_64: warning: Blocked re-entrant IO on MemoryRegion: fake\n".repeat(1000);
            (0..BYTES / line.len()).for_each(|_| eprint!("{line}"));
            Ok(())
        }
        What::MuteMonitor => loop {
            std::thread::park();
        },
        What::MuteAgent => {
            guest.mute();
            Ok(())
        }
        What::CloseAgent => guest.agent().shutdown(Shutdown::Both),
        What::GarbageOfAgent => guest.agent().write_all(b"\x1b]0;title\x07 not of the protocol\n"),
        What::FloodOfAgent => loop {
            guest.uevent("change", "/devices/system/memory/memory0")?;
        },
        What::FloodOfKernel => flood_of_kernel(guest),
        What::Clock => {
            guest.record(4, "WARNING: CPU: 0 PID: 1 at mm/fake.c:1 fake_function+0x1/0x2")?;
            for at in [0, u64::MAX, 5 * 3_600_000_000, 1, u64::MAX / 2] {
                let devpath = "/devices/system/memory/memory0".into();
                guest.say_at(at, AgentEvent::Uevent { action: "change".into(), devpath })?;
            }
            guest.record(4, "---[ end trace 0000000000000000 ]---")
        }
    }
}

/// Size of a flood in bytes.
const BYTES: usize = 100 << 20;

/// Prints to the log and to the console as fast as they are read, far more than the harness keeps
/// of either.
fn flood_of_kernel(guest: &Guest) -> io::Result<()> {
    const LIMIT: Duration = Duration::from_secs(20);
    let end = Instant::now() + LIMIT;
    let text = "a line of a kernel that has much to say, and says it again and again and again and again";
    std::thread::scope(|scope| {
        let console = scope.spawn(|| -> io::Result<()> {
            let line = format!("[    5.000000][    T1] {text}\r\n");
            let many = line.repeat(500);
            for _ in 0..BYTES / many.len() {
                guest.serial().write_all(many.as_bytes())?;
                if Instant::now() > end {
                    break;
                }
            }
            Ok(())
        });
        for _ in 0..BYTES / text.len() / 500 {
            guest.records(6, text, 500)?;
            if Instant::now() > end {
                break;
            }
        }
        console.join().unwrap_or_else(|_| Err(io::Error::other("the console's thread panicked")))
    })
}
