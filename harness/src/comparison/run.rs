//! Runs a comparison from its first trial to its result.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use futures::future::LocalBoxFuture;
use hotplug_kreport::symbols::Symbols;
use hotplug_side::{Side, Sides};
use tracing::Instrument;

use super::deal::Shares;
use super::prepare::prepare;
use super::refine::{following, refine};
use crate::analysis::Prepared;
use crate::compare::{Judge, Judgement};
use crate::conclusion::Conclusions;
use crate::environment::Env;
use crate::events::{Inner, RunEvent};
use crate::kernel::Kernel;
use crate::record::{Run, RunFolder, RunResult};
use crate::spec::{AnalysisRequest, ComparisonSpec};
use crate::trial::{Again, Happened, Instruments, TrialSetup, TrialsRun, run_all};
use crate::{Error, Result};

/// A comparison that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The run's folder.
    pub folder: RunFolder,
    /// Its result, as in `result.json`.
    pub result: RunResult,
    /// The judge of its trials, which can be merged with others.
    pub judge: Judge,
    /// The two kernels, held so that no `prune` removes them.
    pub kernels: Sides<Kernel>,
    /// Seconds before the first trial, most of them for checkpoints.
    pub start_seconds: f64,
    /// Why not all trials ran. The result covers those that did.
    pub stopped: Option<Error>,
}

/// Runs a comparison inside another run. The outer listener receives progress and no verdict. Fails
/// if not all trials ran.
pub(crate) async fn run_inner(mut prepared: Prepared, env: &Env<'_>) -> Result<Finished> {
    prepared.analyses.control = AnalysisRequest::Omitted;
    let inner = Inner(env.events);
    let finished = run(prepared, &Env { events: &inner, ..*env }).await?;
    match finished.stopped {
        None => Ok(finished),
        Some(error) => Err(error),
    }
}

/// Prepares a comparison from its spec, and runs it inside another run.
pub(crate) async fn compare_inner(spec: &ComparisonSpec, env: &Env<'_>) -> Result<Finished> {
    run_inner(prepare(spec, env).await?, env).await
}

/// Runs the remaining trials, judges all of them, runs the analyses, and writes `result.json`.
///
/// Fails if the result could not be written. Any other reason that ends the trials early is in
/// `stopped`.
pub fn run<'a>(prepared: Prepared, env: &'a Env<'a>) -> LocalBoxFuture<'a, Result<Finished>> {
    let span = tracing::debug_span!("run", id = prepared.run.id);
    Box::pin(to_the_end(prepared, env).instrument(span))
}

async fn to_the_end(mut prepared: Prepared, env: &Env<'_>) -> Result<Finished> {
    let Run { plan, seed, .. } = prepared.run.clone();
    let shares = Shares::of(&prepared);
    let planned = shares.planned();
    // Of both sides; without an end, unknown.
    let count = planned.as_ref().map(|planned| planned.values().map(|n| u64::from(*n) * 2).sum::<u64>());
    let done: u32 = prepared.parts.iter().map(|part| part.past.done).sum();
    let enough = |judge: &Judge, seconds: f64| {
        plan.seconds.is_some_and(|most| seconds >= most)
            || plan.until_report && judge.has_findings()
            || plan.until_seen.as_deref().is_some_and(|called| judge.seen(called).seen > 0)
            || plan.until_decided && judge.is_settled(planned.as_ref().unwrap_or(&BTreeMap::new()))
            || shares.are_hopeless(judge)
    };
    let over = shares.is_empty() || enough(&prepared.judge, prepared.earlier);
    let mut ran = TrialsRun::default();
    let (mut seconds, mut start_seconds) = (prepared.earlier, 0.0);
    if over {
        env.note("trials", &format!("all {done} are done already, and are judged again"));
    } else {
        let starting = Instant::now();
        let starts = prepared.settle_start(env).await?;
        start_seconds = starting.elapsed().as_secs_f64();
        env.events.event(&RunEvent::Began(&prepared.run));
        env.events.event(&RunEvent::TrialsBegin { all: count, done: done.into() });
        let judge = Mutex::new(&mut prepared.judge);
        let began = Instant::now();
        let tell = |happened: Happened| {
            env.events.event(&RunEvent::Trial(&happened));
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
        let instruments = Instruments::default();
        let parts = prepared.parts.iter().zip(&starts);
        let setups: Vec<TrialSetup<'_>> = parts
            .map(|(part, start)| TrialSetup { context: &part.context, start, instruments: &instruments })
            .collect();
        let plans = shares.deal(seed, &judge);
        ran = run_all(&setups, plans, plan.workers, &prepared.folder.trials(), env.cancel, &tell).await;
        seconds += began.elapsed().as_secs_f64();
        env.events.event(&RunEvent::TrialsEnd);
    }
    find_lines(&prepared.kernels, &mut prepared.judge);
    let mut judgement = prepared.judge.judgement();
    if let Some(error) = &ran.stopped {
        let done = judgement.tally.before.all() + judgement.tally.after.all();
        let planned = count.map_or_else(String::new, |n| format!(" of {n}"));
        let reason = format!("{error} after {done}{planned} trials");
        judgement = judgement.stopped(reason);
    }
    let earlier = prepared.parts.iter().flat_map(|part| part.past.repeated.clone());
    let repeated: Vec<_> = earlier.chain(ran.repeated).collect();
    let result = |run: Run, judgement: Judgement, conclusions| {
        RunResult::new(run, judgement, repeated.clone(), seconds, conclusions)
    };
    let mut conclusions = Conclusions::of_trials(&judgement);
    if ran.stopped.is_none() {
        let following = following(&prepared);
        // Without analyses, the whole screen is printed at once.
        if !following.is_empty() {
            let so_far = Conclusions::of_trials(&judgement);
            let result = result(prepared.run.clone(), judgement.clone(), so_far);
            env.events.event(&RunEvent::Verdict { result: &result, following: &following });
        }
        // An interruption here does not affect the trials, which are done and judged.
        ran.stopped = Box::pin(refine(&prepared, &mut judgement, &mut conclusions, env)).await.err();
    }
    let result = result(prepared.run, judgement, conclusions);
    match (prepared.folder.write("result.json", &result), ran.stopped) {
        (Ok(()), stopped) => Ok(Finished {
            folder: prepared.folder,
            result,
            judge: prepared.judge,
            kernels: prepared.kernels,
            start_seconds,
            stopped,
        }),
        // The reason of the early end takes precedence over the failure to write the result.
        (Err(_), Some(error)) | (Err(error), None) => Err(error),
    }
}

/// Adds file, line and inlined callers to the frames of all reports, from the vmlinux of the kernel
/// that printed them. An image that the user gave has no vmlinux, and its frames stay as they were
/// printed.
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
