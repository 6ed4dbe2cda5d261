//! The agent's side of loads: starts worker processes, collects their results, ends them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use hotplug_protocol::{Failures, Load, LoadEnd};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::channel::Outbox;
use crate::{program, timed, worker};

/// The time in which a worker may end its last loop before it is killed, in milliseconds.
const LAST_LOOP: u16 = 300;

/// The running loads, in the order in which they were started.
#[derive(Debug, Default)]
pub(crate) struct Loads(Mutex<Vec<Vec<Worker>>>);

impl Loads {
    /// Starts all of `wanted` and waits until each worker is in its loop. On an error all of them
    /// are ended.
    pub(crate) fn start(&self, wanted: &[Load]) -> io::Result<()> {
        let mut started: Vec<Vec<Worker>> = Vec::new();
        for load in wanted {
            let mut workers = Vec::new();
            for _ in 0..load.workers.max(1) {
                workers.push(Worker::start(load)?);
            }
            started.push(workers);
        }
        for worker in started.iter_mut().flatten() {
            worker.wait_for_start()?;
        }
        self.lock().extend(started);
        Ok(())
    }

    /// Ends all loads, waits for them, and returns their results.
    pub(crate) fn stop(&self, out: &Outbox) -> Vec<LoadEnd> {
        // The list is emptied first. A worker that is stuck in the kernel then delays only this
        // request.
        let mut loads = std::mem::take(&mut *self.lock());
        for worker in loads.iter_mut().flatten() {
            if let Some(failure) = worker.failure() {
                out.broken(format!("a load ended by itself: {failure}"));
            }
            worker.ask_to_end();
            let _ = worker.child.kill();
        }
        let end = |workers: Vec<Worker>| {
            workers.into_iter().map(Worker::end).fold(LoadEnd::default(), |mut all, one| {
                all.loops += one.loops;
                all.failures = match (all.failures, one.failures) {
                    (Some(some), Some(more)) => {
                        Some(Failures { number: some.number + more.number, last: more.last })
                    }
                    (some, more) => some.or(more),
                };
                all.times.extend(one.times);
                all.unfinished.extend(one.unfinished);
                all
            })
        };
        loads.into_iter().map(end).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Worker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One process of a load. Dropping it kills the process and waits for its end.
#[derive(Debug)]
struct Worker {
    child: Child,
    /// The file for the count and the times of the worker. It can be read however the worker ends.
    loops: File,
    is_timed: bool,
    ends_after_its_loop: bool,
}

impl Worker {
    fn start(load: &Load) -> io::Result<Self> {
        let unnamed = OFlag::O_TMPFILE.bits();
        let loops = File::options().read(true).write(true).custom_flags(unnamed).open("/run")?;
        let mut command = Command::new("/init");
        command
            .arg("load")
            .arg(serde_json::to_string(load)?)
            .stdin(Stdio::null())
            .stdout(loops.try_clone()?)
            .stderr(Stdio::piped());
        let ends_after_its_loop = worker::ends_after_its_loop(load.kind);
        Ok(Self { child: command.spawn()?, loops, is_timed: load.timed, ends_after_its_loop })
    }

    /// Waits until the worker writes [`worker::STARTED`] or an error message.
    fn wait_for_start(&mut self) -> io::Result<()> {
        let Some(stderr) = &mut self.child.stderr else {
            return Ok(());
        };
        let mut said = [0];
        match (stderr.read(&mut said)?, said) {
            (1, [worker::STARTED]) => Ok(()),
            (length, said) => {
                let mut why = said.get(..length).unwrap_or_default().to_vec();
                stderr.read_to_end(&mut why)?;
                Err(io::Error::other(format!(
                    "a worker did not start: {}",
                    String::from_utf8_lossy(&why).trim_end()
                )))
            }
        }
    }

    /// Lets a worker that must not be cut off end its loop, for at most [`LAST_LOOP`].
    fn ask_to_end(&self) {
        let (Ok(pid), Some(stderr)) = (self.child.id().try_into(), &self.child.stderr) else { return };
        if self.ends_after_its_loop && kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok() {
            // Its end closes the pipe.
            let _ = poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::empty())], LAST_LOOP);
        }
    }

    /// The error with which the worker ended by itself. A signal does not count: the OOM killer may
    /// have ended it.
    fn failure(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        status.code()?;
        let mut why = String::new();
        self.child.stderr.as_mut()?.read_to_string(&mut why).ok()?;
        Some(format!("{status}: {}", why.trim_end()))
    }

    /// Waits for the killed process, and returns its result.
    fn end(mut self) -> LoadEnd {
        // Before the wait: a worker that is stuck in the kernel ends only when the kernel releases
        // it.
        let told =
            if self.is_timed { timed::read(&self.loops).unwrap_or_default() } else { Default::default() };
        let _ = self.child.wait();
        let mut count = [0; worker::COUNT_BYTES.get()];
        // The file is shorter if the worker has not reached its loop.
        let is_read = self.loops.read_exact_at(&mut count, 0).is_ok();
        let loops = if is_read { u64::from_ne_bytes(count) } else { 0 };
        let failures = program::failures(self.child.id());
        LoadEnd { loops, failures, times: told.0, unfinished: told.1.into_iter().collect() }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        worker::clean_up(self.child.id());
    }
}
