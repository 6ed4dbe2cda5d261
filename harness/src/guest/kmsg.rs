//! The kernel's log records, as the agent forwards them. They are kept raw, and their sequence
//! numbers are tracked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hotplug_protocol::GuestTime;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::event_log::EventLog;
use crate::output::Output;

/// The number of bytes that hold the priority, the sequence number and the time of a record.
const HEAD: usize = 80;

/// `KERN_WARNING` (`include/linux/kern_levels.h`), the level of lockdep's reports.
const WARNING: u64 = 4;

/// The progress of the stream.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// The newest sequence number received.
    newest: Option<u64>,
    /// The number of lost records: those missing between received ones, because the kernel
    /// overwrote them before the agent read them, and those for which the file had no room.
    lost: u64,
    /// When the last record of level `KERN_WARNING` or worse arrived.
    warned: Option<Instant>,
    /// Whether the last line has arrived only in part.
    in_line: bool,
}

impl Progress {
    /// Counts the record `sequence`. The number comes from the guest and may be any.
    fn take(&mut self, sequence: u64) {
        let missing = self.newest.map_or(0, |newest| sequence.saturating_sub(newest.saturating_add(1)));
        self.lost = self.lost.saturating_add(missing);
        self.newest = Some(sequence);
    }
}

/// The reader of one guest's kernel records.
#[derive(Debug)]
pub struct Kmsg {
    progress: watch::Receiver<Progress>,
    output: Output,
    task: JoinHandle<std::io::Result<()>>,
}

impl Kmsg {
    /// Appends everything to `file` until the stream ends. `newest` is the sequence number of the
    /// last record before the stream, if earlier records of the guest were read elsewhere, as those
    /// of a checkpoint were.
    pub async fn read(
        stream: UnixStream,
        file: &Path,
        newest: Option<u64>,
        event_log: Arc<EventLog>,
    ) -> std::io::Result<Self> {
        let (tell, progress) = watch::channel(Progress { newest, ..Progress::default() });
        let output = Output::create(file).await?;
        let written = output.clone();
        let task = tokio::spawn(async move {
            let mut stream = BufReader::with_capacity(1 << 16, stream);
            // The start of the current line. The socket may split a line anywhere.
            let mut head: Vec<u8> = Vec::with_capacity(HEAD);
            loop {
                // This does not use `read_until()`, because a guest that never ends its line would
                // fill the host's memory.
                let chunk = match stream.fill_buf().await {
                    Ok([]) | Err(_) => break,
                    Ok(chunk) => chunk,
                };
                let mut log = written.lock().await;
                log.append(chunk).await.inspect_err(|error| event_log.fail(error))?;
                let mut so_far = *tell.borrow();
                for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
                    head.extend_from_slice(&piece[..piece.len().min(HEAD - head.len())]);
                    if piece.ends_with(b"\n") {
                        if let Some(Head { level, sequence, time }) = Head::of(&head) {
                            so_far.take(sequence);
                            if let Some(time) = time {
                                event_log.printed(time);
                            }
                            if level <= WARNING {
                                so_far.warned = Some(Instant::now());
                            }
                            so_far.lost = so_far.lost.saturating_add(log.is_full().into());
                        }
                        head.clear();
                    }
                }
                so_far.in_line = !head.is_empty();
                tell.send_replace(so_far);
                drop(log);
                let taken = chunk.len();
                stream.consume(taken);
            }
            written.finish().await
        });
        Ok(Self { progress, output, task })
    }

    /// Waits until the record `sequence` has arrived, for `limit` at most. Returns whether it has.
    pub async fn reached(&self, sequence: u64, limit: Duration) -> bool {
        let mut progress = self.progress.clone();
        let wait = progress.wait_for(|p| p.newest.is_some_and(|newest| newest >= sequence));
        tokio::time::timeout(limit, wait).await.is_ok_and(|reached| reached.is_ok())
    }

    /// Waits until no record has arrived for `quiet`. Safe to cancel.
    pub async fn silent_for(&self, quiet: Duration) {
        let mut progress = self.progress.clone();
        while tokio::time::timeout(quiet, progress.changed()).await.is_ok_and(|changed| changed.is_ok()) {}
    }

    /// Waits until no record of level `KERN_WARNING` or worse has arrived for `quiet`, for `limit`
    /// at most. Safe to cancel.
    pub async fn calm_for(&self, quiet: Duration, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let warned = self.progress.borrow().warned;
            let Some(calm) = warned.map(|warned| warned + quiet).filter(|calm| *calm > Instant::now()) else {
                return;
            };
            if calm > end {
                return;
            }
            tokio::time::sleep_until(calm).await;
        }
    }

    /// Ends the file of the current trial, unless a record has arrived only in part. Returns whether
    /// it did.
    pub(crate) async fn pause(&self) -> std::io::Result<bool> {
        let mut output = self.output.lock().await;
        if self.progress.borrow().in_line {
            return Ok(false);
        }
        output.pause().await.map(|()| true)
    }

    /// Begins the file of the next trial.
    pub(crate) async fn resume(&self, file: &Path) -> std::io::Result<()> {
        self.output.resume(file).await
    }

    /// The file of each trial.
    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    /// The number of records lost so far.
    pub fn lost(&self) -> u64 {
        self.progress.borrow().lost
    }

    /// Waits for the end of the stream, which comes when QEMU exits, and for the file to be
    /// written.
    pub async fn finish(self) -> std::io::Result<()> {
        self.task.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))?;
        // The stream may have ended between two trials.
        self.output.finish().await
    }
}

