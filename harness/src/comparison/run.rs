//! A comparison from its first trial to its result.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use futures::future::LocalBoxFuture;
use hotplug_kreport::symbols::Symbols;
use hotplug_side::{Side, Sides};

use super::prepare::prepare;
use super::refine::{following, refine};
use crate::analysis::Prepared;
use crate::compare::{Judge, Judgement, Verdict};
use crate::environment::Env;
use crate::events::{Event, Inner};
use crate::kernel::Kernel;
use crate::record::{Beside, Run, RunFolder, RunResult};
use crate::spec::{ComparisonSpec, Request};
use crate::trial::{self, Again, Happened, Ran, run_all};
use crate::{Error, Result};

/// A comparison that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The run's folder.
    pub folder: RunFolder,
    /// Its result, which `result.json` has.
    pub result: RunResult,
    /// The judge of its trials, which can be merged with others'.
    pub judge: Judge,
    /// The two kernels, held so that no prune takes them away.
    pub kernels: Sides<Kernel>,
    /// The time before the first trial, most of it for checkpoints, seconds.
    pub start_seconds: f64,
    /// Why not all trials ran. The result is of those that did.
    pub stopped: Option<Error>,
}

/// A comparison inside another run, to its end: its listener receives progress and no verdict. An error where not all
/// trials ran.
pub(crate) async fn run_inner(mut prepared: Prepared, env: &Env<'_>) -> Result<Finished> {
    prepared.analyses.control = Request::Omitted;
    let inner = Inner(env.events);
    let finished = run(prepared, &Env { events: &inner, ..*env }).await?;
    match finished.stopped {
        None => Ok(finished),
        Some(error) => Err(error),
    }
}

/// The same from its spec.
pub(crate) async fn compare_inner(spec: &ComparisonSpec, env: &Env<'_>) -> Result<Finished> {
    run_inner(prepare(spec, env).await?, env).await
}

/// Runs the trials that are left, judges all of them, runs the analyses, and writes `result.json`.
///
/// An error where nothing could be written. Whatever else ends the trials early is in `stopped`.
pub fn run<'a>(prepared: Prepared, env: &'a Env<'a>) -> LocalBoxFuture<'a, Result<Finished>> {
    Box::pin(to_the_end(prepared, env))
}

async fn to_the_end(mut prepared: Prepared, env: &Env<'_>) -> Result<Finished> {
    let Run { plan, trials, seed, .. } = prepared.run.clone();
    let count = trials.map(|end| end.saturating_sub(plan.first));
    let then = prepared.judge.tally();
    let enough = |judge: &Judge, seconds: f64| {
        let left = count.map_or(0, |all| all.saturating_sub(judge.trials_seen()));
        plan.seconds.is_some_and(|most| seconds >= most)
            || plan.until_report && judge.has_findings()
            || plan.until_seen.as_deref().is_some_and(|called| judge.seen(called).seen > 0)
            || plan.until_decided && judge.is_settled(left)
            || judge.is_hopeless(&then)
    };
    let past = std::mem::take(&mut prepared.past);
    let new = past.next..trials.unwrap_or(u32::MAX);
    let over = past.left.is_empty() && new.is_empty() || enough(&prepared.judge, prepared.earlier);
    let mut ran = Ran::default();
    let (mut seconds, mut start_seconds) = (prepared.earlier, 0.0);
    if over {
        env.note("trials", &format!("all {} were done before; they are judged again", past.done));
    } else {
        let starting = Instant::now();
        prepared.settle_start(env).await?;
        start_seconds = starting.elapsed().as_secs_f64();
        env.events.event(&Event::Began(&prepared.run));
        let all = count.map(|n| u64::from(n) * 2);
        env.events.event(&Event::TrialsBegin { all, done: past.done.into() });
        let judge = Mutex::new(&mut prepared.judge);
        let began = Instant::now();
        let tell = |happened: Happened| {
            env.events.event(&Event::Trial(&happened));
            if let Happened::Ended(record, Again::No) = &happened {
                let mut judge = judge.lock().unwrap_or_else(PoisonError::into_inner);
                let seconds = prepared.earlier + began.elapsed().as_secs_f64();
                judge.add(record, seconds);
                if enough(&judge, seconds) {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        };
        let plans = past.left.into_iter().chain(trial::plan(new, seed));
        ran = run_all(&prepared.setting, plans, plan.workers, &prepared.folder.trials(), env.cancel, &tell)
            .await;
        seconds += began.elapsed().as_secs_f64();
        env.events.event(&Event::TrialsEnd);
    }
    find_lines(&prepared.kernels, &mut prepared.judge);
    let mut judgement = prepared.judge.judgement();
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
        let following = following(&prepared);
        // Without analyses the whole screen comes at once.
        if !following.is_empty() {
            let result = result(prepared.run.clone(), judgement.clone(), Beside::default());
            env.events.event(&Event::Verdict { result: &result, following: &following });
        }
        // The trials are done and judged all the same.
        ran.stopped = Box::pin(refine(&mut prepared, &mut judgement, &mut beside, env)).await.err();
    }
    let result = result(prepared.run, judgement, beside);
    match (prepared.folder.write("result.json", &result), ran.stopped) {
        (Ok(()), stopped) => Ok(Finished {
            folder: prepared.folder,
            result,
            judge: prepared.judge,
            kernels: prepared.kernels,
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
