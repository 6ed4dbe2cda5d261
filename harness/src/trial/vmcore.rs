//! Keeps the memory of guests that panicked or hung, for crash(8) and gdb.
//!
//! A guest that may be kept does not end with its kernel: QEMU stops it where the panic resets the
//! machine, before anything is reset ([`Vm::stay`]). Ordinary trials do not know of it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use hotplug_side::Side;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::outcome::TrialRecord;
use super::vm::{Cut, Vm};
use crate::bytes::Bytes;
use crate::event_log::Event;
use crate::limits::limits;
use crate::vmm::qmp::commands::DumpGuestMemory;
use crate::vmm::{Inherited, VmmEvent};
use crate::{Result, files, host};

/// The name of the file in the trial's folder.
const FILE: &str = "vmcore";

/// The most bytes of the vmcores of a run. One of a guest with 512 MiB takes 15 MB to 100 MB.
const MOST: Bytes = Bytes(2 * Bytes::GIB);

/// The free disk space that no vmcore takes.
const LEFT_FREE: Bytes = Bytes(Bytes::GIB);

/// The memory of a trial's guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Vmcore {
    /// It is in the file `vmcore` in the trial's folder.
    Kept {
        /// The size of the file.
        bytes: u64,
    },
    /// It was not kept.
    NotKept {
        /// The reason.
        why: String,
    },
}

/// The vmcore of a trial, in the result of its run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VmcoreNote {
    /// The trial's folder, below the run's folder.
    pub trial: String,
    /// Its kernel.
    pub side: Side,
    /// The kernel's vmlinux, which crash(8) needs. Null if the kernel was given without one.
    pub vmlinux: Option<PathBuf>,
    /// The vmcore.
    pub vmcore: Vmcore,
}

/// The vmcores that a run may still write. All of its trials share it.
#[derive(Debug)]
pub struct VmcoreQuota(Mutex<Left>);

#[derive(Debug)]
struct Left {
    number: u32,
    asked: u32,
    bytes: u64,
}

impl VmcoreQuota {
    /// For a run that may have `number` vmcores in total; those below `trials` count.
    pub fn new(number: u32, trials: &Path) -> Self {
        let there = fs_err::read_dir(trials).into_iter().flatten().flatten();
        let sizes = there.filter_map(|trial| Some(fs_err::metadata(trial.path().join(FILE)).ok()?.len()));
        let (count, bytes) = sizes.fold((0_u32, 0), |(count, all), size| (count + 1, all + size));
        let left =
            Left { number: number.saturating_sub(count), asked: number, bytes: MOST.0.saturating_sub(bytes) };
        Self(Mutex::new(left))
    }

    fn left(&self) -> std::sync::MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the memory of a guest whose trial ended with its kernel: it panicked, hung, or reset
    /// itself. `None` after any other end.
    pub(super) async fn keep(&self, vm: &Vm, cut: Option<&Cut>) -> Option<Vmcore> {
        if matches!(cut, None | Some(Cut::Broken(_))) {
            return None;
        }
        {
            let mut left = self.left();
            let Some(fewer) = left.number.checked_sub(1) else {
                let why = format!("the run has as many as were asked for, {}", left.asked);
                return Some(Vmcore::NotKept { why });
            };
            left.number = fewer;
        }
        let kept = dump(vm).await.and_then(|()| self.save(vm));
        Some(match kept {
            Ok(bytes) => Vmcore::Kept { bytes },
            Err(why) => {
                self.left().number += 1;
                Vmcore::NotKept { why }
            }
        })
    }

    /// Writes the dump to the trial's folder, if there is room for it.
    fn save(&self, vm: &Vm) -> std::result::Result<u64, String> {
        let Bytes(size) = vm.probe.size().map_err(|error| error.to_string())?;
        let mut left = self.left();
        let fewer = room_for(size, left.bytes, host::free_space(&vm.dir).0)?;
        let path = vm.dir.join(FILE);
        if let Err(error) = vm.probe.save(&path) {
            // A part of it would be taken for the whole.
            let _ = files::remove_file(&path);
            return Err(error.to_string());
        }
        left.bytes = fewer;
        Ok(size)
    }
}

