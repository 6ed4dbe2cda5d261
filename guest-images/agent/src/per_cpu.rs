//! Loads with state on each CPU, which has to move or to end when the CPU goes: timers, perf events,
//! and a task with deadlines.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::worker::{Loop, lacks};
use crate::{snapshot, worker};

/// Timers, some on each CPU. Those of a CPU that goes move to another one
/// (kernel/time/hrtimer.c, `hrtimers_cpu_dying`).
#[derive(Debug)]
pub(crate) struct Timers {
    timers: Vec<TimerFd>,
    loops: usize,
}

impl Timers {
    /// The number of timers of a worker.
    const COUNT: usize = 32;

    pub(crate) fn new() -> io::Result<Self> {
        let new = |_| TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty());
        let timers: Result<_, Errno> = (0..Self::COUNT).map(new).collect();
        Ok(Self { timers: timers?, loops: 0 })
    }
}

impl Loop for Timers {
    /// Starts one timer, on the next CPU. It expires some milliseconds later.
    fn once(&mut self) -> io::Result<()> {
        self.loops = self.loops.wrapping_add(1);
        let online = snapshot::cpus("online")?;
        if let Some(cpu) = online.get(self.loops % online.len().max(1)) {
            // The CPU may have gone.
            let _ = worker::stay_on(&[*cpu]);
        }
        let after = Duration::from_millis(20 + 7 * u64::try_from(self.loops % 40).unwrap_or(0));
        if let Some(timer) = self.timers.get(self.loops % Self::COUNT) {
            let expiration = Expiration::OneShot(TimeSpec::from_duration(after));
            timer.set(expiration, TimerSetTimeFlags::empty())?;
        }
        Ok(())
    }
}

/// An open perf event on each CPU (kernel/events/core.c, `perf_event_exit_cpu`).
#[derive(Debug)]
pub(crate) struct PerfEvents(Vec<(u32, File)>);

impl PerfEvents {
    pub(crate) fn new() -> io::Result<Self> {
        let event = event(0).map_err(lacks("perf_event_open(2)", "CONFIG_PERF_EVENTS"))?;
        Ok(Self(vec![(0, event)]))
    }
}

impl Loop for PerfEvents {
    /// Reads the events, and opens one for each CPU that came.
    fn once(&mut self) -> io::Result<()> {
        let online = snapshot::cpus("online")?;
        self.0.retain(|(cpu, _)| online.contains(cpu));
        for cpu in online {
            // The CPU may have gone.
            if let (false, Ok(event)) = (self.0.iter().any(|(known, _)| *known == cpu), event(cpu)) {
                self.0.push((cpu, event));
            }
        }
        for (_, event) in &mut self.0 {
            // The event of a CPU that went reads as nothing.
            let _ = io::Read::read(event, &mut [0; 8])?;
        }
        Ok(())
    }
}

/// A clock that samples one CPU (`include/uapi/linux/perf_event.h`, `struct perf_event_attr`).
#[expect(unsafe_code, reason = "no safe call covers perf_event_open(2)")]
fn event(cpu: u32) -> io::Result<File> {
    /// The first members of the structure; the kernel takes those that it is not given as zero.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        size: u32,
        config: u64,
        period: u64,
        rest: [u64; 5],
    }
    const SOFTWARE: u32 = 1;
    const CPU_CLOCK: u64 = 0;
    /// `PERF_FLAG_FD_CLOEXEC`.
    const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
    /// `PERF_ATTR_SIZE_VER0`.
    const SIZE: u32 = 64;
    let attributes =
        Attributes { kind: SOFTWARE, size: SIZE, config: CPU_CLOCK, period: 10_000_000, rest: [0; 5] };
    let (all, cpu) = (-1_i32, libc::c_long::from(cpu));
    // SAFETY: the structure has the size that it says, and outlives the call.
    let opened = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attributes, all, cpu, -1_i32, CLOSE_ON_EXEC)
    };
    let fd = Errno::result(opened)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the system call has just returned the descriptor, which no other code has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// A task that gets 1 of each 10 milliseconds (Documentation/scheduler/sched-deadline.rst). A CPU
/// may go only if the others have the bandwidth.
#[derive(Debug)]
pub(crate) struct Deadline;

impl Deadline {
    #[expect(unsafe_code, reason = "no safe call covers sched_setattr(2)")]
    pub(crate) fn new() -> io::Result<Self> {
        /// `struct sched_attr` (include/uapi/linux/sched/types.h).
        #[repr(C)]
        struct Attributes {
            size: u32,
            policy: u32,
            flags: u64,
            nice: i32,
            priority: u32,
            runtime: u64,
            deadline: u64,
            period: u64,
        }
        const DEADLINE: u32 = 6;
        let attributes = Attributes {
            size: 48,
            policy: DEADLINE,
            flags: 0,
            nice: 0,
            priority: 0,
            runtime: 1_000_000,
            deadline: 10_000_000,
            period: 10_000_000,
        };
        // SAFETY: the structure has the size that it says, and outlives the call.
        Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })?;
        Ok(Self)
    }
}

impl Loop for Deadline {
    /// Gives the rest of this period back, and sleeps until the next.
    fn once(&mut self) -> io::Result<()> {
        std::thread::yield_now();
        Ok(())
    }
}
