//! Runs all trials of a run. The sides alternate, a few trials run at a time, and spoilt trials are
//! tried again.

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

use super::context::{TrialPlan, TrialSetup, TrialStart};
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
    let of =
        move |side, number| TrialPlan { side, number, seed: seed.of_trial(number), replay: None, attempt: 0 };
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
    setup: TrialSetup<'a>,
    folder: &'a Path,
    cancel: &'a CancellationToken,
    tell: Tell<'a>,
    plans: Mutex<Box<dyn Iterator<Item = TrialPlan> + Send + 'a>>,
    /// The caller wants no further trials.
    closed: AtomicBool,
}

impl Supply<'_> {
    /// The next trial, with its QEMU already started.
    async fn next(&self) -> Option<Result<Prepared>> {
        let plan = match self.plans.lock() {
            Ok(mut plans) if !self.closed.load(Ordering::Relaxed) => plans.next()?,
            _ => return None,
        };
        let dir = self.folder.join(plan.folder());
        Some(prepare(self.setup, plan, dir, self.cancel).await)
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
        loop {
            self.tell(Happened::Began(plan.clone()));
            let span = tracing::debug_span!("trial", folder = plan.folder());
            let record = trial.run(self.setup, self.cancel, under_way).instrument(span).await?;
            if !record.is_spoilt() || plan.attempt >= RETRIES {
                self.tell(Happened::Ended(Box::new(record), Again::No));
                return Ok(());
            }
            repeated.push(Repeated::of(&record));
            self.tell(Happened::Ended(Box::new(record), Again::Yes));
            plan.attempt += 1;
            let dir = self.folder.join(plan.folder());
            trial = prepare(self.setup, plan.clone(), dir, self.cancel).await?;
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
        // A guest that boots does so as soon as its QEMU starts. Only a guest from a checkpoint
        // waits.
        let ahead = matches!(self.setup.start, TrialStart::Restored(_));
        let mut next = self.next().await;
        while let Some(trial) = next.take() {
            let under_way = CancellationToken::new();
            let one = async {
                // The next trial's QEMU is started even if no operation of this trial is accepted.
                let _guard = under_way.clone().drop_guard();
                match trial {
                    Ok(trial) if self.closed.load(Ordering::Relaxed) => trial.discard().await,
                    Ok(trial) => self.run(trial, &under_way, &mut ran.repeated).await,
                    Err(error) => Err(error),
                }
            };
            let following = async {
                under_way.cancelled().await;
                if ahead { self.next().await } else { None }
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
                next = self.next().await;
            }
        }
        ran
    }
}

/// Runs `plans` in their order, in folders below `folder`, with `workers` trials at a time.
///
/// Ctrl-C ends all trials at once. What they have collected stays in the folder.
pub async fn run_all(
    setup: TrialSetup<'_>,
    plans: impl Iterator<Item = TrialPlan> + Send,
    workers: usize,
    folder: &Path,
    cancel: &CancellationToken,
    tell: Tell<'_>,
) -> TrialsRun {
    let plans = Mutex::new(Box::new(plans) as Box<dyn Iterator<Item = TrialPlan> + Send>);
    let supply = Supply { setup, folder, cancel, tell, plans, closed: AtomicBool::new(false) };
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
}
