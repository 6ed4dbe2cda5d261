//! Holding vCPUs in a trial, as its schedule says.
//!
//! The machine stands whenever this side looks, and guest time with it (QEMU's virtual clock): every time here is one in which
//! the guest ran. Breakpoints stop before the instruction runs; who is let go is past it either because the breakpoint is
//! gone or by a step of its own.

mod delays;
mod meeting;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::event_log::{Happening, Journal};
use crate::gdb::{Gdb, GdbError, Registers, Stop, Vcpu};
use crate::qmp::commands::{ContinueVcpus, QueryStatus, StopVcpus};
use crate::qmp::{Qmp, QmpError};
use crate::rendezvous::{Hold, HoldOutcome, Places, Snapshot, Task, Tasks};
use crate::scenario::{Holding, Point};

/// How often it is looked for vCPUs that were plugged. They take longer to come online.
const NEWCOMERS: Duration = Duration::from_millis(100);

/// What was held in a trial so far. Read when the trial has ended, however it has.
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

/// Holds vCPUs until everything was held or `over` says that the lanes have ended. Afterwards nobody is held.
pub(super) async fn hold(
    gdb: Gdb,
    qmp: &Qmp,
    places: &Places,
    plan: &Holding,
    journal: &Journal,
    holds: &Holds,
    over: &CancellationToken,
) -> Result<(), GdbError> {
    let tasks = Tasks::of(places);
    let mut holder = Holder { gdb, qmp, places, tasks, journal, holds, over, vcpus: Vec::new() };
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
    journal: &'a Journal,
    holds: &'a Holds,
    over: &'a CancellationToken,
    /// All there were when the machine last stood.
    vcpus: Vec<Vcpu>,
}

/// A place that is watched.
struct Spot<'a> {
    point: &'a Point,
    addresses: &'a [u64],
    /// Of a `:return`: who came in, the stack pointer that it will have returned with, and the address it returns to.
    inside: Vec<(u64, u64, u64)>,
}

/// Somebody is at a place.
#[derive(Debug, Clone)]
struct Arrival {
    vcpu: Vcpu,
    at: Registers,
    /// Its `task_struct` and who that is; 0 and none where the kernel's image does not tell.
    address: u64,
    task: Option<Task>,
}

/// Why the guest stands again.
enum Woke {
    Trapped(Vcpu),
    Time,
    Over,
}

impl<'a> Holder<'a> {
    fn begin(&self, hold: &mut Hold, who: &Arrival) -> usize {
        hold.task.clone_from(&who.task);
        hold.at = Some(self.journal.now());
        // Of a trial that ends before it is let go.
        hold.outcome = HoldOutcome::CutOff;
        self.journal.record(Happening::Held { at: hold.hold.clone(), task: hold.task.clone() });
        self.holds.push(hold.clone())
    }

    fn end(&self, place: usize, hold: &Hold) {
        self.journal.record(Happening::LetGo { at: hold.hold.clone(), outcome: hold.outcome.clone() });
        self.holds.set(place, hold.clone());
    }

