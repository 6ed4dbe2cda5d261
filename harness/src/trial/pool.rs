//! Runs all trials of a run. The sides alternate, a few trials run at a time, and spoilt trials are
//! tried again. A guest that ended a trial as it began takes further ones.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hotplug_side::Side;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::context::{ScenarioOfTrial, TrialPlan, TrialSetup, TrialStart};
use super::outcome::{TrialOutcome, TrialRecord};
use super::rounds::Guest;
use super::run::{Prepared, prepare};
use crate::error::ErrorKind;
use crate::scenario::Seed;
use crate::{Error, Result};

/// How often a spoilt trial ([`TrialRecord::is_spoilt`]) is tried again.
///
/// Guests that hang before they are ready count as spoilt, because under TCG on a busy host a vCPU
/// sometimes stops receiving timer interrupts during boot (QEMU 10.0.2, 6.1: "rcu: Possible timer
/// handling issue on cpu=1"; once in some 40 boots at a load of 8, never in 72 at a load of 3). A
/// kernel that cannot boot hangs every time.
pub(super) const RETRIES: u32 = 2;

/// The most idle guests for each worker: one of each side, and one more while the sides take turns.
const IDLE_PER_WORKER: usize = 3;

/// An event that the caller receives while trials run.
#[derive(Debug)]
pub enum Happened {
    /// A trial began.
    Began(TrialPlan),
    /// A trial ended. It may be tried again.
    Ended(Box<TrialRecord>, Again),
}

/// Whether a trial will be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It is tried again, and its record does not count.
    Yes,
    /// It is not tried again.
    No,
}

/// The trials of these numbers, in the order before, after, after, before and so on. So neither
/// side gains if the machine becomes faster or slower over time.
pub fn plan(numbers: Range<u32>, seed: Seed) -> impl Iterator<Item = TrialPlan> + Send {
    plan_of(ScenarioOfTrial::default(), numbers, seed)
}

/// Like [`plan`], for one of several scenarios.
pub fn plan_of(
    scenario: ScenarioOfTrial,
    numbers: Range<u32>,
    seed: Seed,
) -> impl Iterator<Item = TrialPlan> + Send {
    let of = move |side, number| TrialPlan {
        side,
        scenario: scenario.clone(),
        number,
        seed: seed.of_trial(number),
        replay: None,
        history: Vec::new(),
        attempt: 0,
    };
    numbers.flat_map(move |n| {
        let (first, second) =
            if n % 2 == 0 { (Side::Before, Side::After) } else { (Side::After, Side::Before) };
        [of(first, n), of(second, n)]
    })
}

/// The result of the trials of a run. The caller has received their records one by one.
#[derive(Debug, Default)]
pub struct TrialsRun {
    /// The trials that do not count, because they were tried again.
    pub repeated: Vec<Repeated>,
    /// The error that stopped the run early, such as Ctrl-C or a full disk.
    pub stopped: Option<Error>,
}

/// A trial that was tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Repeated {
    /// Its folder below `trials/`.
    pub folder: String,
    /// The outcome.
    pub outcome: TrialOutcome,
    /// The reason, as text.
    pub why: String,
}

impl Repeated {
    pub(super) fn of(record: &TrialRecord) -> Self {
        Self { folder: record.folder.clone(), outcome: record.outcome, why: record.why.clone() }
    }
}

/// The callback of [`run_all`]. No further trial begins after it returns a break.
pub type Tell<'a> = &'a (dyn Fn(Happened) -> ControlFlow<()> + Sync);

/// The trials that are still to be run. All workers share it.
struct Supply<'a> {
    /// One for each scenario.
    setups: &'a [TrialSetup<'a>],
    folder: &'a Path,
    cancel: &'a CancellationToken,
    tell: Tell<'a>,
    plans: Mutex<Peekable<Box<dyn Iterator<Item = TrialPlan> + Send + 'a>>>,
    guests: Mutex<Guests>,
    /// The most guests that may be idle.
    most_idle: usize,
    /// The caller wants no further trials.
    closed: AtomicBool,
}

/// A trial whose guest is ready, or whose guest first takes the trials of its history.
struct Next {
    plan: TrialPlan,
    /// The trials that its guest takes after `trial`.
    steps: VecDeque<(TrialPlan, PathBuf)>,
    trial: Prepared,
}

impl Next {
    /// Runs the trial after those of its history. If one of those ends the guest, its record takes
    /// the place of the trial's: it showed something, or the trial cannot run.
    async fn run(
        self,
        setup: TrialSetup<'_>,
        cancel: &CancellationToken,
        under_way: &CancellationToken,
    ) -> Result<(TrialRecord, Option<Guest>)> {
        let Self { plan, steps, mut trial } = self;
        for (step, dir) in steps {
            // The trials of the history are as many as its guest took.
            let (record, guest) = Box::pin(trial.run(
                TrialSetup { rounds: u32::MAX, ..setup },
                cancel,
                &CancellationToken::new(),
            ))
            .await?;
            let Some(guest) = guest else { return Ok((record.instead_of(&plan), None)) };
            trial = prepare(setup, step, dir, Some(guest), cancel).await?;
        }
        Box::pin(trial.run(setup, cancel, under_way)).await
    }
}

