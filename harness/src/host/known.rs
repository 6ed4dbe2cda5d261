//! Stores the results of the accelerator probe in the cache folder.
//!
//! The probe takes half a second under TCG, and 5 s more if `/dev/kvm` opens but no guest runs
//! under it. Its result depends on QEMU's binary, on the running kernel with its modules, and on
//! the device. All three are stored with the result. A result with any other basis is not used.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Qemu;
use crate::Result;
use crate::files::write_json;
use crate::kernel::Cache;

/// The file with the kernel's boot id (random(4)), which is new at each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The basis of an answer. An answer with another basis is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Basis {
    /// BLAKE3 hash of QEMU's binary.
    qemu: String,
    /// The contents of [`BOOT_ID`].
    boot: String,
    /// The identity of `/dev/kvm`, or the reason why this process cannot open it. The kernel
    /// creates a new device node when the module is loaded again with other parameters.
    kvm: String,
}

/// The results of probes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answers {
    /// Whether a guest answered under TCG.
    pub(super) tcg: bool,
    /// The result for KVM. `None` if KVM was not tried.
    pub(super) kvm: Option<Kvm>,
}

/// The result of a probe of KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kvm {
    /// A guest answered.
    Answered {
        /// Time from QEMU's exec to the guest's answer.
        after: Duration,
        /// Whether the guest was a kernel. Otherwise it was the probe's boot sector.
        kernel: bool,
    },
    /// KVM is not usable, for this reason.
    Useless(String),
}

/// The file with the answers for one QEMU binary.
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
    /// Finds the file with the answers for this QEMU. `None` if the basis cannot be determined.
    pub(super) fn of(qemu: &Qemu, device: &Path, cache: &Cache) -> Option<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs_err::File::open(&qemu.path).ok()?).ok()?;
        let hash = hasher.finalize().to_hex();
        let boot = fs_err::read_to_string(BOOT_ID).ok()?.trim().to_owned();
        let basis = Basis { qemu: hash.to_string(), boot, kvm: identity(device) };
        Some(Self { file: cache.accelerators().join(format!("{}.json", &hash[..16])), basis })
    }

    /// Reads the stored answers. `None` if there are none, or if the file is incomplete or has
    /// another basis.
    pub(super) fn answers(&self) -> Option<Answers> {
        let kept: Kept = serde_json::from_slice(&fs_err::read(&self.file).ok()?).ok()?;
        (kept.basis == self.basis).then_some(kept.answers)
    }

    /// Stores answers.
    pub(super) fn keep(&self, answers: Answers) -> Result<()> {
        write_json(&self.file, &Kept { basis: self.basis.clone(), answers })
    }
}

/// The identity of the device node, or the reason why this process cannot open it.
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
