//! Holds tasks and vCPUs in a trial, as its schedule says.
//!
//! The machine is stopped while the harness inspects it, and so is guest time (QEMU's virtual
//! clock). All times here are times during which the guest ran. A breakpoint stops a vCPU before
//! the instruction runs. To pass it, the breakpoint is removed, or the vCPU makes a single step.

mod delays;
mod meeting;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::event_log::{Event, EventLog};
use crate::rendezvous::{Hold, HoldOutcome, LockSnapshot, Places, Task, Tasks};
use crate::scenario::{Holding, Point};
use crate::vmm::VmmEvent;
use crate::vmm::gdb::{Gdb, GdbError, Registers, Stop, Vcpu};
use crate::vmm::qmp::commands::{ContinueVcpus, QueryStatus, StopVcpus};
use crate::vmm::qmp::{Qmp, QmpError};

/// How often the harness looks for newly plugged vCPUs. They take longer than this to come online.
const NEWCOMERS: Duration = Duration::from_millis(100);

/// The holds of a trial so far. They are read when the trial has ended, however it ended.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<Vec<Hold>>);

impl Holds {
    fn push(&self, hold: Hold) -> usize {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(hold);
        all.len() - 1
    }

    fn set(&self, at: usize, hold: Hold) {
        if let Some(place) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(at) {
            *place = hold;
        }
    }

    pub(super) fn into_inner(self) -> Vec<Hold> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs all holds of `plan`, until they are done or `over` says that the lanes have ended.
/// Afterwards nothing is held.
pub(super) async fn hold(
    gdb: Gdb,
    qmp: &Qmp,
    places: &Places,
    plan: &Holding,
    event_log: &EventLog,
    holds: &Holds,
    over: &CancellationToken,
) -> Result<(), GdbError> {
    let tasks = Tasks::of(places);
    let mut holder = Holder { gdb, qmp, places, tasks, event_log, holds, over, vcpus: Vec::new() };
    for rendezvous in &plan.rendezvous {
        holder.meet(rendezvous).await?;
    }
    if !plan.delays.is_empty() {
        holder.delay(&plan.delays).await?;
    }
    holder.gdb.detach().await
}

struct Holder<'a> {
    gdb: Gdb,
    qmp: &'a Qmp,
    places: &'a Places,
    tasks: Option<Tasks<'a>>,
    event_log: &'a EventLog,
    holds: &'a Holds,
    over: &'a CancellationToken,
    /// All vCPUs at the time when the machine was last stopped.
    vcpus: Vec<Vcpu>,
}

/// A place with breakpoints.
struct Spot<'a> {
    point: &'a Point,
    addresses: &'a [u64],
    /// For a `:return`, the calls in progress: the task's address, its stack pointer after the
    /// return, and the return address.
    inside: Vec<(u64, u64, u64)>,
}

/// A task that is at a place.
#[derive(Debug, Clone)]
struct Arrival {
    vcpu: Vcpu,
    at: Registers,
    /// The address of the `task_struct`, and the task. They are 0 and `None` if the layout of the
    /// kernel's tasks is not known.
    address: u64,
    task: Option<Task>,
}

/// Why the guest was stopped again.
enum Woke {
    Trapped(Vcpu),
    Time,
    Over,
}

impl<'a> Holder<'a> {
    fn begin(&self, hold: &mut Hold, who: &Arrival) -> usize {
        hold.task.clone_from(&who.task);
        hold.at = Some(self.event_log.now());
        // This outcome stays if the trial ends before the release.
        hold.outcome = HoldOutcome::CutOff;
        self.event_log.record(Event::Held { at: hold.hold.clone(), task: hold.task.clone() });
        self.holds.push(hold.clone())
    }

    fn end(&self, place: usize, hold: &Hold) {
        self.event_log.record(Event::LetGo { at: hold.hold.clone(), outcome: hold.outcome.clone() });
        self.holds.set(place, hold.clone());
    }

