//! A comparison from its first trial to its result, for `compare`, its control, `prove` and the rest.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hotplug_kreport::symbols::Symbols;
use hotplug_side::{Side, Sides};
use tokio_util::sync::CancellationToken;

use super::compare::{CompareArgs, Planting};
use super::ready::{Audience, Ready, prepare};
use super::refine::{refine, tell_first};
use crate::compare::{Judge, Judgement, Verdict};
use crate::kernel::{Cache, Kernel};
use crate::present::{Progress, stream};
use crate::record::{Beside, Run, RunFolder, RunResult};
use crate::trial::{self, Again, Happened, Ran, run_all};
use crate::{Error, Result};

/// A run that has ended.
pub(super) struct Finished {
    pub(super) folder: RunFolder,
    pub(super) result: RunResult,
    /// What it was judged by.
    pub(super) judge: Judge,
    /// Held, so that no prune takes them away.
    pub(super) kernels: Sides<Kernel>,
    /// What it took until the first trial could begin, checkpoints above all, seconds.
    pub(super) start_seconds: f64,
    /// Why not all trials ran. The result is then of those that did.
    pub(super) stopped: Option<Error>,
}

/// A comparison, new or gone on with, to its end, without a screen. Beside its trials it asks at most what takes longer.
pub(super) async fn whole(args: &CompareArgs, cache: &Cache, cancel: &CancellationToken) -> Result<Finished> {
    let mut ready = prepare(args, cache, cancel).await?;
    ready.asked.whole = false;
    to_the_end(ready, cache, cancel).await
}

/// The same, and what differs in the lock order.
pub(super) async fn with_locks(
    args: &CompareArgs,
    cache: &Cache,
    cancel: &CancellationToken,
) -> Result<Finished> {
    to_the_end(prepare(args, cache, cancel).await?, cache, cancel).await
}

async fn to_the_end(mut ready: Ready, cache: &Cache, cancel: &CancellationToken) -> Result<Finished> {
    ready.asked.control = Planting::Unasked;
    let finished = finish(ready, cache, cancel).await?;
    match finished.stopped {
        None => Ok(finished),
        Some(error) => Err(error),
    }
}

/// Runs the trials that are left, judges all of them, refines that by what was asked beside, writes the result.
pub(super) async fn finish(mut ready: Ready, cache: &Cache, cancel: &CancellationToken) -> Result<Finished> {
    let Run { plan, trials, seed, .. } = ready.run.clone();
    let count = trials.map(|end| end.saturating_sub(plan.first));
    let then = ready.judge.tally();
    let enough = |judge: &Judge, seconds: f64| {
        let left = count.map_or(0, |all| all.saturating_sub(judge.trials_seen()));
        plan.seconds.is_some_and(|most| seconds >= most)
            || plan.until_report && judge.has_findings()
            || plan.until_seen.as_deref().is_some_and(|called| judge.seen(called).seen > 0)
            || plan.until_decided && judge.is_settled(left)
            || judge.is_hopeless(&then)
    };
    let past = std::mem::take(&mut ready.past);
    let new = past.next..trials.unwrap_or(u32::MAX);
    let over = past.left.is_empty() && new.is_empty() || enough(&ready.judge, ready.earlier);
    let mut ran = Ran::default();
    let (mut seconds, mut start_seconds) = (ready.earlier, 0.0);
    if over {
        eprintln!("trials    all {} were done before; they are judged again", past.done);
    } else {
        let starting = Instant::now();
        ready.settle_start(cache, cancel).await?;
        start_seconds = starting.elapsed().as_secs_f64();
        let progress = Progress::of_trials(count.map(|n| u64::from(n) * 2), past.done.into());
        let judge = Mutex::new(&mut ready.judge);
        let began = Instant::now();
        if ready.audience == Audience::Program {
            stream::began(&mut std::io::stdout(), &ready.run)?;
        }
        let tell = |happened: Happened| {
            progress.tell(&happened);
            // Who watched may have gone away; the trials go on.
            let watched = (ready.audience == Audience::Program)
                .then(|| stream::happened(&mut std::io::stdout(), &happened));
            if let Some(Err(error)) = watched {
                tracing::warn!(%error, "nobody reads what happens");
            }
            if let Happened::Ended(record, Again::No) = &happened {
                let mut judge = judge.lock().unwrap_or_else(PoisonError::into_inner);
                let seconds = ready.earlier + began.elapsed().as_secs_f64();
                judge.add(record, seconds);
                if enough(&judge, seconds) {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        };
        let plans = past.left.into_iter().chain(trial::plan(new, seed));
        ran = run_all(&ready.setting, plans, plan.workers, &ready.folder.trials(), cancel, &tell).await;
        seconds += began.elapsed().as_secs_f64();
        progress.finish();
    }
    find_lines(&ready.kernels, &mut ready.judge);
    let mut judgement = ready.judge.judgement();
    if let Some(error) = &ran.stopped {
        let done = judgement.tally.before.all() + judgement.tally.after.all();
        let planned = count.map_or_else(String::new, |n| format!(" of {}", n * 2));
        let reason = format!("{error} after {done}{planned} trials");
        judgement = Judgement { verdict: Some(Verdict::Inconclusive), reason, ..judgement };
    }
    let repeated = [past.repeated, ran.repeated].concat();
    let result =
        |run: Run, judgement, beside| RunResult::new(run, judgement, repeated.clone(), seconds, beside);
    let mut beside = Beside::default();
    if ran.stopped.is_none() {
        tell_first(&ready, &result(ready.run.clone(), judgement.clone(), Beside::default()));
        // The trials are done and judged all the same.
        ran.stopped = Box::pin(refine(&mut ready, &mut judgement, &mut beside, cache, cancel)).await.err();
    }
    let result = result(ready.run, judgement, beside);
    match (ready.folder.write("result.json", &result), ran.stopped) {
        (Ok(()), stopped) => Ok(Finished {
            folder: ready.folder,
            result,
            judge: ready.judge,
            kernels: ready.kernels,
            start_seconds,
            stopped,
        }),
        // What stopped it is what is told, also where the result could not be written either.
        (Err(_), Some(error)) | (Err(error), None) => Err(error),
    }
}

/// Gives the frames of all reports their file, line and inlined callers, from the vmlinux of the kernel that printed
/// them. An image that the user gave has none, and its frames stay as they were printed.
fn find_lines(kernels: &Sides<Kernel>, judge: &mut Judge) {
    for (side, kernel) in [(Side::Before, &kernels.before), (Side::After, &kernels.after)] {
        let mut reports = judge.examples_mut(side).peekable();
        let Some(vmlinux) = kernel.vmlinux.as_ref().filter(|_| reports.peek().is_some()) else { continue };
        match Symbols::open(vmlinux) {
            Ok(symbols) => reports.for_each(|report| symbols.resolve(report)),
            Err(error) => tracing::warn!(%error, "frames get no lines"),
        }
    }
}
