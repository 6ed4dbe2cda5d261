//! Runs a comparison from its first trial to its result.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use futures::future::LocalBoxFuture;
use hotplug_kreport::symbols::Symbols;
use hotplug_side::{Side, Sides};
use tracing::Instrument;

use super::deal::Shares;
use super::prepare::{Preparation, begin};
use super::refine::{following, refine};
use super::rounds::rounds;
use crate::analysis::Prepared;
use crate::compare::{Judge, Judgement};
use crate::conclusion::Conclusions;
use crate::environment::Env;
use crate::events::{Inner, RunEvent};
use crate::kernel::Kernel;
use crate::record::{Run, RunFolder, RunResult};
use crate::spec::{AnalysesSpec, AnalysisRequest, ComparisonSpec};
use crate::text::harmless;
use crate::trial::{Again, Happened, Instruments, TrialSetup, TrialsRun, VmcoreQuota, run_all, vmcores_of};
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
    /// Its kernels, held so that no `prune` removes them. A kernel that does not compile is missing.
    pub kernels: Vec<Kernel>,
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
    let finished = run_trials_of(prepared, &Env { events: &inner, ..*env }).await?;
    match finished.stopped {
        None => Ok(finished),
        Some(error) => Err(error),
    }
}

/// Prepares a comparison from its spec, and runs it inside another run.
pub(crate) async fn compare_inner(spec: &ComparisonSpec, env: &Env<'_>) -> Result<Finished> {
    run_inner(begin(spec, env).await?, env).await
}

/// Runs the remaining trials, judges all of them, runs the analyses, and writes `result.json`.
///
/// Fails if the result could not be written. Any other reason that ends the trials early is in
/// `stopped`.
pub fn run<'a>(prepared: Preparation, env: &'a Env<'a>) -> LocalBoxFuture<'a, Result<Finished>> {
    match prepared {
        Preparation::Trials(prepared) => run_trials_of(*prepared, env),
        Preparation::Settled(finished) => Box::pin(std::future::ready(Ok(*finished))),
    }
}

fn run_trials_of<'a>(prepared: Prepared, env: &'a Env<'a>) -> LocalBoxFuture<'a, Result<Finished>> {
    let span = tracing::debug_span!("run", id = prepared.run.id);
    Box::pin(to_the_end(prepared, env).instrument(span))
}

/// The judged trials of a run, after they have ended.
#[derive(Default)]
struct Judged {
    /// The trials that were tried again, and the error that ended the trials early.
    ran: TrialsRun,
    /// The planned number of trials of both sides. None without an end.
    planned: Option<u64>,
    /// Seconds of trials, with those of an earlier process.
    seconds: f64,
    /// Seconds before the first trial.
    start_seconds: f64,
}

