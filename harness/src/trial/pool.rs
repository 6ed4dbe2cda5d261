//! Runs all trials of a run. The sides alternate, a few trials run at a time, and spoilt trials are
//! tried again.

use std::iter::Peekable;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hotplug_side::Side;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::context::{ScenarioOfTrial, TrialPlan, TrialSetup, TrialStart};
use super::outcome::{TrialOutcome, TrialRecord};
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
    /// The caller wants no further trials.
    closed: AtomicBool,
}

impl Supply<'_> {
    /// The setup of a trial. A plan with an unknown scenario is a bug, which fails as
    /// infrastructure.
    fn setup(&self, plan: &TrialPlan) -> Result<TrialSetup<'_>> {
        let lost = || Error::infrastructure(format!("trial {} has no setup", plan.folder()));
        self.setups.get(plan.scenario.place).copied().ok_or_else(lost)
    }

    /// The next trial, with its QEMU already started. While another trial runs (`ahead`), a guest
    /// that boots is not started: it would boot at once. Only a guest from a checkpoint waits.
    async fn next(&self, ahead: bool) -> Option<Result<Prepared>> {
        let waits = |plan: &TrialPlan| {
            self.setup(plan).is_ok_and(|setup| matches!(setup.start, TrialStart::Restored(_)))
        };
        let plan = match self.plans.lock() {
            Ok(mut plans) if !self.closed.load(Ordering::Relaxed) => {
                plans.next_if(|plan| !ahead || waits(plan))?
            }
            _ => return None,
        };
        let dir = self.folder.join(plan.folder());
        match self.setup(&plan) {
            Ok(setup) => Some(prepare(setup, plan, dir, self.cancel).await),
            Err(error) => Some(Err(error)),
        }
    }

    fn tell(&self, happened: Happened) {
        if (self.tell)(happened).is_break() {
            self.closed.store(true, Ordering::Relaxed);
        }
    }

    /// Runs a trial, and tries it again if it is spoilt.
    async fn run(
        &self,
        mut trial: Prepared,
        under_way: &CancellationToken,
        repeated: &mut Vec<Repeated>,
    ) -> Result<()> {
        let mut plan = trial.plan.clone();
        let setup = self.setup(&plan)?;
        loop {
            self.tell(Happened::Began(plan.clone()));
            let span = tracing::debug_span!("trial", folder = plan.folder());
            let record = trial.run(setup, self.cancel, under_way).instrument(span).await?;
            if !record.is_spoilt() || plan.attempt >= RETRIES {
                self.tell(Happened::Ended(Box::new(record), Again::No));
                return Ok(());
            }
            repeated.push(Repeated::of(&record));
            self.tell(Happened::Ended(Box::new(record), Again::Yes));
            plan.attempt += 1;
            let dir = self.folder.join(plan.folder());
            trial = prepare(setup, plan.clone(), dir, self.cancel).await?;
        }
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
                    Ok(trial) if self.closed.load(Ordering::Relaxed) => trial.discard().await,
                    Ok(trial) => Box::pin(self.run(trial, &under_way, &mut ran.repeated)).await,
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
                if let Some(Ok(trial)) = next.take() {
                    // The trial's folder may be on the full disk. The first error is the one to
                    // report.
                    let _ = trial.discard().await;
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
    let supply = Supply { setups, folder, cancel, tell, plans, closed: AtomicBool::new(false) };
    let mut running: FuturesUnordered<_> = (0..workers.max(1)).map(|_| supply.work()).collect();
    let mut all = TrialsRun::default();
    while let Some(mine) = running.next().await {
        all.repeated.extend(mine.repeated);
        // The other workers fail for the same reason: the same cancellation or the same disk.
        all.stopped = all.stopped.or(mine.stopped);
    }
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