/// What is left of the run's `left` bytes after a vmcore of `size` bytes, or why there is no room for
/// it. `free` is the free space of the disk.
fn room_for(size: u64, left: u64, free: u64) -> std::result::Result<u64, String> {
    let mib = |bytes: u64| bytes / Bytes::MIB;
    let fewer = left.checked_sub(size).ok_or_else(|| {
        let [size, most, left] = [size, MOST.0, left].map(mib);
        format!("it has {size} MiB, and a run's vmcores may take {most} MiB, of which {left} are left")
    })?;
    if free < size.saturating_add(LEFT_FREE.0) {
        return Err(format!("{} MiB are not free on the disk, with 1 GiB to spare", mib(size)));
    }
    Ok(fewer)
}

/// Lets QEMU write the memory of the guest, which is stopped for that, to the probe. The format is
/// that of makedumpfile(8), compressed: QEMU's ELF has all pages, also those that are zero.
async fn dump(vm: &Vm) -> std::result::Result<(), String> {
    let mut heard = vm.event_log.listen();
    vm.stop().await.map_err(|error| error.to_string())?;
    let protocol = format!("file:{}", Inherited::Probe.path());
    let dump = DumpGuestMemory { paging: false, protocol, detach: true, format: "kdump-zlib" };
    vm.qmp.execute(dump).await.map_err(|error| error.to_string())?;
    let ended = heard.until(|what| match what {
        Event::Vmm(VmmEvent::Dumped { error }) => Some(error.clone()),
        _ => None,
    });
    tokio::select! {
        ended = tokio::time::timeout(limits().dump, ended) => match ended {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(error))) => Err(error),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("QEMU did not write it within {} s", limits().dump.as_secs_f64())),
        },
        why = vm.qmp.gone() => Err(format!("QEMU's monitor is gone: {why}")),
    }
}

/// The vmcores of the trials in the folders below `trials`, with those that were not kept. `vmlinux`
/// is that of a side.
pub fn vmcores_of(trials: &Path, vmlinux: impl Fn(Side) -> Option<PathBuf>) -> Result<Vec<VmcoreNote>> {
    let mut all = Vec::new();
    for trial in fs_err::read_dir(trials)? {
        let trial = trial?;
        let Some(record) = files::read_json_if_there::<TrialRecord>(&trial.path().join("trial.json"))? else {
            continue;
        };
        if let Some(vmcore) = record.vmcore {
            let name = format!("trials/{}", trial.file_name().to_string_lossy());
            all.push(VmcoreNote { trial: name, side: record.side, vmlinux: vmlinux(record.side), vmcore });
        }
    }
    all.sort_by(|one, other| one.trial.cmp(&other.trial));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vmcores_take_neither_more_than_their_share_nor_the_last_of_the_disk() {
        const MIB: u64 = Bytes::MIB;
        assert_eq!(room_for(20 * MIB, MOST.0, 5 * Bytes::GIB), Ok(MOST.0 - 20 * MIB));
        let share = "it has 20 MiB, and a run's vmcores may take 2048 MiB, of which 19 are left";
        assert_eq!(room_for(20 * MIB, 19 * MIB, 5 * Bytes::GIB), Err(share.into()));
        let disk = "20 MiB are not free on the disk, with 1 GiB to spare";
        assert_eq!(room_for(20 * MIB, MOST.0, Bytes::GIB), Err(disk.into()));
    }

    #[test]
    fn vmcores_of_a_run_that_is_continued_count() {
        let trials = tempfile::tempdir().unwrap();
        for (trial, size) in [("after-000", 7), ("after-001", 3)] {
            fs_err::create_dir(trials.path().join(trial)).unwrap();
            fs_err::write(trials.path().join(trial).join(FILE), vec![0; size]).unwrap();
        }
        fs_err::create_dir(trials.path().join("before-000")).unwrap();
        let of = |number| {
            let quota = VmcoreQuota::new(number, trials.path());
            let left = quota.left();
            (left.number, left.asked, left.bytes)
        };
        assert_eq!(of(3), (1, 3, MOST.0 - 10));
        assert_eq!(of(1), (0, 1, MOST.0 - 10));
        assert_eq!(VmcoreQuota::new(3, &trials.path().join("none")).left().number, 3);
    }
}