async fn to_the_end(mut prepared: Prepared, env: &Env<'_>) -> Result<Finished> {
    let Judged { mut ran, planned, seconds, start_seconds } = run_trials(&mut prepared, env).await?;
    find_lines(&prepared.kernels, &mut prepared.judge);
    let mut judgement = prepared.judge.judgement();
    if let Some(told) = &mut judgement.no_boot {
        told.console = console_of(&prepared.folder, told.shown_by());
        // The other analyses would build and boot more of these kernels.
        prepared.analyses = AnalysesSpec::none();
    }
    if let Some(error) = &ran.stopped {
        let done = judgement.tally.before.all() + judgement.tally.after.all();
        let planned = planned.map_or_else(String::new, |n| format!(" of {n}"));
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
    let mut result = result(prepared.run, judgement, conclusions);
    if result.run.spec.running.vmcores_asked().is_some() {
        let vmlinux = |side| prepared.kernels.of(side).vmlinux.clone();
        result.vmcores = Some(vmcores_of(&prepared.folder.trials(), vmlinux)?);
    }
    match (prepared.folder.write("result.json", &result), ran.stopped) {
        (Ok(()), stopped) => Ok(Finished {
            folder: prepared.folder,
            result,
            judge: prepared.judge,
            kernels: vec![prepared.kernels.before, prepared.kernels.after],
            start_seconds,
            stopped,
        }),
        // The reason of the early end takes precedence over the failure to write the result.
        (Err(_), Some(error)) | (Err(error), None) => Err(error),
    }
}

/// Runs the trials that are left, and judges them. A portfolio looks at its findings twice: the
/// second time after more trials of the scenarios whose findings were undecided.
async fn run_trials(prepared: &mut Prepared, env: &Env<'_>) -> Result<Judged> {
    let Run { plan, seed, .. } = prepared.run.clone();
    let mut shares = Shares::of(prepared);
    let planned = shares.planned();
    // Of both sides; without an end, unknown.
    let count = planned.as_ref().map(|planned| planned.values().map(|n| u64::from(*n) * 2).sum::<u64>());
    let done: u32 = prepared.parts.iter().map(|part| part.past.done).sum();
    let enough = |judge: &Judge, seconds: f64, shares: &Shares| {
        plan.seconds.is_some_and(|most| seconds >= most)
            || plan.until_report && judge.has_findings()
            || plan.until_seen.as_deref().is_some_and(|called| judge.seen(called).seen > 0)
            || plan.until_decided && judge.is_decided()
            || shares.are_hopeless(judge)
            || judge.no_boot().is_some()
    };
    let over = shares.is_empty() || enough(&prepared.judge, prepared.earlier, &shares);
    let mut judged = Judged { planned: count, seconds: prepared.earlier, ..Judged::default() };
    if over {
        env.note("trials", &format!("all {done} are done already, and are judged again"));
        return Ok(judged);
    }
    let starting = Instant::now();
    let starts = prepared.settle_start(env).await?;
    judged.start_seconds = starting.elapsed().as_secs_f64();
    env.events.event(&RunEvent::Began(&prepared.run));
    let vmcores = prepared.run.spec.running.vmcores_asked();
    let vmcores = vmcores.map(|number| VmcoreQuota::new(number, &prepared.folder.trials()).into());
    let instruments = Instruments { vmcores, ..Instruments::default() };
    let setups: Vec<TrialSetup<'_>> = prepared
        .parts
        .iter()
        .zip(&starts)
        .map(|(part, start)| {
            let context = &part.context;
            let rounds = rounds(&plan, shares.trials_of(&context.scenario.name), context, env);
            TrialSetup { context, start, instruments: &instruments, rounds }
        })
        .collect();
    let began = Instant::now();
    // Then a scenario with an undecided finding may get more trials at any time.
    let mut all = count.filter(|_| !plan.until_decided || plan.looks < 2);
    let mut done = u64::from(done);
    for look in 1..=plan.looks.max(1) {
        env.events.event(&RunEvent::TrialsBegin { label: "trials", all, done });
        let judge = Mutex::new(&mut prepared.judge);
        let tell = |happened: Happened| {
            env.events.event(&RunEvent::Trial(&happened));
            if let Happened::Ended(record, again) = &happened {
                let mut judge = judge.lock().unwrap_or_else(PoisonError::into_inner);
                if *again == Again::Yes {
                    judge.add_repeated(record);
                    return ControlFlow::Continue(());
                }
                let seconds = prepared.earlier + began.elapsed().as_secs_f64();
                judge.add(record, seconds);
                if enough(&judge, seconds, &shares) {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        };
        let plans = shares.deal(seed, |place| setups[place].rounds, &judge);
        let this = run_all(&setups, plans, plan.workers, &prepared.folder.trials(), env.cancel, &tell).await;
        env.events.event(&RunEvent::TrialsEnd);
        judged.ran.repeated.extend(this.repeated);
        judged.ran.stopped = this.stopped;
        if judged.ran.stopped.is_some() || look == plan.looks.max(1) {
            break;
        }
        let more = shares.look_again(&prepared.judge);
        if more == 0 || enough(&prepared.judge, prepared.earlier + began.elapsed().as_secs_f64(), &shares) {
            break;
        }
        env.note("trials", "more trials of the scenarios with undecided findings");
        (all, done) = (Some(u64::from(more) * 2), 0);
    }
    judged.seconds += began.elapsed().as_secs_f64();
    Ok(judged)
}

/// The last lines of the console of the side's first trial.
fn console_of(folder: &RunFolder, side: Side) -> Vec<String> {
    /// As many as a panic has with its call trace.
    const LINES: usize = 20;
    let mut trials: Vec<_> = fs_err::read_dir(folder.trials())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().contains(&side.to_string()))
        })
        .collect();
    trials.sort();
    let text = trials.first().and_then(|trial| fs_err::read(trial.join("serial.log")).ok());
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    last.iter().map(|line| harmless(line, 400)).collect()
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
