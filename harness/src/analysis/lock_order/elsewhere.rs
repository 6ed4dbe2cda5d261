//! What guests of other runs showed of the two kernels.

use std::collections::BTreeSet;

use hotplug_lockorder::LockOrder;
use hotplug_side::Side;

use crate::analysis::Prepared;
use crate::atlas::Atlas;
use crate::compare::Elsewhere;
use crate::environment::Env;
use crate::kernel::{Kernel, blocking};
use crate::unavailable::Unavailable;
use crate::{Error, Result};

/// Reads the atlases of both kernels.
pub(super) async fn read(prepared: &Prepared, env: &Env<'_>) -> Result<Elsewhere> {
    let mut all = Elsewhere::default();
    let run = prepared.run.id.as_str();
    let sides: &[Side] = if prepared.analyses.without_atlas { &[] } else { &Side::BOTH };
    for &side in sides {
        match Atlas::load(env.cache, &prepared.kernels.of(side).image_hash)? {
            Ok(None) => {}
            Ok(Some(atlas)) => {
                let guests = atlas.guests_beside(run).map(|guest| (guest.example(), guest.order.clone()));
                *all.guests.of_mut(side) = guests.collect();
            }
            Err(why) => all.unused.push(why),
        }
    }
    match changed(&prepared.kernels.before, &prepared.kernels.after).await? {
        Ok(changed) => {
            let guests =
                all.guests.before.iter().map(|(name, order)| (name.clone(), order.outside(&changed)));
            all.unchanged =
                guests.filter(|(_, order): &(String, LockOrder)| !order.edges.is_empty()).collect();
            all.changed = Some(changed);
        }
        Err(_) if all.guests.before.is_empty() => {}
        Err(why) => all.unused.push(Unavailable::because(format!(
            "what other runs showed of the before kernel says nothing of the after kernel: {why}"
        ))),
    }
    Ok(all)
}

/// The functions that the patch changes. The inner error is the reason why they are not known.
async fn changed(before: &Kernel, after: &Kernel) -> Result<std::result::Result<BTreeSet<String>, String>> {
    let (Some(before), Some(after)) = (before.vmlinux.clone(), after.vmlinux.clone()) else {
        return Ok(Err("a kernel has no vmlinux".to_owned()));
    };
    blocking(move || {
        let (before, after) = (fs_err::read(before)?, fs_err::read(after)?);
        let parsed = |bytes| object::File::parse(bytes).map_err(Error::infrastructure);
        Ok(Ok(hotplug_vmlinux::changed_functions(&parsed(&*before)?, &parsed(&*after)?)))
    })
    .await
}
