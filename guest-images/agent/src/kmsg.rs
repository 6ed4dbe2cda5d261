//! Forwards kernel records: `/dev/kmsg` from the start of its buffer, each record as read, to a
//! port of its own.
//!
//! A record whose text does not end with a newline can be read only after another record follows,
//! since text may still be added to it (6.1 kernel/printk/printk.c, `vprintk_store()`). Draining
//! cannot change that.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use hotplug_protocol::Answer;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::channel::{self, Outbox};

/// `CONSOLE_EXT_LOG_MAX` (6.1 include/linux/printk.h:47): no record is longer.
const LONGEST_RECORD_BYTES: usize = 8 << 10;

/// Waiting records are sent together up to this size, which takes one exit to QEMU.
const BATCH_BYTES: usize = 8 << 10;

/// Only emergencies. The kernel raises the level by itself when it dies or lockdep reports:
/// `console_verbose()` in 6.1 `kernel/panic.c:324`, `arch/x86/kernel/dumpstack.c:369` and
/// `lib/debug_locks.c:43`.
const QUIET_CONSOLE: &str = "1";

/// The handle for requests to the thread that reads records.
#[derive(Debug, Clone)]
pub(crate) struct Drainer {
    requests: Sender<Drain>,
    wake: Arc<EventFd>,
}

/// One request for all records that were printed before it.
struct Drain {
    id: u64,
    /// Reads the first record printed after the request, if there is one.
    next: File,
}

impl Drainer {
    /// Requests an answer with this `id` once all records printed so far are sent.
    pub(crate) fn ask(&self, id: u64) -> io::Result<()> {
        let mut next = open()?;
        next.seek(SeekFrom::End(0))?;
        let gone = |_| io::Error::other("the reader of kernel records has ended");
        self.requests.send(Drain { id, next }).map_err(gone)?;
        self.wake.write(1)?;
        Ok(())
    }
}

/// Starts a thread that forwards records to the port.
pub(crate) fn start(node: &Path, out: Outbox) -> io::Result<Drainer> {
    let port = channel::open_port(node)?;
    let (requests, receiver) = mpsc::channel();
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let wake = Arc::new(EventFd::from_flags(flags)?);
    let mut stream = Stream { records: open()?, port, newest: None, batch: Vec::new() };
    let woken = Arc::clone(&wake);
    crate::spawn("agent-kmsg", move || {
        if let Err(error) = stream.run(&receiver, &woken, &out) {
            out.broken(format!("cannot forward kernel records: {error}"));
        }
    })?;
    Ok(Drainer { requests, wake })
}

fn open() -> io::Result<File> {
    File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/kmsg")
}

struct Stream {
    records: File,
    port: File,
    /// Sequence number of the newest record read.
    newest: Option<u64>,
    batch: Vec<u8>,
}

impl Stream {
    fn run(&mut self, requests: &Receiver<Drain>, wake: &EventFd, out: &Outbox) -> io::Result<()> {
        let mut waiting: Vec<Drain> = Vec::new();
        let mut loud = true;
        loop {
            waiting.extend(requests.try_iter());
            let more = self.read_one()?;
            if more && self.batch.len() < BATCH_BYTES {
                continue;
            }
            channel::send(&mut self.port, &self.batch)?;
            self.batch.clear();
            // Without more records, all are sent. With more, the kernel may print faster than this
            // thread sends, for ever.
            waiting.retain_mut(|drain| {
                let done =
                    !more || read_sequence(&mut drain.next).is_some_and(|next| Some(next) <= self.newest);
                if done {
                    out.answer(drain.id, Answer::Drained(self.newest));
                }
                !done
            });
            if more {
                continue;
            }
            if loud {
                // The 16550 is slow under emulation, and every task that prints waits for it.
                std::fs::write("/proc/sys/kernel/printk", QUIET_CONSOLE)?;
                loud = false;
            }
            let mut sources = [
                PollFd::new(self.records.as_fd(), PollFlags::POLLIN),
                PollFd::new(wake.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut sources, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            // The read fails unless it was the wake-up.
            let _ = wake.read();
        }
    }

    /// Adds one record to the batch. Returns false if there is none now.
    fn read_one(&mut self) -> io::Result<bool> {
        let mut record = [0; LONGEST_RECORD_BYTES];
        match self.records.read(&mut record) {
            Ok(length) => {
                let record = record.get(..length).unwrap_or_default();
                self.newest = sequence(record).or(self.newest);
                self.batch.extend_from_slice(record);
                Ok(true)
            }
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN) => Ok(false),
                // EPIPE: records were overwritten before they were read. The number of the next one
                // shows how many.
                Some(Errno::EPIPE | Errno::EINTR) => Ok(true),
                _ => Err(error),
            },
        }
    }
}

/// The sequence number of the first record at or after the file's position; `None` if there is none
/// yet.
fn read_sequence(file: &mut File) -> Option<u64> {
    let mut record = [0; LONGEST_RECORD_BYTES];
    loop {
        match file.read(&mut record) {
            Ok(length) => return sequence(record.get(..length)?),
            Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => {}
            Err(_) => return None,
        }
    }
}

/// `level,sequence,microseconds,flags[,...];text` (Documentation/ABI/testing/dev-kmsg).
fn sequence(record: &[u8]) -> Option<u64> {
    let field = record.split(|byte| *byte == b',').nth(1)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::sequence;

    #[test]
    fn records_tell_their_number() {
        assert_eq!(sequence(b"6,267,3842530,-,caller=T1;    TERM=linux\n"), Some(267));
        assert_eq!(
            sequence(b"6,99,0,-;rcu: \\x09RCU lockdep checking is enabled.\n SUBSYSTEM=pci\n"),
            Some(99)
        );
        assert_eq!(sequence(b""), None);
        assert_eq!(sequence(b"no record, at all"), None);
    }
}
