//! A guest and the trials that it takes, one after the other. A guest that ends a trial as it began
//! can take the next one, which costs a quarter of a restored one: QEMU has translated its code
//! already.

use std::path::{Path, PathBuf};

use hotplug_side::Side;

use super::checkpoint::Checkpoint;
use super::context::TrialSetup;
use super::locks;
use super::outcome::TrialRecord;
use super::rest::{Beginning, Earlier};
use super::vm::Vm;
use crate::Result;

/// A guest of a trial.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) vm: Vm,
    life: Option<Life>,
}

/// What is known of a guest that has taken trials.
#[derive(Debug)]
struct Life {
    beginning: Beginning,
    /// Its state after them.
    after: Earlier,
    /// The folders of the trials, in their order.
    folders: Vec<String>,
    /// The record of the last one, and its folder.
    last: (Box<TrialRecord>, PathBuf),
}

impl Guest {
    /// A guest that has taken no trial.
    pub(super) fn new(vm: Vm) -> Self {
        Self { vm, life: None }
    }

    /// The place of its current trial among all that it takes, from 1.
    pub(super) fn round(&self) -> u32 {
        u32::try_from(self.folders().len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The folders of the trials that it has taken.
    pub(super) fn folders(&self) -> &[String] {
        self.life.as_ref().map_or(&[], |life| &life.folders)
    }

    /// What it began with, if it has taken a trial.
    pub(super) fn beginning(&self) -> Option<&Beginning> {
        self.life.as_ref().map(|life| &life.beginning)
    }

    /// Its state after the trials that it has taken.
    pub(super) fn after(&self) -> Option<Earlier> {
        self.life.as_ref().map(|life| life.after)
    }

    /// The same guest after its trial, in the folder `dir`.
    pub(super) fn took(
        self,
        record: TrialRecord,
        dir: PathBuf,
        beginning: Beginning,
        after: Earlier,
    ) -> Self {
        let Self { vm, life } = self;
        let mut folders = life.map(|life| life.folders).unwrap_or_default();
        folders.push(record.folder.clone());
        Self { vm, life: Some(Life { beginning, after, folders, last: (Box::new(record), dir) }) }
    }

    /// Begins a further trial of an idle guest, in the folder `dir`.
    pub(super) async fn resume(mut self, dir: &Path) -> Result<Self> {
        self.vm.resume(dir).await?;
        Ok(self)
    }

    /// Ends a guest that takes no further trial. Its lock order goes to the folder of its last one,
    /// unless that trial does not count.
    pub(super) async fn retire(self, setup: TrialSetup<'_>, side: Side) -> Result<()> {
        if let Some(Life { last: (record, dir), .. }) =
            self.life.as_ref().filter(|life| !life.last.0.is_spoilt())
        {
            let order = locks::collect(&self.vm, setup.context.lock_layouts.of(side)).await;
            let base = setup.start.checkpoint(side).and_then(Checkpoint::lock_order);
            locks::write(dir, record, order, base)?;
        }
        self.vm.shut_down(None).await.map(drop)
    }
}