/// What a guest is good for: the place of its scenario's setup, and its side.
type Seat = (usize, Side);

/// The guests that may take a further trial.
#[derive(Default)]
struct Guests {
    /// In the order in which they became idle.
    idle: Vec<(Seat, Guest)>,
    /// Those whose trial runs.
    busy: Vec<Seat>,
}

impl Guests {
    fn take(&mut self, plan: &TrialPlan) -> Option<Guest> {
        let at = self.idle.iter().position(|(seat, _)| *seat == plan.seat())?;
        Some(self.idle.remove(at).1)
    }

    /// Whether one may soon be idle that can take the trial `plan`.
    fn may_fit(&self, plan: &TrialPlan) -> bool {
        self.busy.contains(&plan.seat())
    }

    fn is_no_longer_busy(&mut self, plan: &TrialPlan) {
        if let Some(at) = self.busy.iter().position(|seat| *seat == plan.seat()) {
            self.busy.swap_remove(at);
        }
    }
}

impl Supply<'_> {
    /// The setup of a trial. A plan with an unknown scenario is a bug, which fails as
    /// infrastructure.
    fn setup(&self, plan: &TrialPlan) -> Result<TrialSetup<'_>> {
        let lost = || Error::infrastructure(format!("trial {} has no setup", plan.folder()));
        self.setups.get(plan.scenario.place).copied().ok_or_else(lost)
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next trial, with its QEMU already started. While another trial runs (`ahead`), a guest
    /// that boots is not started: it would boot at once. Only a guest from a checkpoint waits, and
    /// an idle guest. No QEMU is started ahead if the guest of another trial may take this one.
    async fn next(&self, ahead: bool) -> Option<Result<Next>> {
        let waits = |plan: &TrialPlan| {
            self.setup(plan).is_ok_and(|setup| matches!(setup.start, TrialStart::Restored(_)))
        };
        let (plan, idle) = match self.plans.lock() {
            Ok(mut plans) if !self.closed.load(Ordering::Relaxed) => {
                let mut guests = self.guests();
                let mut idle = None;
                let plan = plans.next_if(|plan| {
                    idle = guests.take(plan);
                    idle.is_some() || !ahead || waits(plan) && !guests.may_fit(plan)
                })?;
                (plan, idle)
            }
            _ => return None,
        };
        Some(self.begin(plan, idle).await)
    }

    /// Prepares the first trial that the guest of `plan` takes.
    async fn begin(&self, plan: TrialPlan, idle: Option<Guest>) -> Result<Next> {
        let setup = self.setup(&plan)?;
        let ((first, dir), steps) = plan.steps(self.folder);
        let trial = prepare(setup, first, dir, idle, self.cancel).await?;
        Ok(Next { plan, steps, trial })
    }

    fn tell(&self, happened: Happened) {
        if (self.tell)(happened).is_break() {
            self.closed.store(true, Ordering::Relaxed);
        }
    }

    /// Runs a trial, and tries it again if it is spoilt.
    async fn run(
        &self,
        mut next: Next,
        under_way: &CancellationToken,
        repeated: &mut Vec<Repeated>,
    ) -> Result<()> {
        let setup = self.setup(&next.plan)?;
        loop {
            let plan = next.plan.clone();
            self.tell(Happened::Began(plan.clone()));
            let span = tracing::debug_span!("trial", folder = plan.folder());
            let may_go_on = next.steps.is_empty() && next.trial.may_go_on(setup);
            if may_go_on {
                self.guests().busy.push(plan.seat());
            }
            let ran = next.run(setup, self.cancel, under_way).instrument(span).await;
            if may_go_on {
                self.guests().is_no_longer_busy(&plan);
            }
            let (record, guest) = ran?;
            if let Some(guest) = guest {
                self.keep((plan.seat(), guest)).await?;
            }
            if !record.is_spoilt() || plan.attempt >= RETRIES {
                self.tell(Happened::Ended(Box::new(record), Again::No));
                return Ok(());
            }
            repeated.push(Repeated::of(&record));
            self.tell(Happened::Ended(Box::new(record), Again::Yes));
            next = self.begin(TrialPlan { attempt: plan.attempt + 1, ..plan }, None).await?;
        }
    }

    /// Keeps a guest for a further trial. If too many are idle, the one that has waited longest is
    /// ended.
    async fn keep(&self, guest: (Seat, Guest)) -> Result<()> {
        let longest = {
            let idle = &mut self.guests().idle;
            idle.push(guest);
            (idle.len() > self.most_idle).then(|| idle.remove(0))
        };
        match longest {
            Some(guest) => self.retire(guest).await,
            None => Ok(()),
        }
    }

    async fn retire(&self, ((place, side), guest): (Seat, Guest)) -> Result<()> {
        match self.setups.get(place) {
            Some(setup) => guest.retire(*setup, side).await,
            None => Ok(()),
        }
    }

    /// Ends all idle guests. After an interruption their lock order is lost.
    async fn retire_all(&self) -> Result<()> {
        let idle = std::mem::take(&mut self.guests().idle);
        for guest in idle.into_iter().filter(|_| !self.cancel.is_cancelled()) {
            self.retire(guest).await?;
        }
        Ok(())
    }

    /// The cause of an error that stopped the run: if the run's folder was removed, this is
    /// reported in place of the first file that is missing.
    fn cause(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::Infrastructure && !self.folder.is_dir() {
            let what = format!("{} is gone: it was removed while its trials ran", self.folder.display());
            return Error::infrastructure(what).detail(error);
        }
        error
    }

    /// Ends the guest of a trial that will not run.
    async fn discard(&self, trial: Prepared) -> Result<()> {
        let setup = self.setup(&trial.plan)?;
        trial.discard(setup).await
    }

    /// A worker. It runs trial after trial, and starts the next trial's QEMU while one runs.
    async fn work(&self) -> TrialsRun {
        let mut ran = TrialsRun::default();
        let mut next = self.next(false).await;
        while let Some(trial) = next.take() {
            let under_way = CancellationToken::new();
            let one = async {
                // The next trial's QEMU is started even if no operation of this trial is accepted.
                let _guard = under_way.clone().drop_guard();
                match trial {
                    Ok(next) if self.closed.load(Ordering::Relaxed) => self.discard(next.trial).await,
                    Ok(next) => Box::pin(self.run(next, &under_way, &mut ran.repeated)).await,
                    Err(error) => Err(error),
                }
            };
            let following = async {
                under_way.cancelled().await;
                self.next(true).await
            };
            let (ended, prepared) = tokio::join!(one, following);
            next = prepared;
            if let Err(error) = ended {
                ran.stopped = Some(self.cause(error));
                if let Some(Ok(Next { trial, .. })) = next.take() {
                    // The trial's folder may be on the full disk. The first error is the one to
                    // report.
                    let _ = self.discard(trial).await;
                }
                break;
            }
            if next.is_none() {
                next = self.next(false).await;
            }
        }
        ran
    }
}

