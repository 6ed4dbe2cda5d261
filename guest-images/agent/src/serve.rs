//! The host's requests. Each that touches the kernel under test runs in a thread of its own: it may take long, hang
//! or oops, and the others go on. So requests that must not overtake each other wait for their answers.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use hotplug_protocol::{Answer, Ask, Hello, Request, VERSION};
use nix::errno::Errno;
use nix::unistd::{SysconfVar, sysconf};

use crate::channel::{Lines, Outbox};
use crate::kmsg::Drainer;
use crate::load::Loads;
use crate::snapshot;

/// Serves until the port is gone.
pub(crate) fn run(mut lines: Lines, out: &Outbox, drainer: &Drainer, loads: &Arc<Loads>) -> io::Result<()> {
    loop {
        let line = lines.next()?;
        // An empty line lets the host end whatever was said before it connected.
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(ask) => accept(ask, out, drainer, loads),
            Err(error) => {
                let start = String::from_utf8_lossy(line.get(..80).unwrap_or(&line)).into_owned();
                out.broken(format!("cannot make sense of a request: {error}: {start:?}"));
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
        out.answer(id, failed("start it", &error));
    }
}

/// What kernel reports call the task: 15 bytes at most.
fn thread_name(request: &Request) -> &'static str {
    match request {
        Request::Hello => "agent-hello",
        Request::Snapshot => "agent-snapshot",
        Request::Read { .. } => "agent-read",
        Request::Write { .. } => "agent-write",
        Request::StartLoad { .. } | Request::StopLoad => "agent-load",
        Request::Drain => "agent-drain",
    }
}

fn perform(request: Request, loads: &Loads, out: &Outbox) -> Answer {
    match request {
        Request::Hello => Answer::Hello(hello()),
        Request::Snapshot => match snapshot::take() {
            Ok(snapshot) => Answer::Snapshot(snapshot),
            Err(error) => failed("take a snapshot", &error),
        },
        Request::Read { path } => match std::fs::read(&path) {
            Ok(bytes) => Answer::Contents(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => failed(&format!("read {path}"), &error),
        },
        Request::Write { path, data } => match write(&path, &data) {
            Ok(()) => Answer::Done,
            Err(error) => failed(&format!("write {path}"), &error),
        },
        Request::StartLoad { loads: wanted } => match loads.start(&wanted) {
            Ok(()) => Answer::Done,
            Err(error) => failed("start a load", &error),
        },
        Request::StopLoad => Answer::LoadEnded(loads.stop(out)),
        // Answered by the reader of kernel records; see accept().
        Request::Drain => failed("drain", &Errno::EINVAL.into()),
    }
}

/// One write(2): an attribute takes its value whole or not at all.
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

/// The error's number; `EIO` for one that no system call gave.
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

/// Who we are.
pub(crate) fn hello() -> Hello {
    /// What every x86-64 has, should sysconf(3) not say.
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
