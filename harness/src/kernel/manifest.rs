//! The manifest of a source folder: the hash of every file. It names the folder's contents and
//! shows which files of the harness's copy are out of date.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{Error, Result};

use super::command;

/// Name of the manifest in a tree's folder.
pub(crate) const FILE: &str = "manifest.json";

/// A file that changed less than this before a scan may change again within one tick of the file
/// system's clock and keep the same times. The next scan hashes such a file again (git calls such
/// entries racy).
const RACY: Duration = Duration::from_secs(2);

/// The files of a folder, by their paths relative to it.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) files: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// BLAKE3 hash of the contents, or of a symbolic link's target.
    pub(crate) hash: String,
    pub(crate) kind: Kind,
    /// Size, inode number, modification time and change time. `None` if the entry is racy.
    stamp: Option<[i128; 4]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    File,
    Executable,
    Link,
}

impl Manifest {
    /// Reads the manifest in `file`. It is empty if the file cannot be read, which costs time only.
    pub(crate) fn load(file: &Path) -> Self {
        fs_err::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Reads `files` of `folder`. A file with the same kind and stamp as in `known` is not read
    /// again.
    pub(crate) fn scan(
        folder: &Path,
        files: Vec<PathBuf>,
        known: &Self,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let racy = i128::try_from(now.saturating_sub(RACY).as_nanos()).unwrap_or(i128::MAX);
        let mut this = Self::default();
        for path in files {
            if cancel.is_cancelled() {
                return Err(Error::interrupted());
            }
            let full = folder.join(&path);
            // git also lists submodules and files whose deletion is not committed.
            let Ok(meta) = fs_err::symlink_metadata(&full) else { continue };
            let kind = match meta.file_type() {
                kind if kind.is_symlink() => Kind::Link,
                kind if kind.is_file() && meta.mode() & 0o100 != 0 => Kind::Executable,
                kind if kind.is_file() => Kind::File,
                _ => continue,
            };
            let Some(name) = path.to_str().map(str::to_owned) else {
                return Err(Error::user(format!("{} has a name that is not UTF-8", full.display())));
            };
            let nanos = |seconds: i64, part: i64| i128::from(seconds) * 1_000_000_000 + i128::from(part);
            let modified = nanos(meta.mtime(), meta.mtime_nsec());
            let changed = nanos(meta.ctime(), meta.ctime_nsec());
            let stamp = [i128::from(meta.size()), i128::from(meta.ino()), modified, changed];
            let old = known.files.get(&name).filter(|old| old.stamp == Some(stamp) && old.kind == kind);
            let hash = match old {
                Some(old) => old.hash.clone(),
                None => hash(&read(&full, kind)?),
            };
            let stamp = (modified < racy && changed < racy).then_some(stamp);
            this.files.insert(name, Entry { hash, kind, stamp });
        }
        Ok(this)
    }

    /// Whether the manifest has this file with the same hash and kind. Times are ignored.
    pub(crate) fn holds(&self, path: &str, entry: &Entry) -> bool {
        self.files.get(path).is_some_and(|has| has.hash == entry.hash && has.kind == entry.kind)
    }

    /// A name of the contents, derived from paths, kinds and hashes. Times are ignored.
    pub(crate) fn content(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (path, entry) in &self.files {
            hasher.update(path.as_bytes());
            hasher.update(&[0, entry.kind as u8]);
            hasher.update(entry.hash.as_bytes());
        }
        format!("dir-{}", &hasher.finalize().to_hex()[..32])
    }
}

/// The bytes of which [`Entry::hash`] is the hash.
pub(crate) fn read(file: &Path, kind: Kind) -> Result<Vec<u8>> {
    Ok(match kind {
        Kind::Link => fs_err::read_link(file)?.as_os_str().as_bytes().to_vec(),
        Kind::File | Kind::Executable => fs_err::read(file)?,
    })
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..32].to_owned()
}

/// The source files in `folder`. In a git work tree, these are the tracked files and the untracked
/// ones that are not ignored. Otherwise they are all files except build products.
pub(crate) async fn files(folder: &Path, cancel: &CancellationToken) -> Result<Vec<PathBuf>> {
    if folder.join(".git").exists() {
        let list = command::Tool::new("git", folder).env("GIT_OPTIONAL_LOCKS", "0").args([
            "ls-files",
            "-coz",
            "--exclude-standard",
        ]);
        let said = command::capture(list, cancel).await?.ok(|said| {
            Error::user(format!("git cannot list the files of {}", folder.display())).detail(said)
        })?;
        let names = said.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        return Ok(names.map(|name| PathBuf::from(std::ffi::OsStr::from_bytes(name))).collect());
    }
    let folder = folder.to_owned();
    super::source::blocking(move || {
        let mut files = Vec::new();
        for entry in
            walkdir::WalkDir::new(&folder).into_iter().filter_entry(|entry| !is_product(&folder, entry))
        {
            let entry = entry.map_err(|error| Error::user(format!("cannot read the source: {error}")))?;
            if !entry.file_type().is_dir() {
                files.extend(entry.path().strip_prefix(&folder).map(Path::to_owned));
            }
        }
        Ok(files)
    })
    .await
}

/// Whether a build in the source left this file or folder. The patterns are from the kernel's
/// .gitignore and its `make mrproper` list.
fn is_product(folder: &Path, entry: &walkdir::DirEntry) -> bool {
    let path = entry.path().strip_prefix(folder).unwrap_or(entry.path());
    let name = entry.file_name().to_string_lossy();
    if entry.file_type().is_dir() {
        return path == Path::new("include/config")
            || path.ends_with("include/generated")
            || name.starts_with(".tmp_");
    }
    let ends = [
        ".o", ".a", ".ko", ".mod", ".mod.c", ".cmd", ".order", ".symvers", ".dtb", ".lex.c", ".tab.c",
        ".tab.h",
    ];
    let names = [".config", ".config.old", "vmlinux", "System.map", "bzImage", ".version", "vmlinux.bin"];
    ends.iter().any(|end| name.ends_with(end)) || names.contains(&&*name)
}

/// Whether a build was made in the source itself. Such a source contains generated files, and
/// `make O=` refuses it.
pub(crate) fn was_built_in(folder: &Path) -> bool {
    !folder.join(".git").exists()
        && (folder.join(".config").exists() || folder.join("include/config").exists())
}
