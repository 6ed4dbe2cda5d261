//! Serves the host's requests. Each request that enters the kernel under test runs in a thread of
//! its own: it may take long, hang or oops, and the others go on. So the host waits for the answer
//! of a request before it sends one that must not overtake it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hotplug_protocol::{Answer, Ask, Hello, Request, VERSION};
use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::{SysconfVar, sysconf};

use crate::channel::{Lines, Outbox};
use crate::kmsg::Drainer;
use crate::load::Loads;
use crate::{counters, listening, pace, program, rest, snapshot, worker};

/// Whether writes begin at a fixed point between two ticks of the clock ([`Request::Steady`]).
static STEADY: AtomicBool = AtomicBool::new(false);

/// Serves until the port is gone.
pub(crate) fn run(mut lines: Lines, out: &Outbox, drainer: &Drainer, loads: &Arc<Loads>) -> io::Result<()> {
    loop {
        let line = lines.next()?;
        // The host sends an empty line to end any partial line from before it connected.
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(ask) => accept(ask, out, drainer, loads),
            Err(error) => {
                let start = String::from_utf8_lossy(line.get(..80).unwrap_or(&line)).into_owned();
                out.broken(format!("cannot parse a request: {error}: {start:?}"));
            }
        }
    }
}

fn accept(Ask { id, request }: Ask, out: &Outbox, drainer: &Drainer, loads: &Arc<Loads>) {
    let accepted = match request {
        Request::Hello => {
            out.answer(id, Answer::Hello(hello()));
            Ok(())
        }
        Request::Drain => drainer.ask(id),
        other => {
            let (out, loads) = (out.clone(), Arc::clone(loads));
            crate::spawn(thread_name(&other), move || out.answer(id, perform(other, &loads, &out)))
        }
    };
    if let Err(error) = accepted {
        out.answer(id, failed("start a thread", &error));
    }
}

/// The name of the thread, which kernel reports print as that of the task: at most 15 bytes.
fn thread_name(request: &Request) -> &'static str {
    match request {
        Request::Hello => "agent-hello",
        Request::Snapshot => "agent-snapshot",
        Request::Read { .. } => "agent-read",
        Request::Write { .. } | Request::WriteFailing { .. } => "agent-write",
        Request::StartLoad { .. } | Request::StopLoad => "agent-load",
        Request::Run(_) => "agent-program",
        Request::Counters => "agent-counters",
        Request::Drain => "agent-drain",
        Request::Reseed { .. } => "agent-reseed",
        Request::Steady => "agent-steady",
        Request::Listen { .. } => "agent-listen",
        Request::Rest => "agent-rest",
        Request::Reboot => "agent-reboot",
    }
}

fn perform(request: Request, loads: &Loads, out: &Outbox) -> Answer {
    match request {
        Request::Hello => Answer::Hello(hello()),
        Request::Snapshot => match snapshot::take() {
            Ok(snapshot) => Answer::Snapshot(snapshot),
            Err(error) => failed("take a snapshot", &error),
        },
        Request::Read { path, offset, length } => match read(&path, offset, length) {
            Ok(bytes) => Answer::Contents(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => failed(&format!("read {path}"), &error),
        },
        Request::Write { path, data } => {
            if STEADY.load(Ordering::Relaxed) {
                // Best effort: if this fails, times scatter more.
                let _ = worker::stay_on(&[0]);
                pace::wait_for_beat();
            }
            match write(&path, &data) {
                Ok(()) => Answer::Done,
                Err(error) => failed(&format!("write {path}"), &error),
            }
        }
        Request::WriteFailing { path, data, nth } => match write_failing(&path, &data, nth) {
            Ok((errno, is_injected)) => Answer::Injected { errno, is_injected },
            Err(error) => failed(&format!("let a write to {path} fail"), &error),
        },
        Request::Steady => {
            STEADY.store(true, Ordering::Relaxed);
            Answer::Done
        }
        Request::Listen { cpu } => match listening::on(cpu) {
            Ok(()) => Answer::Done,
            Err(error) => failed("listen on one CPU", &error),
        },
        Request::StartLoad { loads: wanted } => match loads.start(&wanted) {
            Ok(()) => Answer::Done,
            Err(error) => failed("start a load", &error),
        },
        Request::StopLoad => Answer::LoadEnded(loads.stop(out)),
        Request::Run(wanted) => match program::run(&wanted, &program::group_of_step()) {
            Ok(ran) => Answer::Ran(ran),
            Err(error) => failed(&format!("start the program {}", wanted.name), &error),
        },
        Request::Rest => match rest::read_all() {
            Ok(rest) => Answer::Rest(rest),
            Err(error) => failed("count processes and memory", &error),
        },
        Request::Counters => match counters::read() {
            Ok(all) => Answer::Counters(all),
            Err(error) => failed("read the kernel's counters", &error),
        },
        Request::Reseed { seed } => match bytes(&seed).map(worker::reseed) {
            Some(Ok(())) => Answer::Done,
            Some(Err(error)) => failed("reseed", &error),
            None => failed("reseed", &Errno::EINVAL.into()),
        },
        Request::Reboot => match reboot(RebootMode::RB_AUTOBOOT) {
            Ok(never) => match never {},
            Err(error) => failed("reboot", &error.into()),
        },
        // Answered by the reader of kernel records; see accept().
        Request::Drain => failed("drain", &Errno::EINVAL.into()),
    }
}

/// Reads a file from an offset, to its end unless a length is given.
fn read(path: &str, offset: u64, length: Option<u64>) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    if offset != 0 {
        file.seek(SeekFrom::Start(offset))?;
    }
    let mut bytes = Vec::new();
    file.take(length.unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Parses 64 hexadecimal digits.
fn bytes(seed: &str) -> Option<[u8; 32]> {
    let digits = seed.chars().map(|digit| digit.to_digit(16)).collect::<Option<Vec<_>>>()?;
    let bytes = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(high << 4 | low).ok(),
        _ => None,
    });
    bytes.collect::<Option<Vec<_>>>()?.try_into().ok()
}

