//! A rendezvous: a task that comes to one place is held until another task comes to a second place.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Arrival, Holder, Spot, Woke, micros};
use crate::limits::limits;
use crate::rendezvous::{Hold, HoldOutcome, LockSnapshot, TaskLock, Waiting};
use crate::scenario::{First, Point, Rendezvous};
use crate::vmm::gdb::{GdbError, Vcpu};

/// The first time between two looks at the waiting tasks, in guest time. A wait that two looks in a
/// row show is not a passing one.
const LOOK_AFTER: Duration = Duration::from_millis(40);

/// The number of looks at that interval. After them the interval doubles each time, because a look
/// stops the machine for ten milliseconds.
const SOON: u32 = 4;

/// The number of consecutive looks that must show all other CPUs spinning or idle. The hold then
/// blocks all CPUs, and ends.
const BLOCKED_LOOKS: u32 = 4;

/// The time for which the other task may still come after the held one was released, in guest time.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// How a task is held.
#[derive(Debug, Clone, Copy)]
enum Grip {
    /// The vCPU does not run.
    Vcpu(Vcpu),
    /// The task runs a loop at this address, and its CPU answers interrupts.
    Task { at: u64 },
}

impl Grip {
    /// The vCPU that must not run, if there is one.
    fn vcpu(self) -> Option<Vcpu> {
        match self {
            Self::Vcpu(vcpu) => Some(vcpu),
            Self::Task { .. } => None,
        }
    }
}

/// How the wait for a partner ended.
enum Wait {
    Came(Arrival),
    Excluded,
    Blocked,
    Time,
    Over,
}

/// The observations during a hold.
#[derive(Debug, Default)]
struct Seen {
    /// The locks of the held task.
    held: Vec<TaskLock>,
    /// The tasks that waited for one of these locks, or behind other waiters, each with the address
    /// of its `task_struct`.
    waiting: Vec<(u64, Waiting)>,
    /// The tasks that slept at the end and waited for something else.
    stuck: Vec<Waiting>,
}

impl Seen {
    /// Adds one look. Returns whether a task still waits for the lock that an earlier look showed.
    fn add(&mut self, all: &LockSnapshot, held: u64) -> bool {
        let behind = all.behind(held);
        self.held = all.locks(held);
        self.stuck = all.stuck(&behind);
        let mut twice = false;
        for (who, one) in behind {
            let is_known = self.waiting.iter().any(|(known, waits)| *known == who && waits.lock == one.lock);
            twice |= is_known;
            if !is_known {
                self.waiting.push((who, one));
            }
        }
        twice
    }

    fn waited_for(&self, who: u64) -> Option<String> {
        self.waiting.iter().rfind(|(address, _)| *address == who).and_then(|(_, waits)| waits.lock.clone())
    }

    /// The reason why the task that came at last did not come before. If it is a worker, the task
    /// that waits for its work may have been the waiter: `cpu_down()` uses a worker.
    fn kept_apart(&self, now: &LockSnapshot, came: u64) -> HoldOutcome {
        let waited = self.waited_for(came).or_else(|| now.sender(came).and_then(|who| self.waited_for(who)));
        match (waited, TaskLock::of_both(&self.held, &now.locks(came))) {
            (Some(lock), _) => HoldOutcome::Excluded { lock },
            (None, Some(lock)) => HoldOutcome::BothHold { lock },
            (None, None) => HoldOutcome::Limit,
        }
    }
}

impl<'a> Holder<'a> {
    /// Runs one rendezvous, with as many tries as it allows.
    pub(super) async fn meet(&mut self, plan: &'a Rendezvous) -> Result<(), GdbError> {
        let manner = &plan.manner;
        if self.places.of(&plan.hold).is_empty() || self.places.of(&plan.until).is_empty() {
            let told = Hold::of(&plan.hold, Some(&plan.until));
            self.holds.push(Hold { outcome: HoldOutcome::NoSuchPlace, ..told });
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
            if over || matches!(told.outcome, HoldOutcome::Met | HoldOutcome::Excluded { .. }) {
                break;
            }
        }
        Ok(())
    }

