//! The part of a comparison that asks what ran at the same time: both kernels once more, with a function tracer, and trials of
//! their own.

use std::ops::ControlFlow;

use super::Prepared;
use crate::environment::{self, Env};
use crate::error::ErrorKind;
use crate::events::Event;
use crate::files::read_json_if_there;
use crate::kernel::Config;
use crate::latency::{self, TrialTimes};
use crate::overlap::Overlap;
use crate::scenario::{Clock, Racing};
use crate::trial::{self, Happened, Ran, Told, TrialRecord, Watched, run_all};
use crate::{Error, Result};

/// Traced trials a side unless the scenario says otherwise, at most.
const MOST: u32 = 10;

/// Asks. An error is an interruption, or our own disk's.
pub(crate) async fn overlap(prepared: &Prepared, racing: &Racing, env: &Env<'_>) -> Result<Overlap> {
    match Box::pin(trace(prepared, racing, env)).await {
        Ok(overlap) => Ok(overlap),
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
        Err(error) => Ok(Overlap::none(error.to_string())),
    }
}

async fn trace(prepared: &Prepared, racing: &Racing, env: &Env<'_>) -> Result<Overlap> {
    let built = prepared.built_again("overlap", "with a function tracer", Config::traced, env).await?;
    let mut kernels = built.unwrap_or_else(|| prepared.kernels.clone());
    // No layout of lockdep's structures, which is read from a vmlinux: these trials are not asked for a lock order.
    (kernels.before.vmlinux, kernels.after.vmlinux) = (None, None);
    let usual = prepared.run.trials.unwrap_or(prepared.setting.scenario.trials).min(MOST);
    let wanted = racing.trials.unwrap_or(usual);
    let place = prepared.folder.path().join("overlap");
    let trials = place.join("trials");
    fs_err::create_dir_all(&trials)?;
    // A run that goes on has some of them already.
    let left: Vec<_> = trial::plan(0..wanted, prepared.run.seed)
        .filter(|plan| !trials.join(plan.folder()).join("trial.json").exists())
        .collect();
    if !left.is_empty() {
        let mut setting = prepared.further(&kernels).await?;
        let told = Told::Calls(racing.functions());
        setting.watched = Some(Watched { told, victims: Vec::new(), clock: Clock::Wall });
        let evidence = place.join("checkpoints");
        environment::start(prepared.run.plan.cold, &mut setting, &evidence, env).await?;
        let count = |trials: usize| u64::try_from(trials).unwrap_or(u64::MAX);
        let all = u64::from(wanted) * 2;
        env.events.event(&Event::TrialsBegin { all: Some(all), done: all - count(left.len()) });
        let tell = |happened: Happened| {
            env.events.event(&Event::FurtherTrial(&happened));
            ControlFlow::Continue(())
        };
        let workers = prepared.run.plan.workers;
        let Ran { stopped, .. } =
            run_all(&setting, left.into_iter(), workers, &trials, env.cancel, &tell).await;
        env.events.event(&Event::TrialsEnd);
        stopped.map_or(Ok(()), Err::<(), Error>)?;
    }
    read(&trials, racing)
}

/// What the traced trials say.
fn read(trials: &std::path::Path, racing: &Racing) -> Result<Overlap> {
    let mut overlap = Overlap::new(racing);
    let mut folders = Vec::new();
    for entry in fs_err::read_dir(trials)? {
        folders.push(entry?.path());
    }
    folders.sort();
    for folder in folders {
        let Some(record) = read_json_if_there::<TrialRecord>(&folder.join("trial.json"))? else { continue };
        if record.is_spoilt() {
            continue;
        }
        // A trial that reported ran all the same.
        match read_json_if_there::<TrialTimes>(&folder.join(latency::FILE))? {
            Some(TrialTimes { odd: Some(odd), .. }) => {
                overlap.leave_out(record.side, &format!("{}: {odd}", record.folder));
            }
            Some(times) => overlap.add_trial(&times, &format!("overlap/trials/{}", record.folder)),
            None => overlap.leave_out(record.side, &format!("{}: {}", record.folder, record.why)),
        }
    }
    overlap.sort();
    Ok(overlap)
}
