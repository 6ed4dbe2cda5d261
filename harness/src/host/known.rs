//! What is known of this machine's accelerators from an earlier probe, kept in the cache folder.
//!
//! The probe costs half a second under TCG, and 5 s more where `/dev/kvm` opens and runs no guest. Its answer depends on
//! QEMU's program, on the running kernel with its modules, and on the device. All three are part of what is kept: an
//! answer that was found with anything else is not used.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Qemu;
use crate::Result;
use crate::files::write_json;
use crate::kernel::Cache;

/// random(4): a new one at each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What an answer depends on. Of another one nothing is believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Basis {
    /// BLAKE3 of QEMU's program.
    qemu: String,
    /// [`BOOT_ID`].
    boot: String,
    /// What `/dev/kvm` is for this process. The kernel makes a new node when the module is loaded again with other parameters.
    kvm: String,
}

/// What probes have found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answers {
    /// A guest answered under TCG.
    pub(super) tcg: bool,
    /// How KVM did; none where it was not tried.
    pub(super) kvm: Option<Kvm>,
}

/// How KVM did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kvm {
    /// A guest answered.
    Answered {
        /// Time from QEMU's exec to its answer.
        after: Duration,
        /// It was a kernel; else the probe's boot sector.
        kernel: bool,
    },
    /// It is of no use, because of this.
    Useless(String),
}

/// The file of one QEMU's answers.
#[derive(Debug)]
pub(super) struct Known {
    file: PathBuf,
    basis: Basis,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    basis: Basis,
    answers: Answers,
}

impl Known {
    /// Where the answers of this QEMU are; none where the basis of an answer cannot be told.
    pub(super) fn of(qemu: &Qemu, device: &Path, cache: &Cache) -> Option<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs_err::File::open(&qemu.path).ok()?).ok()?;
        let hash = hasher.finalize().to_hex();
        let boot = fs_err::read_to_string(BOOT_ID).ok()?.trim().to_owned();
        let basis = Basis { qemu: hash.to_string(), boot, kvm: identity(device) };
        Some(Self { file: cache.accelerators().join(format!("{}.json", &hash[..16])), basis })
    }

    /// What is kept. A file that is torn, or of another basis, is as good as none.
    pub(super) fn answers(&self) -> Option<Answers> {
        let kept: Kept = serde_json::from_slice(&fs_err::read(&self.file).ok()?).ok()?;
        (kept.basis == self.basis).then_some(kept.answers)
    }

    /// Keeps what was found.
    pub(super) fn keep(&self, answers: Answers) -> Result<()> {
        write_json(&self.file, &Kept { basis: self.basis.clone(), answers })
    }
}

/// Which node it is, and whether this process may open it.
fn identity(device: &Path) -> String {
    match (std::fs::metadata(device), super::accelerator::device_opens(device)) {
        (Ok(meta), Ok(())) => format!("{:x} {} {}", meta.rdev(), meta.ino(), meta.ctime()),
        (_, Err(why)) => why,
        (Err(error), Ok(())) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        folder: tempfile::TempDir,
        cache: Cache,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs_err::write(folder.path().join("qemu"), "a program").unwrap();
            fs_err::write(folder.path().join("kvm"), "").unwrap();
            let cache = Cache::open(folder.path().join("cache")).unwrap();
            Self { folder, cache }
        }

        fn known(&self) -> Known {
            let qemu = Qemu { path: self.folder.path().join("qemu"), version: crate::host::FOR_CPU_REMOVAL };
            Known::of(&qemu, &self.folder.path().join("kvm"), &self.cache).unwrap()
        }
    }

    fn answers() -> Answers {
        Answers { tcg: true, kvm: Some(Kvm::Useless("a guest crawls".into())) }
    }

    #[test]
    fn an_answer_is_kept_for_the_same_qemu_boot_and_device() {
        let place = Place::new();
        assert_eq!(place.known().answers(), None);
        place.known().keep(answers()).unwrap();
        assert_eq!(place.known().answers(), Some(answers()));

        fs_err::write(place.folder.path().join("qemu"), "another program").unwrap();
        assert_eq!(place.known().answers(), None);
        fs_err::write(place.folder.path().join("qemu"), "a program").unwrap();
        assert_eq!(place.known().answers(), Some(answers()));

        fs_err::remove_file(place.folder.path().join("kvm")).unwrap();
        assert_eq!(place.known().answers(), None);
    }

    #[test]
    fn an_answer_of_another_boot_is_not_believed() {
        let place = Place::new();
        place.known().keep(answers()).unwrap();
        let mut known = place.known();
        known.basis.boot = "another".into();
        assert_eq!(known.answers(), None);
    }

    #[test]
    fn a_torn_file_is_as_good_as_none() {
        let place = Place::new();
        place.known().keep(answers()).unwrap();
        let file = place.known().file;
        let text = fs_err::read(&file).unwrap();
        fs_err::write(&file, &text[..text.len() / 2]).unwrap();
        assert_eq!(place.known().answers(), None);
    }
}