    /// Holds `held` until its partner has come or will not come. The outcome is stored in `told`.
    /// Afterwards no task is held. Returns whether the lanes have ended.
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
        let mut seen = Seen::default();
        let mut waited = self.wait(&mut second, held, grip, &mut left, &mut seen, *patient).await?;
        told.held_us = micros(whole.saturating_sub(left));
        if matches!(waited, Wait::Excluded | Wait::Blocked | Wait::Time) {
            // The held task is still at its place until it runs again.
            if let Some(partner) = self.let_go(held, grip, None, Some(&mut second)).await? {
                waited = Wait::Came(partner);
            }
        }
        told.waiting = seen.waiting.iter().map(|(_, waiting)| waiting.clone()).collect();
        if matches!(waited, Wait::Time | Wait::Blocked) {
            told.waiting.append(&mut seen.stuck);
        }
        match waited {
            Wait::Came(partner) => {
                told.partner.clone_from(&partner.task);
                told.outcome = HoldOutcome::Met;
                self.close(second).await?;
                let lead = Duration::from_micros(manner.lead_us.into());
                match manner.first {
                    First::Partner => {
                        self.lead((&partner, &plan.until), grip, lead, told).await?;
                        self.let_go(held, grip, None, None).await?;
                    }
                    First::Held => {
                        let behind = self.take_hold(&partner).await?;
                        self.let_go(held, grip, behind.vcpu(), None).await?;
                        self.lead((held, &plan.hold), behind, lead, told).await?;
                        self.let_go(&partner, behind, None, None).await?;
                    }
                }
            }
            Wait::Over => {
                self.close(second).await?;
                told.outcome = HoldOutcome::PartnerNotReached;
                self.let_go(held, grip, None, None).await?;
                return Ok(true);
            }
            waited @ (Wait::Excluded | Wait::Blocked | Wait::Time) => {
                // A task that comes now was kept away by the hold, if it is one of the waiters.
                let mut left = Some(AFTERWARDS.max(whole));
                let mut best = HoldOutcome::PartnerNotReached;
                while let Some(came) = self.arrive(&mut second, None, Some(&mut left)).await? {
                    if came.address != held.address || came.address == 0 {
                        let outcome = seen.kept_apart(&self.snapshot().await?, came.address);
                        if outcome < best {
                            (best, told.partner) = (outcome, came.task);
                        }
                        if matches!(best, HoldOutcome::Excluded { .. }) || seen.waiting.is_empty() {
                            break;
                        }
                    }
                    self.gdb.step(came.vcpu).await?;
                }
                self.close(second).await?;
                // The waiter was another task. The next try waits until the limit.
                *patient |= !matches!(best, HoldOutcome::Excluded { .. });
                told.outcome = if matches!(waited, Wait::Blocked) { HoldOutcome::BlockedAll } else { best };
            }
        }
        Ok(false)
    }

    /// Holds a stopped task: the task itself where it can be interrupted, else its vCPU.
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

    /// Resumes a held task where it was held. A held vCPU just runs again. For a held task, this
    /// waits until it runs on some vCPU, because it may have lost its CPU to another task; `held`
    /// stays stopped meanwhile. If a task comes to `second` first, that task is returned, and the
    /// held one is not resumed.
    async fn let_go(
        &mut self,
        who: &Arrival,
        grip: Grip,
        held: Option<Vcpu>,
        mut second: Option<&mut Spot<'a>>,
    ) -> Result<Option<Arrival>, GdbError> {
        let Grip::Task { at } = grip else { return Ok(None) };
        self.gdb.break_at(at).await?;
        let mut left = Some(limits().letting_go);
        // The task is also resumed after the lanes have ended.
        let never = CancellationToken::new();
        let came = loop {
            let Woke::Trapped(vcpu) = self.run_unless(held.as_slice(), &mut left, &never).await? else {
                return Err(GdbError::Odd(format!(
                    "the task held at {:#x} does not run again",
                    who.at.program_counter
                )));
            };
            let now = self.gdb.registers(vcpu).await?;
            if now.program_counter == at
                && self.current(now).await?.is_some_and(|(address, _)| address == who.address)
            {
                self.gdb.go_on_at(vcpu, who.at.program_counter).await?;
                break None;
            }
            if let Some(second) = second.as_deref_mut()
                && let Some(came) = self.look(second, vcpu).await?
            {
                break Some(came);
            }
            // Another held task, or a task that runs this loop by itself.
            self.gdb.step(vcpu).await?;
        };
        self.gdb.unbreak(at).await?;
        Ok(came)
    }

    /// Waits for a partner of `held`, and looks at intervals which tasks wait. With `patient`, the
    /// wait lasts until the limit, whichever tasks wait.
    async fn wait(
        &mut self,
        second: &mut Spot<'a>,
        held: &Arrival,
        grip: Grip,
        left: &mut Duration,
        seen: &mut Seen,
        patient: bool,
    ) -> Result<Wait, GdbError> {
        let mut blocked = 0;
        for look in 0_u32.. {
            let later = 2_u32.saturating_pow((look + 1).saturating_sub(SOON).min(16));
            let mut slice = Some((LOOK_AFTER * later).min(*left));
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
            let twice = seen.add(&self.snapshot().await?, held.address);
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
                break;
            }
        }
        Ok(Wait::Time)
    }

    /// After two tasks have met: `ahead` runs while `behind` is held, until it has returned or
    /// `lead` has passed. The duration, and whether it returned, are stored in `told`.
    async fn lead(
        &mut self,
        (ahead, point): (&Arrival, &'a Point),
        behind: Grip,
        lead: Duration,
        told: &mut Hold,
    ) -> Result<(), GdbError> {
        let mut left = Some(lead);
        if point.is_entry() {
            let mut way = Spot { point, addresses: &[], inside: Vec::new() };
            self.enter(&mut way, ahead).await?;
            told.went_through = self.arrive(&mut way, behind.vcpu(), Some(&mut left)).await?.is_some();
            self.close(way).await?;
        } else {
            // For a place inside a function, the return address is not known.
            self.pause(&mut left, behind.vcpu().as_slice()).await?;
        }
        told.held_us += micros(lead.saturating_sub(left.unwrap_or_default()));
        Ok(())
    }

    /// Whether every vCPU except `held` spins or idles, and at least one spins.
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
