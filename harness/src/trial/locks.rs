//! The lock order of a guest at the end of its trial, or after the boot of its checkpoint. It is
//! read while the guest is stopped, and kept in the trial's folder.

use std::path::Path;
use std::sync::Arc;

use hotplug_lockorder::{Collected, Layout, LockOrder, MalformedDump, TrialLocks};

use super::outcome::TrialRecord;
use super::vm::Vm;
use crate::Result;
use crate::files::write_json_compact;
use crate::limits::limits;
use crate::unavailable::Unavailable;

/// Stops the guest and reads its lock order, or returns why there is none. The guest is not
/// resumed, because this is the end of the trial.
pub(super) async fn collect(
    vm: &Vm,
    layout: &std::result::Result<Arc<Layout>, Unavailable>,
) -> std::result::Result<Collected, Unavailable> {
    let layout = layout.as_ref().map_err(Clone::clone)?;
    let began = vm.event_log.now();
    let whole = async {
        vm.stop().await.map_err(|error| MalformedDump(error.to_string()))?;
        hotplug_lockorder::read(layout, async |address, bytes| {
            vm.memory(address, bytes).await.map_err(MalformedDump)
        })
        .await
    };
    match tokio::time::timeout(limits().memory, whole).await {
        Ok(Ok(order)) => Ok(Collected { order, microseconds: vm.event_log.now().0.saturating_sub(began.0) }),
        Ok(Err(malformed)) => Err(Unavailable::because(malformed)),
        Err(_) => Err(Unavailable::because(format!(
            "QEMU did not give the guest's memory within {} s",
            limits().memory.as_secs_f64()
        ))),
    }
}

/// Writes the lock order of a trial, without the part that its checkpoint already had.
pub(super) fn write(
    dir: &Path,
    record: &TrialRecord,
    collected: std::result::Result<Collected, Unavailable>,
    base: Option<&LockOrder>,
) -> Result<()> {
    let (collected, blind) = match collected {
        Ok(collected) if !record.armed_to_the_end() => {
            (collected, Some("lockdep was not armed from its start to its end".to_owned()))
        }
        Ok(collected) if !record.watched_to_the_end() => (collected, Some(record.why.clone())),
        Ok(collected) => (collected, None),
        Err(why) => (Collected::default(), Some(why.to_string())),
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
