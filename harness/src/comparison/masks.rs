//! Masks: patches of the file of known issues. Lockdep turns itself off at its first report, so a
//! known report hides everything behind it. A mask keeps both kernels from printing the report, and
//! leaves the lock as it is.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use hotplug_kreport::KnownIssues;

use crate::kernel::PairSpec;
use crate::{Error, Result};

/// The masks of a comparison.
#[derive(Debug, Default)]
pub(super) struct Masks {
    applied: Vec<Mask>,
    /// Masks that are not under the kernels, each with the reason.
    left_out: Vec<String>,
}

#[derive(Debug)]
struct Mask {
    patch: PathBuf,
    /// Those for other sources, which are tried if it does not apply.
    others: VecDeque<PathBuf>,
    /// The reason of the known issue.
    reason: String,
}

impl Masks {
    /// The masks of the known issues in `file`. Fails with a user error if one is no file.
    pub(super) fn of(known: &KnownIssues, file: Option<&Path>) -> Result<Self> {
        let folder = file.and_then(Path::parent).unwrap_or(Path::new(""));
        let mut masks = Self::default();
        for (paths, reason) in known.masks() {
            let mut others: VecDeque<PathBuf> = paths.iter().map(|path| folder.join(path)).collect();
            if let Some(patch) = others.iter().find(|patch| !patch.is_file()) {
                return Err(Error::user(format!("the mask {} is no file", patch.display()))
                    .detail(format!("known issue: {reason}"))
                    .help("its path begins at the folder of the file of known issues"));
            }
            let Some(patch) = others.pop_front() else { continue };
            masks.applied.push(Mask { patch, others, reason: reason.to_owned() });
        }
        Ok(masks)
    }

    /// The kernels with the masks under both.
    pub(super) fn under(&self, mut kernels: PairSpec) -> PairSpec {
        kernels.base_patches.extend(self.applied.iter().map(|mask| mask.patch.clone()));
        kernels
    }

    /// Kernels that are not built here have no masks.
    pub(super) fn leave_out_all(&mut self, why: &str) {
        let all = std::mem::take(&mut self.applied);
        self.left_out.extend(all.iter().map(|mask| format!("{}: {why}", mask.words())));
    }

    /// Leaves out the mask that does not apply. If a patch does not apply, the masks may be the
    /// reason, and all are left out. Returns whether there was any.
    pub(super) fn leave_out(&mut self, error: &Error) -> bool {
        let Some(name) = error.unapplied_patch().filter(|_| !self.applied.is_empty()) else { return false };
        let is_it = |mask: &Mask| name.starts_with(&*mask.patch.display().to_string());
        match self.applied.iter().position(is_it) {
            Some(place) => {
                if let Some(other) = self.applied[place].others.pop_front() {
                    self.applied[place].patch = other;
                    return true;
                }
                let mask = self.applied.remove(place);
                self.left_out.push(format!("{}: it does not apply to this source", mask.words()));
            }
            None => self.leave_out_all(&format!("{name} does not apply with it")),
        }
        true
    }

    /// What the record and the screen say of the masks.
    pub(super) fn notes(&self) -> Vec<String> {
        let applied = self.applied.iter().map(|mask| format!("masked: {}", mask.words()));
        let left_out = self.left_out.iter().map(|words| format!("not masked, lockdep may go off: {words}"));
        applied.chain(left_out).collect()
    }
}

impl Mask {
    fn words(&self) -> String {
        let name = self.patch.file_name().unwrap_or_default().to_string_lossy();
        format!("{} ({name})", self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[[known]]\nreason = \"reported\"\nkey = 'kn->active'\nmask = \"a.patch\"\n\n[[known]]\nreason = \"old\"\nkey = 'y'\nexpires = 2020-01-01\nmask = \"old.patch\"\n\n[[known]]\nreason = \"too\"\nkey = 'z'\nmask = [\"c.patch\", \"b.patch\"]\n";

    #[test]
    fn masks_go_under_both_kernels_unless_they_do_not_apply() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known.toml");
        let known = KnownIssues::parse("known.toml", TEXT, jiff::civil::date(2026, 11, 30)).unwrap();
        let missing = Masks::of(&known, Some(&file)).unwrap_err().to_string();
        assert!(missing.contains("a.patch is no file"), "{missing}");
        for name in ["a.patch", "b.patch", "c.patch"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let masks = || Masks::of(&known, Some(&file)).unwrap();
        let below = |masks: &Masks| {
            let spec = PairSpec { base_patches: vec!["/own.patch".into()], ..PairSpec::default() };
            let names = masks.under(spec).base_patches.into_iter();
            names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let mut all = masks();
        assert_eq!(below(&all), ["own.patch", "a.patch", "c.patch"]);
        // That was the one for another source.
        let c = folder.path().join("c.patch").display().to_string();
        assert!(all.leave_out(&Error::user("x").of_patch(&c)));
        assert_eq!(below(&all), ["own.patch", "a.patch", "b.patch"]);
        assert_eq!(all.notes(), ["masked: reported (a.patch)", "masked: too (b.patch)"]);
        let b = folder.path().join("b.patch").display().to_string();
        assert!(all.leave_out(&Error::user("x").of_patch(&b)));
        assert_eq!(below(&all), ["own.patch", "a.patch"]);
        let gone = "not masked, lockdep may go off: too (b.patch): it does not apply to this source";
        assert_eq!(all.notes(), ["masked: reported (a.patch)", gone]);
        assert!(!all.leave_out(&Error::user("another error")));
        // The user's patch may fail because of a mask.
        assert!(all.leave_out(&Error::user("x").of_patch("/own.patch")));
        assert_eq!(below(&all), ["own.patch"]);
        assert!(!all.leave_out(&Error::user("x").of_patch("/own.patch")));
        let mut images = masks();
        images.leave_out_all("the kernels were not built here");
        assert_eq!(images.notes().len(), 2);
        assert_eq!(below(&images), ["own.patch"]);
    }
}
