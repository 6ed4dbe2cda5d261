//! The part of a comparison that is about the lock order: what the trials showed, and as many further boots as are needed
//! to tell what the patch did from what one boot had by chance.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

use hotplug_lockorder::Union;
use hotplug_side::Side;

use super::Prepared;
use crate::compare::{Judgement, LockOrderDiff, LockOrders};
use crate::environment::Env;
use crate::files::read_json_if_there;
use crate::record::{further_boot, read_locks};
use crate::trial::checkpoint::{self, Boot, Checkpoints};
use crate::trial::{self, Ran, TrialRecord, run_all};
use crate::{Error, Result};

/// Compares the lock orders of the run's kernels. What further boots report and no judged trial did is remarked.
pub(crate) async fn lock_order(
    prepared: &mut Prepared,
    judgement: &mut Judgement,
    env: &Env<'_>,
) -> Result<LockOrderDiff> {
    let union = match read_locks(prepared.folder.path())? {
        Ok(union) => union,
        Err(why) => return Ok(LockOrderDiff { none: Some(why), ..LockOrderDiff::default() }),
    };
    let mut orders = LockOrders::new(union);
    // One image has one lock order: whatever differs is chance.
    if prepared.kernels.before.image_hash == prepared.kernels.after.image_hash {
        return Ok(orders.diff());
    }
    if orders.next_boot().is_some() {
        env.note("boots", "more of both kernels, to tell what differs in the lock order from chance");
    }
    while let Some(number) = orders.next_boot() {
        let folder = further_boot(prepared.folder.path(), number);
        match boot(prepared, Boot(number), &folder, env).await? {
            Ok(boot) => orders.add_boot(&boot),
            Err(why) => {
                tracing::warn!(%why, "no more boots: some of what differs in the lock order stays undecided");
                break;
            }
        }
        remark(judgement, &folder, number)?;
    }
    Ok(orders.diff())
}

/// What this boot of both kernels showed, and one trial in each; a run that goes on may have it already.
async fn boot(
    prepared: &mut Prepared,
    number: Boot,
    folder: &Path,
    env: &Env<'_>,
) -> Result<std::result::Result<Union, String>> {
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
    // Boxed: two boots at once are a large future.
    match Box::pin(checkpoint::prepare(&prepared.setting, env.cache, number, &evidence, env.cancel)).await? {
        Checkpoints::Ready(checkpoints) => prepared.setting.checkpoints = Some(*checkpoints),
        Checkpoints::None(why) => return Ok(Err(why)),
    }
    // Schedules that the run's own trials had.
    let first = number.0 - Boot::FIRST.0 - 1;
    let plans = trial::plan(first..first + 1, prepared.run.seed);
    let tell = |_| ControlFlow::Continue(());
    let Ran { stopped, .. } =
        run_all(&prepared.setting, plans, prepared.run.plan.workers, &trials, env.cancel, &tell).await;
    stopped.map_or(Ok(()), Err::<(), Error>)?;
    Ok(read_locks(folder)?.and_then(|union| {
        if is_whole(&union) {
            Ok(union)
        } else {
            Err(format!("a trial of boot {} came to nothing", number.0))
        }
    }))
}

/// These trials have no part in the verdict, and what they find is not for nothing.
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
