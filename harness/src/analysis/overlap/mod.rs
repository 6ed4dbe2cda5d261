//! The overlap analysis: which critical sections ran at the same time. Both kernels are built
//! again, with a function tracer, and run trials of their own.

mod page;
mod section;

pub use section::full;

use super::{Analysis, Kernels, Prepared};
use crate::Result;
use crate::compare::Judgement;
use crate::conclusion::Conclusions;
use crate::environment::{self, Env};
use crate::files::read_json_if_there;
use crate::kernel::Config;
use crate::latency::{self, TrialTimes};
use crate::overlap::Overlap;
use crate::scenario::{Clock, OverlapSpec};
use crate::spec::AnalysisRequest;
use crate::trial::{self, Instruments, TimingSource, TrialRecord, TrialSetup, Watched};
use crate::unavailable::Unavailable;

/// The maximum number of traced trials a side, unless the scenario sets it.
const MOST: u32 = 10;

/// The kernels with a function tracer.
const TRACED: Kernels = Kernels::Configured("with a function tracer", Config::traced);

pub(crate) struct OverlapAnalysis;

impl Analysis for OverlapAnalysis {
    type Conclusion = Overlap;

    const NAME: &'static str = "overlap";

    fn kernels(prepared: &Prepared) -> Vec<Kernels> {
        if wanted(prepared).is_some() { vec![TRACED] } else { Vec::new() }
    }

    async fn conclude(
        prepared: &Prepared,
        _: &mut Judgement,
        _: &Conclusions,
        env: &Env<'_>,
    ) -> Result<Option<Overlap>> {
        let Some(wanted) = wanted(prepared) else { return Ok(None) };
        trace(prepared, &wanted, env).await.map(Some)
    }

    fn unavailable(prepared: &Prepared, why: Unavailable) -> Option<Overlap> {
        wanted(prepared).map(|_| Overlap::none(why))
    }
}

/// The traced functions: those that the scenario names, or the default ones if the user requested
/// the analysis.
fn wanted(prepared: &Prepared) -> Option<OverlapSpec> {
    let usual = || (prepared.analyses.overlap == AnalysisRequest::Always).then(OverlapSpec::default);
    prepared.context().scenario.overlap.clone().or_else(usual)
}

async fn trace(prepared: &Prepared, wanted: &OverlapSpec, env: &Env<'_>) -> Result<Overlap> {
    let mut kernels = prepared.kernels_for(TRACED, "overlap", env).await?;
    // Without a vmlinux there is no layout of lockdep's structures, so no lock order is read from
    // these trials.
    (kernels.before.vmlinux, kernels.after.vmlinux) = (None, None);
    let usual = prepared.run.trials.unwrap_or(prepared.context().scenario.trials).min(MOST);
    let number = wanted.trials.unwrap_or(usual);
    let place = prepared.folder.path().join("overlap");
    let trials = place.join("trials");
    fs_err::create_dir_all(&trials)?;
    // A continued run has some of them already.
    let left: Vec<_> = trial::plan(0..number, prepared.run.seed)
        .filter(|plan| !trials.join(plan.folder()).join("trial.json").exists())
        .collect();
    if !left.is_empty() {
        let context = prepared.further_context(&kernels).await?;
        let told = TimingSource::Calls(wanted.functions());
        let watched = Some(Watched { told, victims: Vec::new(), clock: Clock::Wall });
        let instruments = Instruments { watched, ..Instruments::default() };
        let start =
            environment::start(prepared.run.plan.cold, &context, &place.join("checkpoints"), env).await?;
        let setup = TrialSetup { context: &context, start: &start, instruments: &instruments, rounds: 1 };
        let all = u64::from(number) * 2;
        env.trials_begin(all, left.len());
        let ran = prepared.run_further(&[setup], left, prepared.run.plan.workers, &trials, env).await;
        env.trials_end();
        ran?;
    }
    read(&trials, wanted)
}

/// The overlaps of the traced trials.
fn read(trials: &std::path::Path, racing: &OverlapSpec) -> Result<Overlap> {
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
        // Trials with reports count, because they ran all the same.
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