    /// Sets breakpoints at a place.
    async fn spot(&mut self, point: &'a Point) -> Result<Spot<'a>, GdbError> {
        let addresses = self.places.of(point);
        for address in addresses {
            self.gdb.break_at(*address).await?;
        }
        Ok(Spot { point, addresses, inside: Vec::new() })
    }

    /// Removes the breakpoints of a place.
    async fn close(&mut self, spot: Spot<'a>) -> Result<(), GdbError> {
        let mut all = spot.addresses.to_vec();
        all.extend(spot.inside.iter().map(|(_, _, back)| *back));
        all.sort_unstable();
        all.dedup();
        for address in all {
            self.gdb.unbreak(address).await?;
        }
        Ok(())
    }

    /// Runs all vCPUs except `held` until a task is at the place. `None` if the time `left` has
    /// passed or the lanes have ended.
    async fn arrive(
        &mut self,
        spot: &mut Spot<'a>,
        held: Option<Vcpu>,
        mut left: Option<&mut Option<Duration>>,
    ) -> Result<Option<Arrival>, GdbError> {
        let mut no_limit = None;
        loop {
            let left = left.as_deref_mut().unwrap_or(&mut no_limit);
            match self.run(held.as_slice(), left).await? {
                Woke::Trapped(vcpu) => match self.look(spot, vcpu).await? {
                    Some(arrival) => return Ok(Some(arrival)),
                    None => self.gdb.step(vcpu).await?,
                },
                Woke::Time | Woke::Over => return Ok(None),
            }
        }
    }

    /// Whether a vCPU that trapped is at the place. For a `:return`, also records a task that
    /// enters the function.
    async fn look(&mut self, spot: &mut Spot<'a>, vcpu: Vcpu) -> Result<Option<Arrival>, GdbError> {
        let at = self.gdb.registers(vcpu).await?;
        let (address, task) =
            self.current(at).await?.map_or((0, None), |(address, task)| (address, Some(task)));
        let arrival = Arrival { vcpu, at, address, task };
        if spot.addresses.contains(&at.program_counter) {
            if !spot.point.is_return() {
                return Ok(Some(arrival));
            }
            self.enter(spot, &arrival).await?;
            return Ok(None);
        }
        let back = (address, at.stack_pointer, at.program_counter);
        Ok(spot.inside.contains(&back).then_some(arrival))
    }

    /// The task that a vCPU with these registers runs. `None` if the layout of the kernel's tasks
    /// is not known.
    async fn current(&mut self, at: Registers) -> Result<Option<(u64, Task)>, GdbError> {
        match &self.tasks {
            Some(tasks) => tasks.current(&mut self.gdb, at).await,
            None => Ok(None),
        }
    }

    /// All tasks with locks, while the machine is stopped. Empty if the layout of the kernel's
    /// tasks is not known.
    async fn snapshot(&mut self) -> Result<LockSnapshot, GdbError> {
        match &mut self.tasks {
            Some(tasks) => tasks.all(&mut self.gdb).await,
            None => Ok(LockSnapshot::default()),
        }
    }

    /// Records the task at a function's entry, and sets a breakpoint at the return address.
    async fn enter(&mut self, spot: &mut Spot<'a>, who: &Arrival) -> Result<(), GdbError> {
        let Some(back) = self.gdb.word(who.at.stack_pointer).await? else { return Ok(()) };
        let one = (who.address, who.at.stack_pointer.wrapping_add(8), back);
        if !spot.inside.iter().any(|(.., known)| *known == back) {
            self.gdb.break_at(back).await?;
        }
        if !spot.inside.contains(&one) {
            spot.inside.push(one);
        }
        Ok(())
    }

    /// All vCPUs except these.
    async fn others(&mut self, held: &[Vcpu]) -> Result<Vec<Vcpu>, GdbError> {
        self.vcpus = self.gdb.vcpus().await?;
        Ok(self.vcpus.iter().copied().filter(|vcpu| !held.contains(vcpu)).collect())
    }

    /// Runs all vCPUs except `held` until one traps, for `left` at most. `left` is reduced by the
    /// time that they ran.
    async fn run(&mut self, held: &[Vcpu], left: &mut Option<Duration>) -> Result<Woke, GdbError> {
        let over = self.over;
        self.run_unless(held, left, over).await
    }

    /// Like [`Self::run`], with another token for the end.
    async fn run_unless(
        &mut self,
        held: &[Vcpu],
        left: &mut Option<Duration>,
        over: &CancellationToken,
    ) -> Result<Woke, GdbError> {
        loop {
            match self.run_a_while(held, left, over).await? {
                Woke::Time if left.is_none_or(|left| !left.is_zero()) => {}
                woke => return Ok(woke),
            }
        }
    }

    /// Like [`Self::run_unless`], but also returns at intervals, so that breakpoints are set in a
    /// vCPU that was plugged meanwhile.
    async fn run_a_while(
        &mut self,
        held: &[Vcpu],
        left: &mut Option<Duration>,
        over: &CancellationToken,
    ) -> Result<Woke, GdbError> {
        if over.is_cancelled() {
            return Ok(Woke::Over);
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(Woke::Time);
        }
        let others = self.others(held).await?;
        if held.is_empty() {
            return self.run_all(left, over).await;
        }
        self.gdb.run(&others).await?;
        let began = Instant::now();
        let woke = tokio::select! {
            biased;
            stop = self.gdb.stopped() => match stop? {
                Stop::Trapped(vcpu) => Some(Woke::Trapped(vcpu)),
                // The stop was requested by QMP.
                Stop::Asked => None,
            },
            () = over.cancelled() => Some(Woke::Over),
            () = a_while(*left) => Some(Woke::Time),
        };
        // A trap may have come before the stop.
        let stop = self.gdb.stop().await?;
        if let Some(left) = left {
            *left = left.saturating_sub(began.elapsed());
        }
        match (woke, stop) {
            (Some(Woke::Trapped(vcpu)), _) | (_, Stop::Trapped(vcpu)) => Ok(Woke::Trapped(vcpu)),
            (Some(woke), Stop::Asked) => Ok(woke),
            (None, Stop::Asked) => Err(GdbError::Odd("the machine was stopped by QMP".into())),
        }
    }

    /// Runs all vCPUs, by QMP. When QEMU's stub reports a trap, it drops all translated code
    /// (gdbstub/system.c, `gdb_vm_state_change()`), which takes a guest 50 ms to rebuild. If QMP
    /// resumed the machine, the stub reports no trap.
    async fn run_all(
        &mut self,
        left: &mut Option<Duration>,
        over: &CancellationToken,
    ) -> Result<Woke, GdbError> {
        let monitor = |error: QmpError| GdbError::Gone(format!("QEMU's monitor: {error}"));
        let mut heard = self.event_log.listen();
        self.qmp.execute(ContinueVcpus {}).await.map_err(monitor)?;
        self.gdb.other_word(true);
        let qmp = self.qmp;
        let stands = async {
            let stop = |what: &Event| matches!(what, Event::Vmm(VmmEvent::Stopped)).then_some(());
            // The event log ends with the machine. The event may be of an earlier stop, which the
            // stub has reported.
            while heard.until(stop).await.is_ok() {
                if !qmp.execute(QueryStatus {}).await.map_err(monitor)?.running {
                    break;
                }
            }
            Ok::<_, GdbError>(())
        };
        let began = Instant::now();
        let woke = tokio::select! {
            biased;
            stands = stands => {
                stands?;
                None
            }
            () = over.cancelled() => Some(Woke::Over),
            () = a_while(*left) => Some(Woke::Time),
        };
        // This has no effect on a stopped machine.
        self.qmp.execute(StopVcpus {}).await.map_err(monitor)?;
        self.gdb.other_word(false);
        if let Some(left) = left {
            *left = left.saturating_sub(began.elapsed());
        }
        // A vCPU may have been unplugged meanwhile.
        let all = self.others(&[]).await?;
        match (self.gdb.trapped(&all).await?, woke) {
            (Some(vcpu), _) => Ok(Woke::Trapped(vcpu)),
            (None, Some(woke)) => Ok(woke),
            (None, None) => {
                let places = self.gdb.places(&all).await?;
                Err(GdbError::Odd(format!("the machine was stopped without a trap: {places}")))
            }
        }
    }

    /// Runs all vCPUs except these for a time, whatever traps.
    async fn pause(&mut self, left: &mut Option<Duration>, held: &[Vcpu]) -> Result<(), GdbError> {
        while let Woke::Trapped(vcpu) = self.run(held, left).await? {
            self.gdb.step(vcpu).await?;
        }
        Ok(())
    }
}

/// Waits for the time that the machine runs at once, out of `left`.
async fn a_while(left: Option<Duration>) {
    tokio::time::sleep(left.map_or(NEWCOMERS, |left| left.min(NEWCOMERS))).await;
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
