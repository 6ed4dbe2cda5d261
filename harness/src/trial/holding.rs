//! Holding vCPUs in a trial, as its schedule says.
//!
//! The machine stands whenever this side looks, and guest time with it (QEMU's virtual clock): every time here is one in which
//! the guest ran. Breakpoints stop before the instruction runs; who is let go is past it either because the breakpoint is
//! gone or by a step of its own.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::gdb::{Gdb, GdbError, Registers, Stop, Vcpu};
use crate::journal::{Happening, Journal};
use crate::rendezvous::{Hold, Outcome, Places, Snapshot, Task, Tasks, Waiting};
use crate::scenario::{Delay, First, Holding, Point, Rendezvous};

/// How often it is looked who waits, guest time. A wait that is seen twice is no passing one.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// How often in a row everybody else must be seen spinning or idle before a hold is let go that blocks everybody.
const BLOCKED_LOOKS: u32 = 4;

/// How long it is waited, once the held one is let go, whether the other comes, guest time.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// How often it is looked for vCPUs that were plugged. They take longer to come online.
const NEWCOMERS: Duration = Duration::from_millis(100);

/// How long a task that is let go may take to have a CPU again, guest time. It wants one all the time.
const LETTING_GO: Duration = Duration::from_secs(10);

/// Holds of one trial. Each is in its record; and each stops the machine some times.
const MOST: usize = 500;

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
    places: &Places,
    plan: &Holding,
    journal: &Journal,
    holds: &Holds,
    over: &CancellationToken,
) -> Result<(), GdbError> {
    let tasks = Tasks::of(places);
    let mut holder = Holder { gdb, places, tasks, journal, holds, over, vcpus: Vec::new() };
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

/// How somebody is held.
#[derive(Debug, Clone, Copy)]
enum Grip {
    /// The vCPU does not run.
    Vcpu(Vcpu),
    /// The task goes round in a loop there, and its CPU answers whoever interrupts it.
    Task { at: u64 },
}

impl Grip {
    /// What must not run.
    fn vcpu(self) -> Option<Vcpu> {
        match self {
            Self::Vcpu(vcpu) => Some(vcpu),
            Self::Task { .. } => None,
        }
    }
}

/// Why the guest stands again.
enum Woke {
    Trapped(Vcpu),
    Time,
    Over,
}

/// How the wait for a partner ended.
enum Wait {
    Came(Arrival),
    Excluded,
    Blocked,
    Time,
    Over,
}

impl<'a> Holder<'a> {
    /// One rendezvous: up to so many tries.
    async fn meet(&mut self, plan: &'a Rendezvous) -> Result<(), GdbError> {
        let manner = &plan.manner;
        if self.places.of(&plan.hold).is_empty() || self.places.of(&plan.until).is_empty() {
            let told = Hold::of(&plan.hold, Some(&plan.until));
            self.holds.push(Hold { outcome: Outcome::NoSuchPlace, ..told });
            return Ok(());
        }
        let mut patient = false;
        for number in 0..manner.tries {
            let mut told = Hold::of(&plan.hold, Some(&plan.until));
            let mut first = self.spot(&plan.hold).await?;
            let came = self.arrive(&mut first, None, None).await?;
            self.close(first).await?;
            let Some(held) = came else {
                if number == 0 {
                    self.holds.push(told);
                }
                return Ok(());
            };
            let place = self.begin(&mut told, &held);
            let grip = self.take_hold(&held).await?;
            let over = self.keep(plan, &held, grip, &mut told, &mut patient).await?;
            self.end(place, &told);
            if over || matches!(told.outcome, Outcome::Met | Outcome::Excluded { .. }) {
                break;
            }
        }
        Ok(())
    }

    /// Keeps `held` until its partner has come, or will not; what came of it goes to `hold`. Afterwards nobody is held. Whether
    /// the lanes are over.
    async fn keep(
        &mut self,
        plan: &'a Rendezvous,
        held: &Arrival,
        grip: Grip,
        told: &mut Hold,
        patient: &mut bool,
    ) -> Result<bool, GdbError> {
        let manner = &plan.manner;
        let mut second = self.spot(&plan.until).await?;
        let whole = Duration::from_millis(manner.limit_ms.into());
        let mut left = whole;
        let (mut waiting, mut stuck) = (Vec::new(), Vec::new());
        let seen = (&mut waiting, &mut stuck);
        let waited = self.wait(&mut second, held, grip, &mut left, seen, *patient).await?;
        told.held_us = micros(whole.saturating_sub(left));
        told.waiting = waiting.iter().map(|(_, waiting)| waiting.clone()).collect();
        if matches!(waited, Wait::Time | Wait::Blocked) {
            told.waiting.append(&mut stuck);
        }
        match waited {
            Wait::Came(partner) => {
                told.partner.clone_from(&partner.task);
                told.outcome = Outcome::Met;
                self.close(second).await?;
                let lead = Duration::from_micros(manner.lead_us.into());
                match manner.first {
                    First::Partner => {
                        told.went_through = self.lead((&partner, &plan.until), grip, lead).await?;
                        self.let_go(held, grip, None).await?;
                    }
                    First::Held => {
                        let behind = self.take_hold(&partner).await?;
                        self.let_go(held, grip, behind.vcpu()).await?;
                        told.went_through = self.lead((held, &plan.hold), behind, lead).await?;
                        self.let_go(&partner, behind, None).await?;
                    }
                }
            }
            Wait::Over => {
                self.close(second).await?;
                told.outcome = Outcome::PartnerNotReached;
                self.let_go(held, grip, None).await?;
                return Ok(true);
            }
            waited @ (Wait::Excluded | Wait::Blocked | Wait::Time) => {
                self.let_go(held, grip, None).await?;
                // Who comes now was kept away, if it is one that waited.
                let mut left = Some(AFTERWARDS.max(whole));
                told.outcome = Outcome::PartnerNotReached;
                while let Some(came) = self.arrive(&mut second, None, Some(&mut left)).await? {
                    told.partner.clone_from(&came.task);
                    if let Some(lock) = self.kept_apart(&waiting, &came).await? {
                        told.outcome = Outcome::Excluded { lock };
                        break;
                    }
                    told.outcome = Outcome::Limit;
                    if waiting.is_empty() {
                        break;
                    }
                    self.gdb.step(came.vcpu).await?;
                }
                self.close(second).await?;
                if matches!(waited, Wait::Blocked) {
                    told.outcome = Outcome::BlockedAll;
                }
                // Who waited was somebody else: the next time it is waited to the end.
                *patient |= !matches!(told.outcome, Outcome::Excluded { .. });
            }
        }
        Ok(false)
    }

    /// Takes hold of somebody who stands: of the task, where it can be interrupted, else of the vCPU.
    async fn take_hold(&mut self, who: &Arrival) -> Result<Grip, GdbError> {
        let stays = self.places.idle_loop.as_ref().filter(|_| who.at.interruptible && who.address != 0);
        let Some(stays) = stays else { return Ok(Grip::Vcpu(who.vcpu)) };
        let at = stays.address;
        let code = self.gdb.read(at, stays.code.len() as u64).await?;
        if code.as_ref() != Some(&stays.code) {
            return Ok(Grip::Vcpu(who.vcpu));
        }
        self.gdb.go_on_at(who.vcpu, at).await?;
        Ok(Grip::Task { at })
    }

    /// Lets somebody go on where it was taken hold of. A task is waited for, which may have lost its CPU to another; `held`
    /// stands meanwhile.
    async fn let_go(&mut self, who: &Arrival, grip: Grip, held: Option<Vcpu>) -> Result<(), GdbError> {
        let Grip::Task { at } = grip else { return Ok(()) };
        self.gdb.break_at(at).await?;
        let mut left = Some(LETTING_GO);
        // Also when the lanes are over.
        let never = CancellationToken::new();
        loop {
            match self.run_unless(held.as_slice(), &mut left, &never).await? {
                Woke::Trapped(vcpu) => {
                    let now = self.gdb.registers(vcpu).await?;
                    let task = self.current(now).await?;
                    if now.rip == at && task.is_some_and(|(address, _)| address == who.address) {
                        self.gdb.unbreak(at).await?;
                        return self.gdb.go_on_at(vcpu, who.at.rip).await;
                    }
                    // Another that is held, or that is there by itself.
                    self.gdb.step(vcpu).await?;
                }
                Woke::Time | Woke::Over => {
                    return Err(GdbError::Odd(format!("who was held at {:#x} comes no more", who.at.rip)));
                }
            }
        }
    }

    /// Waits for a partner of `held`, looking who waits meanwhile. `patient`: whoever waits, to the end.
    async fn wait(
        &mut self,
        second: &mut Spot<'a>,
        held: &Arrival,
        grip: Grip,
        left: &mut Duration,
        (waiting, stuck): (&mut Vec<(u64, Waiting)>, &mut Vec<Waiting>),
        patient: bool,
    ) -> Result<Wait, GdbError> {
        let mut blocked = 0;
        loop {
            let mut slice = Some(LOOK_EVERY.min(*left));
            let before = slice.unwrap_or_default();
            if self.others(grip.vcpu().as_slice()).await?.is_empty() {
                return Ok(Wait::Blocked);
            }
            let came = self.arrive(second, grip.vcpu(), Some(&mut slice)).await?;
            *left = left.saturating_sub(before.saturating_sub(slice.unwrap_or_default()));
            if let Some(came) = came {
                return Ok(Wait::Came(came));
            }
            if self.over.is_cancelled() {
                return Ok(Wait::Over);
            }
            let seen = match &mut self.tasks {
                Some(tasks) => tasks.all(&mut self.gdb).await?,
                None => Snapshot::default(),
            };
            let behind = seen.behind(held.address);
            *stuck = seen.stuck(&behind);
            let mut twice = false;
            for (who, one) in behind {
                let is_known = waiting.iter().any(|(known, waits)| *known == who && waits.lock == one.lock);
                twice |= is_known;
                if !is_known {
                    waiting.push((who, one));
                }
            }
            if twice && !patient {
                return Ok(Wait::Excluded);
            }
            blocked = match grip.vcpu() {
                Some(vcpu) if self.all_spin(vcpu).await? => blocked + 1,
                _ => 0,
            };
            if blocked >= BLOCKED_LOOKS {
                return Ok(Wait::Blocked);
            }
            if left.is_zero() {
                return Ok(Wait::Time);
            }
        }
    }

    /// Two have met: `ahead` runs while `behind` stands, until it has returned or `lead` is over; whether it has.
    async fn lead(
        &mut self,
        (ahead, point): (&Arrival, &'a Point),
        behind: Grip,
        lead: Duration,
    ) -> Result<bool, GdbError> {
        let mut left = Some(lead);
        if !point.is_entry() {
            // Of another place nobody knows the end.
            self.pause(&mut left, behind.vcpu().as_slice()).await?;
            return Ok(false);
        }
        let mut way = Spot { point, addresses: &[], inside: Vec::new() };
        self.enter(&mut way, ahead).await?;
        let through = self.arrive(&mut way, behind.vcpu(), Some(&mut left)).await?.is_some();
        self.close(way).await?;
        Ok(through)
    }

    /// Delays, all at once.
    async fn delay(&mut self, plans: &'a [Delay]) -> Result<(), GdbError> {
        struct Late {
            who: Arrival,
            left: Duration,
            whole: Duration,
            place: usize,
            hold: Hold,
        }
        let mut spots: Vec<Spot<'a>> = Vec::new();
        let mut visits: Vec<u32> = Vec::new();
        for plan in plans {
            if !spots.iter().any(|spot| spot.point == &plan.at) {
                spots.push(self.spot(&plan.at).await?);
                visits.push(0);
            }
        }
        let mut late: VecDeque<Late> = VecDeque::new();
        let mut done = 0;
        // Once all that are drawn have come, nobody is stopped for more.
        let most = |at: &Point| {
            plans.iter().filter(|plan| plan.at == *at).map(|plan| plan.visit.unwrap_or(u32::MAX)).max()
        };
        loop {
            let passed = spots.iter().zip(&visits).all(|(spot, visit)| most(spot.point) <= Some(*visit));
            if late.is_empty() && (passed || done >= MOST) {
                break;
            }
            let standing: Vec<Vcpu> = late.iter().map(|one| one.who.vcpu).collect();
            let nobody_left = self.others(&standing).await?.is_empty();
            let mut left = late.iter().map(|one| one.left).min();
            let before = left;
            let woke = if nobody_left { Woke::Time } else { self.run(&standing, &mut left).await? };
            let ran = before.zip(left).map(|(before, left)| before.saturating_sub(left)).unwrap_or_default();
            for one in &mut late {
                one.left = one.left.saturating_sub(ran);
            }
            match woke {
                Woke::Trapped(vcpu) => {
                    let mut arrived = None;
                    for (spot, visit) in spots.iter_mut().zip(&mut visits) {
                        if let Some(arrival) = self.look(spot, vcpu).await? {
                            *visit += 1;
                            arrived = Some((spot.point, *visit, arrival));
                            break;
                        }
                    }
                    let plan = arrived.as_ref().and_then(|(point, visit, _)| {
                        plans
                            .iter()
                            .find(|plan| plan.at == **point && plan.visit.is_none_or(|one| one == *visit))
                    });
                    let known = late.iter().any(|one| one.who.vcpu == vcpu);
                    match (plan, arrived) {
                        (Some(plan), Some((_, _, who))) if !known && done < MOST => {
                            done += 1;
                            let mut hold = Hold::of(&plan.at, None);
                            let place = self.begin(&mut hold, &who);
                            let whole = Duration::from_micros(plan.us.into());
                            late.push_back(Late { who, left: whole, whole, place, hold });
                        }
                        _ => self.gdb.step(vcpu).await?,
                    }
                }
                Woke::Time | Woke::Over => {
                    let over = matches!(woke, Woke::Over);
                    let soonest = late.iter().map(|one| one.left).min();
                    let ends =
                        |one: &Late| over || Some(one.left) == soonest && (one.left.is_zero() || nobody_left);
                    while let Some(at) = late.iter().position(ends) {
                        let Some(mut one) = late.remove(at) else { break };
                        one.hold.held_us = micros(one.whole.saturating_sub(one.left));
                        one.hold.outcome =
                            if one.left.is_zero() { Outcome::Delayed } else { Outcome::CutOff };
                        if nobody_left {
                            one.hold.outcome = Outcome::BlockedAll;
                        }
                        self.end(one.place, &one.hold);
                        self.gdb.step(one.who.vcpu).await?;
                    }
                    if over {
                        break;
                    }
                }
            }
        }
        for spot in spots {
            self.close(spot).await?;
        }
        Ok(())
    }

    fn begin(&self, hold: &mut Hold, who: &Arrival) -> usize {
        hold.task.clone_from(&who.task);
        hold.at = Some(self.journal.now());
        // Of a trial that ends before it is let go.
        hold.outcome = Outcome::CutOff;
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
        self.gdb.run(&others).await?;
        let began = Instant::now();
        let limit = async { tokio::time::sleep(left.map_or(NEWCOMERS, |left| left.min(NEWCOMERS))).await };
        let woke = tokio::select! {
            biased;
            stop = self.gdb.stopped() => match stop? {
                Stop::Trapped(vcpu) => Some(Woke::Trapped(vcpu)),
                // By somebody else's word.
                Stop::Asked => None,
            },
            () = over.cancelled() => Some(Woke::Over),
            () = limit => Some(Woke::Time),
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

    /// Lets all but these run for a time, whatever traps.
    async fn pause(&mut self, left: &mut Option<Duration>, held: &[Vcpu]) -> Result<(), GdbError> {
        while let Woke::Trapped(vcpu) = self.run(held, left).await? {
            self.gdb.step(vcpu).await?;
        }
        Ok(())
    }

    /// The lock that kept whoever came at last from coming before. Who waited may have had a worker come: `cpu_down()` does.
    async fn kept_apart(
        &mut self,
        waiting: &[(u64, Waiting)],
        came: &Arrival,
    ) -> Result<Option<String>, GdbError> {
        let lock =
            |who: u64| waiting.iter().rfind(|(address, _)| *address == who).and_then(|(_, w)| w.lock.clone());
        match &mut self.tasks {
            Some(tasks) if lock(came.address).is_none() && !waiting.is_empty() => {
                Ok(tasks.all(&mut self.gdb).await?.sender(came.address).and_then(lock))
            }
            _ => Ok(lock(came.address)),
        }
    }

    /// Whether every vCPU but `held` spins or idles, and one spins.
    async fn all_spin(&mut self, held: Vcpu) -> Result<bool, GdbError> {
        let Some(tasks) = &self.tasks else { return Ok(false) };
        let mut one_spins = false;
        for vcpu in self.vcpus.iter().filter(|vcpu| **vcpu != held) {
            match tasks.spins(&mut self.gdb, *vcpu).await? {
                Some(spins) => one_spins |= spins,
                None => return Ok(false),
            }
        }
        Ok(one_spins)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