/// One write(2): an attribute takes its value as a whole or not at all.
pub(crate) fn write(path: &str, data: &str) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    loop {
        match file.write(data.as_bytes()) {
            Ok(written) if written == data.len() => return Ok(()),
            Ok(_) => return Err(Errno::EIO.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Set by [`write_failing`], and taken by [`may_have_failed`].
static INJECTED: AtomicBool = AtomicBool::new(false);

/// Whether a memory allocation may have failed on purpose since the last call.
pub(crate) fn may_have_failed() -> bool {
    INJECTED.swap(false, Ordering::Relaxed)
}

/// One write(2) whose `nth` memory allocation fails. Returns its errno, and whether it had so many
/// allocations.
fn write_failing(path: &str, data: &str, nth: u32) -> io::Result<(i32, bool)> {
    let mut file = File::options().write(true).open(path)?;
    let fail = File::options().read(true).write(true).open("/proc/thread-self/fail-nth")?;
    INJECTED.store(true, Ordering::Relaxed);
    fail.write_all_at(nth.to_string().as_bytes(), 0)?;
    // From here on, every allocation of this thread counts.
    let written = file.write(data.as_bytes());
    let mut left = [0; 16];
    let length = fail.read_at(&mut left, 0);
    fail.write_all_at(b"0", 0)?;
    // The file has 0 once an allocation has failed (fs/proc/base.c, proc_fail_nth_read).
    let is_injected = left.get(..length?).is_some_and(|left| left.trim_ascii() == b"0");
    Ok((written.err().map_or(0, |error| errno(&error)), is_injected))
}

/// The errno of an error; `EIO` if no system call returned it.
pub(crate) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::EIO as i32)
}

fn failed(tried: &str, error: &io::Error) -> Answer {
    let what = match error.raw_os_error() {
        Some(number) => format!("{tried}: {}", Errno::from_raw(number)),
        None => format!("{tried}: {error}"),
    };
    Answer::Failed { errno: errno(error), what }
}

/// The identity of the agent and its guest.
pub(crate) fn hello() -> Hello {
    /// The page size of x86-64, for the case that sysconf(3) does not return it.
    const PAGE_BYTES: u64 = 4096;
    let page_bytes =
        sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|bytes| u64::try_from(bytes).ok());
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Hello {
        version: VERSION,
        release: release.trim_end().to_owned(),
        page_bytes: page_bytes.unwrap_or(PAGE_BYTES),
        block_bytes: snapshot::block_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_32_bytes_in_hexadecimal() {
        let seed = "00ff".to_owned() + &"5A".repeat(30);
        let seed = bytes(&seed).unwrap();
        assert_eq!((seed[0], seed[1], seed[31]), (0, 0xff, 0x5a));
        for wrong in [String::new(), "0".repeat(63), "0".repeat(66), "g0".repeat(32), "+1".repeat(32)] {
            assert_eq!(bytes(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_file_is_read_at_a_place() {
        let path = std::env::temp_dir().join(format!("hotplug-read-{}", std::process::id()));
        std::fs::write(&path, "0123456789").unwrap();
        let read = |offset, length| read(path.to_str().unwrap(), offset, length).unwrap();
        assert_eq!(read(0, None), b"0123456789");
        assert_eq!(read(4, Some(3)), b"456");
        assert_eq!(read(8, Some(30)), b"89");
        assert_eq!(read(20, None), b"");
        std::fs::remove_file(&path).unwrap();
    }
}