    /// Has everybody stop at a place.
    async fn spot(&mut self, point: &'a Point) -> Result<Spot<'a>, GdbError> {
        let addresses = self.places.of(point);
        for address in addresses {
            self.gdb.break_at(*address).await?;
        }
        Ok(Spot { point, addresses, inside: Vec::new() })
    }

    /// Has nobody stop there any more.
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

    /// Lets all but `held` run until somebody is at the place; none when `left` is over, or the lanes are.
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

    /// Whether a vCPU that trapped is at the place, or on the way to it.
    async fn look(&mut self, spot: &mut Spot<'a>, vcpu: Vcpu) -> Result<Option<Arrival>, GdbError> {
        let at = self.gdb.registers(vcpu).await?;
        let (address, task) =
            self.current(at).await?.map_or((0, None), |(address, task)| (address, Some(task)));
        let arrival = Arrival { vcpu, at, address, task };
        if spot.addresses.contains(&at.rip) {
            if !spot.point.is_return() {
                return Ok(Some(arrival));
            }
            self.enter(spot, &arrival).await?;
            return Ok(None);
        }
        let back = (address, at.rsp, at.rip);
        Ok(spot.inside.contains(&back).then_some(arrival))
    }

    /// The task that a vCPU runs which is there; none where the kernel's image does not tell.
    async fn current(&mut self, at: Registers) -> Result<Option<(u64, Task)>, GdbError> {
        match &self.tasks {
            Some(tasks) => tasks.current(&mut self.gdb, at).await,
            None => Ok(None),
        }
    }

    /// All tasks, as they are while the machine stands; nobody where the kernel's image does not tell.
    async fn snapshot(&mut self) -> Result<Snapshot, GdbError> {
        match &mut self.tasks {
            Some(tasks) => tasks.all(&mut self.gdb).await,
            None => Ok(Snapshot::default()),
        }
    }

    /// Notes who is at a function's entry, and has it stop where it returns to.
    async fn enter(&mut self, spot: &mut Spot<'a>, who: &Arrival) -> Result<(), GdbError> {
        let Some(back) = self.gdb.word(who.at.rsp).await? else { return Ok(()) };
        let one = (who.address, who.at.rsp.wrapping_add(8), back);
        if !spot.inside.iter().any(|(.., known)| *known == back) {
            self.gdb.break_at(back).await?;
        }
        if !spot.inside.contains(&one) {
            spot.inside.push(one);
        }
        Ok(())
    }

    /// All vCPUs but these.
    async fn others(&mut self, held: &[Vcpu]) -> Result<Vec<Vcpu>, GdbError> {
        self.vcpus = self.gdb.vcpus().await?;
        Ok(self.vcpus.iter().copied().filter(|vcpu| !held.contains(vcpu)).collect())
    }

    /// Lets all but these run until somebody traps, for `left` at most, which is made less by the time that they ran.
    async fn run(&mut self, held: &[Vcpu], left: &mut Option<Duration>) -> Result<Woke, GdbError> {
        let over = self.over;
        self.run_unless(held, left, over).await
    }

    /// The same, unless `over`.
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

    /// The same, and back at times, so that a vCPU that was plugged meanwhile breaks like all others.
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
                // By somebody else's word.
                Stop::Asked => None,
            },
            () = over.cancelled() => Some(Woke::Over),
            () = a_while(*left) => Some(Woke::Time),
        };
        // A trap may have come first.
        let stop = self.gdb.stop().await?;
        if let Some(left) = left {
            *left = left.saturating_sub(began.elapsed());
        }
        match (woke, stop) {
            (Some(Woke::Trapped(vcpu)), _) | (_, Stop::Trapped(vcpu)) => Ok(Woke::Trapped(vcpu)),
            (Some(woke), Stop::Asked) => Ok(woke),
            (None, Stop::Asked) => Err(GdbError::Odd("somebody else stopped the machine".into())),
        }
    }

    /// The same of all vCPUs, by QMP: at each trap that it has to tell of QEMU's stub drops all that was translated (gdbstub/system.c,
    /// `gdb_vm_state_change()`), which a guest takes 50 ms to have again. Of a machine that runs by another's word it tells none.
    async fn run_all(
        &mut self,
        left: &mut Option<Duration>,
        over: &CancellationToken,
    ) -> Result<Woke, GdbError> {
        let monitor = |error: QmpError| GdbError::Gone(format!("QEMU's monitor: {error}"));
        let mut heard = self.journal.listen();
        self.qmp.execute(ContinueVcpus {}).await.map_err(monitor)?;
        self.gdb.other_word(true);
        let qmp = self.qmp;
        let stands = async {
            let stop = |what: &Happening| {
                matches!(what, Happening::Qmp { event, .. } if event == "STOP").then_some(())
            };
            // The journal ends with the machine. An event may be an earlier stop's, which this side was told by the stub.
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
        // Of a machine that stands it changes nothing.
        self.qmp.execute(StopVcpus {}).await.map_err(monitor)?;
        self.gdb.other_word(false);
        if let Some(left) = left {
            *left = left.saturating_sub(began.elapsed());
        }
        // One may have been unplugged meanwhile.
        let all = self.others(&[]).await?;
        match (self.gdb.trapped(&all).await?, woke) {
            (Some(vcpu), _) => Ok(Woke::Trapped(vcpu)),
            (None, Some(woke)) => Ok(woke),
            (None, None) => Err(GdbError::Odd("somebody else stopped the machine".into())),
        }
    }

    /// Lets all but these run for a time, whatever traps.
    async fn pause(&mut self, left: &mut Option<Duration>, held: &[Vcpu]) -> Result<(), GdbError> {
        while let Woke::Trapped(vcpu) = self.run(held, left).await? {
            self.gdb.step(vcpu).await?;
        }
        Ok(())
    }
}

/// As long as the machine runs at a time, of what is `left`.
async fn a_while(left: Option<Duration>) {
    tokio::time::sleep(left.map_or(NEWCOMERS, |left| left.min(NEWCOMERS))).await;
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