/// The beginning of a record, such as `6,339,5140900,-;text` (Documentation/ABI/testing/dev-kmsg).
struct Head {
    /// The priority without its facility.
    level: u64,
    sequence: u64,
    /// Its time stamp. The guest may send any text.
    time: Option<GuestTime>,
}

impl Head {
    /// Parses the first line of a record. `None` for continuation lines, which begin with a space.
    fn of(line: &[u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |b| *b == b',');
        let (priority, sequence, time) = (fields.next()?, fields.next()?, fields.next()?);
        let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<u64>().ok();
        let level = number(priority)? & 7;
        Some(Self { level, sequence: number(sequence)?, time: number(time).map(GuestTime) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn numbers_that_no_kernel_gives_are_no_harm() {
        let mut progress = Progress { newest: Some(u64::MAX), lost: u64::MAX, ..Progress::default() };
        for sequence in [u64::MAX, 0, u64::MAX] {
            progress.take(sequence);
        }
        assert_eq!((progress.newest, progress.lost), (Some(u64::MAX), u64::MAX));
    }

    #[tokio::test]
    async fn gaps_are_counted_and_bytes_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kmsg.log");
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let event_log = EventLog::create(&dir.path().join("events.jsonl")).unwrap();
        let kmsg = Kmsg::read(ours, &path, Some(0), event_log).await.unwrap();
        let text = b"6,1,10,-;a\n SUBSYSTEM=cpu\n4,2,11,-,caller=T1;b\xff\nnonsense\n3,7,12,-;c\n";
        // The cut is inside a sequence number.
        for piece in [&text[..2], &text[2..31], &text[31..]] {
            theirs.write_all(piece).await.unwrap();
            theirs.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(kmsg.reached(7, Duration::from_secs(30)).await);
        assert_eq!(kmsg.lost(), 4);
        assert!(!kmsg.reached(8, Duration::from_millis(1)).await);
        // The next trial begins with a whole record.
        theirs.write_all(b"6,8,").await.unwrap();
        while kmsg.pause().await.unwrap() {
            kmsg.resume(&path).await.unwrap();
            theirs.write_all(text).await.unwrap();
            theirs.write_all(b"6,8,").await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(theirs);
        kmsg.finish().await.unwrap();
        assert!(fs_err::read(&path).unwrap().ends_with(b"6,8,"));
    }
}
