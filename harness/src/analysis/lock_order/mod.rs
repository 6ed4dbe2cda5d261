//! The lock order analysis: the differences in lock order. It reads the files of the judged trials.
//! It makes as many further boots as it needs to separate effects of the patch from the chance
//! state of one boot.

mod elsewhere;
mod section;

pub(crate) use section::foreseen_title;
pub use section::{full, neighbourhood, steps, title};

use std::collections::HashSet;
use std::path::Path;

use hotplug_lockorder::Union;
use hotplug_side::Side;

use super::{Analysis, Kernels, Prepared};
use crate::Result;
use crate::atlas;
use crate::compare::{Elsewhere, Judgement, LockOrderDiff, LockOrders};
use crate::conclusion::Conclusions;
use crate::environment::Env;
use crate::files::read_json_if_there;
use crate::record::{further_boot, read_locks};
use crate::trial::checkpoint::{self, Boot};
use crate::trial::{self, Instruments, TrialRecord, TrialSetup, TrialStart};
use crate::unavailable::Unavailable;

pub(crate) struct LockOrderAnalysis;

impl Analysis for LockOrderAnalysis {
    type Conclusion = LockOrderDiff;

    const NAME: &'static str = "lock order";

    fn kernels(prepared: &Prepared) -> Vec<Kernels> {
        // One image has one lock order, so all differences are chance.
        if prepared.kernels.before.image_hash == prepared.kernels.after.image_hash {
            Vec::new()
        } else {
            vec![Kernels::Judged]
        }
    }

    /// A report that only a further boot shows becomes a remark of the judgement.
    async fn conclude(
        prepared: &Prepared,
        judgement: &mut Judgement,
        _: &Conclusions,
        env: &Env<'_>,
    ) -> Result<Option<LockOrderDiff>> {
        let union = match read_locks(prepared.folder.path())? {
            Ok(union) => union,
            Err(why) => return Ok(Self::unavailable(prepared, why)),
        };
        let mut orders = LockOrders::new(union);
        if Self::kernels(prepared).is_empty() {
            remember(prepared, env);
            return Ok(Some(orders.diff(&Elsewhere::default())));
        }
        if orders.next_boot().is_some() {
            env.note(
                "boots",
                "further boots of both kernels, to separate differences in the lock order from chance",
            );
        }
        while let Some(number) = orders.next_boot() {
            let folder = further_boot(prepared.folder.path(), number);
            match boot(prepared, Boot(number), &folder, env).await? {
                Ok(boot) => orders.add_boot(&boot),
                Err(why) => {
                    tracing::warn!(%why, "no further boots: some differences in the lock order stay undecided");
                    break;
                }
            }
            remark(judgement, &folder, number)?;
        }
        let diff = orders.diff(&elsewhere::read(prepared, env).await?);
        remember(prepared, env);
        Ok(Some(diff))
    }

    fn unavailable(_: &Prepared, why: Unavailable) -> Option<LockOrderDiff> {
        Some(LockOrderDiff { none: Some(why), ..LockOrderDiff::default() })
    }
}

/// Adds what the run's guests showed to what is known of its kernels. The comparison does not need that,
/// so a failure is only logged.
fn remember(prepared: &Prepared, env: &Env<'_>) {
    if prepared.analyses.without_atlas {
        return;
    }
    if let Err(error) = atlas::add_run(env.cache, prepared.folder.path(), &prepared.run) {
        tracing::warn!(error = %error.in_one_line(), "the lock order of this run is not kept for later runs");
    }
}

/// The lock order of this boot of both kernels, and of one trial in each. A continued run may have
/// it already.
async fn boot(
    prepared: &Prepared,
    number: Boot,
    folder: &Path,
    env: &Env<'_>,
) -> Result<std::result::Result<Union, Unavailable>> {
    let is_whole =
        |union: &Union| Side::BOTH.into_iter().all(|side| union.restored(side) && union.trials(side) > 0);
    let trials = folder.join("trials");
    fs_err::create_dir_all(&trials)?;
    if let Ok(union) = read_locks(folder)?
        && is_whole(&union)
    {
        return Ok(Ok(union));
    }
    let evidence = folder.join("checkpoints");
    // Boxed: two concurrent boots are a large future.
    let checkpoints = checkpoint::prepare(prepared.context(), env.cache, number, &evidence, env.cancel);
    let start = match Box::pin(checkpoints).await? {
        Ok(checkpoints) => TrialStart::Restored(checkpoints),
        Err(why) => return Ok(Err(why)),
    };
    // The schedules are those of the run's own trials.
    let first = number.0 - Boot::FIRST.0 - 1;
    let plans = trial::plan(first..first + 1, prepared.run.seed).collect();
    let setup = TrialSetup {
        context: prepared.context(),
        start: &start,
        instruments: &Instruments::default(),
        rounds: 1,
    };
    prepared.run_further(&[setup], plans, prepared.run.plan.workers, &trials, env).await?;
    Ok(read_locks(folder)?.and_then(|union| {
        if is_whole(&union) {
            Ok(union)
        } else {
            Err(Unavailable::because(format!("a trial of boot {} gave no result", number.0)))
        }
    }))
}

/// Adds the reports of these trials as remarks. The trials have no part in the verdict, but their
/// reports should not be lost.
fn remark(judgement: &mut Judgement, folder: &Path, number: u32) -> Result<()> {
    let judged: HashSet<&str> = judgement.findings.iter().map(|finding| &*finding.signature).collect();
    let mut remarks = Vec::new();
    for entry in fs_err::read_dir(folder.join("trials"))? {
        let entry = entry?;
        let Some(record) = read_json_if_there::<TrialRecord>(&entry.path().join("trial.json"))? else {
            continue;
        };
        let unknown = record.reports.iter().filter(|seen| !judged.contains(&*seen.first.signature.hash));
        remarks.extend(unknown.map(|seen| {
            format!(
                "boots/{number}/trials/{} reported what no judged trial did: {}",
                record.folder, seen.first.title
            )
        }));
    }
    remarks.sort();
    judgement.remarks.extend(remarks);
    Ok(())
}
