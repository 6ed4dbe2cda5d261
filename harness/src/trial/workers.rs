//! All trials of a run: the sides interleaved, a few at a time, those that infrastructure spoilt tried again.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::outcome::{TrialOutcome, TrialRecord};
use super::run::{Setting, TrialPlan, run};
use crate::scenario::Seed;
use crate::side::Side;
use crate::{Error, Result};

/// How often a trial is tried again whose infrastructure failed, or whose guest hung before it was ready.
///
/// The latter because under TCG on a busy host a vCPU sometimes gets no timer interrupt any more while the guest boots
/// (QEMU 10.0.2, 6.1: "rcu: Possible timer handling issue on cpu=1"; once in some 40 boots at a load of 8, never in 72
/// at a load of 3). A kernel that cannot boot hangs every time.
const RETRIES: u32 = 2;

/// What the caller hears while trials run.
#[derive(Debug)]
pub enum Happened {
    /// A trial began.
    Began(TrialPlan),
    /// A trial ended; it may be tried again.
    Ended(Box<TrialRecord>, Again),
}

/// Whether a trial will be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Yes: its record does not count.
    Yes,
    /// No.
    No,
}

/// The order of trials: before, after, after, before, ... so that a machine that warms up or tires favours no side.
fn plan(trials: u32, seed: Seed) -> VecDeque<TrialPlan> {
    let of = |side, number| TrialPlan { side, number, seed: seed.of_trial(number) };
    (0..trials)
        .flat_map(|n| {
            let (first, second) =
                if n % 2 == 0 { (Side::Before, Side::After) } else { (Side::After, Side::Before) };
            [of(first, n), of(second, n)]
        })
        .collect()
}

/// The trials of a run.
#[derive(Debug, Default)]
pub struct Ran {
    /// Records that count, before then after, by number.
    pub records: Vec<TrialRecord>,
    /// Trials that do not count, because they were tried again.
    pub repeated: Vec<Repeated>,
    /// Why not all trials ran: an interruption, a full disk.
    pub stopped: Option<Error>,
}

/// A trial that was tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeated {
    /// Its folder below `trials/`.
    pub folder: String,
    /// What came of it.
    pub outcome: TrialOutcome,
    /// In words.
    pub why: String,
}

/// Runs `trials` trials a side in folders below `folder`, `workers` at a time.
///
/// An interruption ends all trials at once, with what was collected left in the folder.
pub async fn run_all(
    setting: &Setting,
    trials: u32,
    seed: Seed,
    workers: usize,
    folder: &Path,
    cancel: &CancellationToken,
    tell: &(dyn Fn(Happened) + Sync),
) -> Ran {
    let queue = Mutex::new(plan(trials, seed));
    let take = || queue.lock().map_or(None, |mut queue| queue.pop_front());
    let worker = async || {
        let mut mine = Ran::default();
        while let Some(plan) = take() {
            match try_trial(setting, &plan, folder, cancel, tell, &mut mine.repeated).await {
                Ok(record) => mine.records.push(record),
                Err(error) => {
                    mine.stopped = Some(error);
                    break;
                }
            }
        }
        mine
    };
    let mut running: FuturesUnordered<_> = (0..workers.max(1)).map(|_| worker()).collect();
    let mut all = Ran::default();
    while let Some(mine) = running.next().await {
        all.records.extend(mine.records);
        all.repeated.extend(mine.repeated);
        // The others see the same cancellation, or the same disk.
        all.stopped = all.stopped.or(mine.stopped);
    }
    all.records.sort_by_key(|r| (r.side, r.number));
    all
}

async fn try_trial(
    setting: &Setting,
    plan: &TrialPlan,
    folder: &Path,
    cancel: &CancellationToken,
    tell: &(dyn Fn(Happened) + Sync),
    repeated: &mut Vec<Repeated>,
) -> Result<TrialRecord> {
    for attempt in 0.. {
        let name = if attempt == 0 { plan.name() } else { format!("{}-again{attempt}", plan.name()) };
        let dir = folder.join(name);
        fs_err::create_dir_all(&dir)?;
        tell(Happened::Began(plan.clone()));
        let record = run(setting, plan, &dir, cancel).await?;
        let hung_at_boot = record.outcome == TrialOutcome::Hung && record.booted.is_none();
        let spoilt = record.outcome == TrialOutcome::Infrastructure || hung_at_boot;
        let again = spoilt && attempt < RETRIES;
        tell(Happened::Ended(Box::new(record.clone()), if again { Again::Yes } else { Again::No }));
        if !again {
            return Ok(record);
        }
        repeated.push(Repeated { folder: record.folder, outcome: record.outcome, why: record.why });
    }
    Err(Error::infrastructure("the count of attempts ran out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sides_take_turns_in_going_first_and_share_seeds() {
        let plan: Vec<_> = plan(2, Seed(1)).into();
        let names: Vec<_> = plan.iter().map(TrialPlan::name).collect();
        assert_eq!(names, ["before-000", "after-000", "after-001", "before-001"]);
        assert_eq!(plan[0].seed, plan[1].seed);
        assert_ne!(plan[1].seed, plan[2].seed);
    }
}
