//! A guest's lock order at the end of its trial, or of the boot of its checkpoint: collected while the guest stands
//! still, and kept in its folder.

use std::path::Path;
use std::sync::Arc;

use hotplug_lockorder::{Collected, Layout, LockOrder, Odd, TrialLocks};

use super::outcome::TrialRecord;
use super::vm::Vm;
use crate::Result;
use crate::files::write_json_compact;
use crate::limits::limits;

/// Stops the guest and reads its lock order, or says why there is none. It goes on no more: that is the trial's end.
pub(super) async fn collect(
    vm: &Vm,
    layout: &Result<Arc<Layout>, String>,
) -> std::result::Result<Collected, String> {
    let layout = layout.as_ref().map_err(Clone::clone)?;
    let began = vm.journal.now();
    let whole = async {
        vm.stop().await.map_err(|error| Odd(error.to_string()))?;
        hotplug_lockorder::read(layout, async |address, bytes| vm.memory(address, bytes).await.map_err(Odd))
            .await
    };
    match tokio::time::timeout(limits().memory, whole).await {
        Ok(Ok(order)) => Ok(Collected { order, microseconds: vm.journal.now().0.saturating_sub(began.0) }),
        Ok(Err(odd)) => Err(odd.to_string()),
        Err(_) => {
            Err(format!("QEMU did not give the guest's memory within {} s", limits().memory.as_secs_f64()))
        }
    }
}

/// Writes down what was collected of a trial, what its checkpoint had already left out.
pub(super) fn write(
    dir: &Path,
    record: &TrialRecord,
    collected: std::result::Result<Collected, String>,
    base: Option<&LockOrder>,
) -> Result<()> {
    let (collected, blind) = match collected {
        Ok(collected) if !record.armed_to_the_end() => {
            (collected, Some("lockdep was not on from its start to its end".to_owned()))
        }
        Ok(collected) if !record.watched_to_the_end() => (collected, Some(record.why.clone())),
        Ok(collected) => (collected, None),
        Err(why) => (Collected::default(), Some(why)),
    };
    let order = base.map(|base| collected.order.beyond(base)).unwrap_or(collected.order);
    let locks = TrialLocks {
        side: record.side,
        folder: record.folder.clone(),
        blind,
        restored: base.is_some(),
        microseconds: collected.microseconds,
        order,
    };
    write_json_compact(&dir.join(hotplug_lockorder::FILE), &locks)
}
