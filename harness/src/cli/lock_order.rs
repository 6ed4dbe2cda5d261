//! The part of a comparison that is about the lock order: what the trials showed, and as many further boots as are needed
//! to tell what the patch did to the boot from chance.

use tokio_util::sync::CancellationToken;

use super::comparison::Ready;
use super::ground;
use crate::Result;
use crate::compare::{LockOrderDiff, LockOrders};
use crate::kernel::Cache;
use crate::record::{Start, read_locks};
use crate::side::{Side, Sides};
use crate::trial::checkpoint::boot_again;

/// Compares the lock orders of the run's kernels.
pub(super) async fn lock_order(
    ready: &mut Ready,
    cache: &Cache,
    cancel: &CancellationToken,
) -> Result<LockOrderDiff> {
    let none = |why: String| Ok(LockOrderDiff { none: Some(why), ..LockOrderDiff::default() });
    let union = match read_locks(ready.folder.path())? {
        Ok(union) => union,
        Err(why) => return none(why),
    };
    let mut orders = LockOrders::new(union);
    // One image has one lock order: whatever differs is chance.
    if ready.kernels.before.image_hash == ready.kernels.after.image_hash {
        return Ok(orders.diff());
    }
    if orders.next_boot().is_some() {
        if ready.setting.checkpoints.is_none() && ready.run.start == Some(Start::Restored) {
            // A run that went on although all its trials were done.
            ground::start(false, &mut ready.setting, cache, &ready.folder.checkpoints(), cancel).await?;
        }
        eprintln!("boots     more of both kernels, to tell what differs in the lock order from chance");
    }
    while let Some(number) = orders.next_boot() {
        let boot = |side: Side| boot_again(&ready.setting, side, number, cancel);
        let (before, after) = tokio::try_join!(boot(Side::Before), boot(Side::After))?;
        match (before, after) {
            (Ok(before), Ok(after)) => orders.add_boots(&Sides { before, after }),
            (Err(why), _) | (_, Err(why)) => {
                tracing::warn!(%why, "a boot gave no lock order: what only boots show stays undecided");
                break;
            }
        }
    }
    Ok(orders.diff())
}
