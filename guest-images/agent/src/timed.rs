//! The time of each loop of a timed load. The worker writes it to the file of its count, and the
//! agent reads the file when the worker has been killed.
//!
//! The worker writes with `pwrite(2)`, outside of the timed part. The file keeps the records
//! however the worker ends, and also shows that it was in the middle of a loop.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use hotplug_protocol::{GuestTime, LoopTime};

use crate::pace::now;

/// The offset of the start time of the current loop, in nanoseconds of `CLOCK_MONOTONIC`; 0 between
/// two loops. The count is before it.
const BEGAN_AT: u64 = 8;
/// The offset of the records: the start and the duration of a loop, in nanoseconds.
const FIRST_AT: u64 = 16;
const RECORD_BYTES: usize = 16;

/// The number of loops of a worker that are recorded. Later ones are not.
const MOST: u64 = 1 << 16;

/// The worker's side of the file.
#[derive(Debug)]
pub(crate) struct Times<'a> {
    file: &'a File,
    written: u64,
}

impl<'a> Times<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        Self { file, written: 0 }
    }

    /// Records that a loop begins.
    pub(crate) fn begin(&self) -> io::Result<Duration> {
        let began = now();
        self.file.write_all_at(&nanoseconds(began).to_ne_bytes(), BEGAN_AT)?;
        // The clock is read again, because the write is not part of the loop.
        Ok(now())
    }

    /// Records that a loop ended. It does not count if it was refused.
    pub(crate) fn end(&mut self, began: Duration, is_done: bool) -> io::Result<()> {
        let took = now().saturating_sub(began);
        if is_done && self.written < MOST {
            let mut record = [0; RECORD_BYTES];
            record[..8].copy_from_slice(&nanoseconds(began).to_ne_bytes());
            record[8..].copy_from_slice(&nanoseconds(took).to_ne_bytes());
            self.file.write_all_at(&record, FIRST_AT + self.written * RECORD_BYTES as u64)?;
            self.written += 1;
        }
        self.file.write_all_at(&[0; 8], BEGAN_AT)
    }
}

/// The loops in the file of an ended worker, and the loop that it was in.
pub(crate) fn read(file: &File) -> io::Result<(Vec<LoopTime>, Option<LoopTime>)> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut all = vec![0; length];
    file.read_exact_at(&mut all, 0)?;
    let number = |at: &[u8]| at.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    let place = |offset: u64| all.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
    let loop_time = |began: u64, nanoseconds: u64| LoopTime { began: GuestTime(began / 1000), nanoseconds };
    let records = place(FIRST_AT).chunks_exact(RECORD_BYTES);
    let times = records.map(|record| loop_time(number(record), number(&record[8..]))).collect();
    let began = number(place(BEGAN_AT));
    let unfinished = (began > 0).then(|| loop_time(began, nanoseconds(now()).saturating_sub(began)));
    Ok((times, unfinished))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_and_the_one_that_never_ended_are_read() {
        let file = tempfile();
        assert_eq!(read(&file).unwrap(), (Vec::new(), None));
        let mut times = Times::new(&file);
        for is_done in [true, false, true] {
            let began = times.begin().unwrap();
            times.end(began, is_done).unwrap();
        }
        let (two, none) = read(&file).unwrap();
        assert_eq!((two.len(), none), (2, None));
        assert!(two[0].began <= two[1].began && two[1].nanoseconds < 10_000_000_000);
        let began = times.begin().unwrap();
        let (two, stuck) = read(&file).unwrap();
        let stuck = stuck.unwrap();
        assert_eq!(two.len(), 2);
        assert!(stuck.began.0 <= u64::try_from(began.as_micros()).unwrap() && stuck.nanoseconds > 0);
    }

    fn tempfile() -> File {
        let path = std::env::temp_dir().join(format!("hotplug-timed-{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }
}