/// Runs `plans` in their order, in folders below `folder`, with `workers` trials at a time.
/// `setups` has one setup for each scenario of the plans.
///
/// Ctrl-C ends all trials at once. What they have collected stays in the folder.
pub async fn run_all(
    setups: &[TrialSetup<'_>],
    plans: impl Iterator<Item = TrialPlan> + Send,
    workers: usize,
    folder: &Path,
    cancel: &CancellationToken,
    tell: Tell<'_>,
) -> TrialsRun {
    let plans = Mutex::new((Box::new(plans) as Box<dyn Iterator<Item = TrialPlan> + Send>).peekable());
    let supply = Supply {
        setups,
        folder,
        cancel,
        tell,
        plans,
        guests: Mutex::default(),
        most_idle: IDLE_PER_WORKER * workers.max(1),
        closed: AtomicBool::new(false),
    };
    let mut running: FuturesUnordered<_> = (0..workers.max(1)).map(|_| supply.work()).collect();
    let mut all = TrialsRun::default();
    while let Some(mine) = running.next().await {
        all.repeated.extend(mine.repeated);
        // The other workers fail for the same reason: the same cancellation or the same disk.
        all.stopped = all.stopped.or(mine.stopped);
    }
    let retired = supply.retire_all().await;
    all.stopped = all.stopped.or_else(|| retired.err().map(|error| supply.cause(error)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sides_take_turns_in_going_first_and_share_seeds() {
        let plan: Vec<_> = plan(0..2, Seed(1)).collect();
        let names: Vec<_> = plan.iter().map(TrialPlan::folder).collect();
        assert_eq!(names, ["before-000", "after-000", "after-001", "before-001"]);
        assert_eq!(plan[0].seed, plan[1].seed);
        assert_ne!(plan[1].seed, plan[2].seed);
    }

    #[test]
    fn a_trial_of_one_of_several_scenarios_is_named_by_it() {
        let scenario = ScenarioOfTrial { place: 2, prefix: Some("pmem".into()) };
        let mut first = plan_of(scenario, 3..4, Seed(1)).next().unwrap();
        assert_eq!(first.folder(), "pmem-after-003");
        first.attempt = 1;
        assert_eq!(first.folder(), "pmem-after-003-again1");
    }
}
