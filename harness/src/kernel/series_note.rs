//! The patches of a comparison by their subjects, for the record and the screen.

use tokio_util::sync::CancellationToken;

use super::artifacts::PatchRecord;
use super::patch::{self, bare};
use super::reply::ReplyTo;
use super::spec::PairSpec;
use crate::Result;

/// The patches that a comparison applies, and what it leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeriesNote {
    /// The patches of the after kernel, in order.
    pub patches: Vec<PatchRecord>,
    /// What was left out of the files of all patches, and what the harness chose.
    pub notes: Vec<String>,
    /// The mail of the patches, if they came in one.
    pub reply_to: Option<ReplyTo>,
}

impl SeriesNote {
    /// Reads the patches of a pair. Fails with a user error if one cannot be read.
    pub async fn of(spec: &PairSpec, cancel: &CancellationToken) -> Result<Self> {
        let below = patch::series(&spec.base_patches, cancel).await?;
        let series = patch::series(&spec.patches, cancel).await?;
        let note = |patch: patch::Patch| PatchRecord {
            subject: patch.subject.as_deref().map(bare),
            file: patch.name,
        };
        Ok(Self {
            reply_to: series.reply_to,
            patches: series.patches.into_iter().map(note).collect(),
            notes: spec.notes.iter().cloned().chain(below.notes).chain(series.notes).collect(),
        })
    }
}
