//! The cache folder, which holds built kernels and the harness's copies of their sources.
//!
//! ```text
//! ~/.cache/hotplug/
//!   format            version of this layout
//!   trees/<id>/       lock, state.json, src/, obj/ : one source, see `worktree` and `objects`
//!   kernels/<id>/     bzImage, vmlinux, System.map, config, kernel.json, build.log
//!   sources/          packages with kernel sources, see `host::fetch`
//!   failed/<id>.log   make's output of a failed build
//!   checkpoints/<id>/ booted guests, see `trial::checkpoint`
//!   lock-orders/<hash>/ what is known of a kernel's lock order, see `atlas`
//!   accelerators/     results of the accelerator probe, one file per QEMU, see `host::known`
//! ```

use std::path::{Path, PathBuf};

use crate::{Error, Result, files};

use super::artifacts::KernelId;

/// Version of the layout. It must change whenever this version would misread the files of older
/// ones.
const FORMAT: &str = "hotplug kernel cache 1\n";

/// An open cache folder with this layout version.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$XDG_CACHE_HOME/hotplug`, or `~/.cache/hotplug`.
    pub fn default_path() -> Result<PathBuf> {
        let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache"))).map_or_else(
            || {
                Err(Error::user("neither XDG_CACHE_HOME nor HOME is set")
                    .help("give a cache folder: --cache DIR"))
            },
            |base| Ok(base.join("hotplug")),
        )
    }

    /// Opens the cache in `root`. Creates it if it does not exist.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let cannot = |error: std::io::Error| {
            Error::user(format!("cannot use the cache folder {}: {error}", root.display()))
                .help("give a folder you can write to: --cache DIR")
        };
        fs_err::create_dir_all(&root).map_err(cannot)?;
        // make splits paths at spaces, and Kbuild rejects a folder with a space or colon in its
        // name (Makefile, 6.1).
        let root = root.canonicalize().map_err(cannot)?;
        if root.to_string_lossy().contains([' ', '\t', ':', '#', '$']) {
            return Err(Error::user(format!(
                "the cache folder {} has a character in its name that make cannot handle",
                root.display()
            ))
            .help("give another folder: --cache DIR"));
        }
        let format = root.join("format");
        if !format.exists() {
            // Two runs that reach this point at once write the same contents.
            files::write_whole(&format, FORMAT.as_bytes()).map_err(cannot)?;
        }
        let found = fs_err::read(&format)?;
        if found != FORMAT.as_bytes() {
            return Err(Error::user(format!(
                "the kernel cache {} has another layout version (it has {}, this hotplug uses {})",
                root.display(),
                String::from_utf8_lossy(&found).trim().chars().take(60).collect::<String>(),
                FORMAT.trim()
            ))
            .help(format!("hotplug kernel prune --all --cache {}", root.display())));
        }
        let cache = Self { root };
        let folders = [
            cache.trees(),
            cache.kernels(),
            cache.failed(),
            cache.checkpoints(),
            cache.accelerators(),
            cache.lock_orders(),
        ];
        for folder in folders {
            fs_err::create_dir_all(folder)?;
        }
        Ok(cache)
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn trees(&self) -> PathBuf {
        self.root.join("trees")
    }

    pub(crate) fn kernels(&self) -> PathBuf {
        self.root.join("kernels")
    }

    pub(crate) fn kernel(&self, id: &KernelId) -> PathBuf {
        self.kernels().join(id.as_str())
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// What is known of the lock orders of kernels.
    pub(crate) fn lock_orders(&self) -> PathBuf {
        self.root.join("lock-orders")
    }

    pub(crate) fn accelerators(&self) -> PathBuf {
        self.root.join("accelerators")
    }

    /// Packages with kernel sources.
    pub(crate) fn sources(&self) -> PathBuf {
        self.root.join("sources")
    }

    pub(crate) fn failed(&self) -> PathBuf {
        self.root.join("failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_twice_and_refuses_another_version() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("cache");
        Cache::open(&root).unwrap();
        Cache::open(&root).unwrap();
        fs_err::write(root.join("format"), "hotplug kernel cache 0\n").unwrap();
        let error = Cache::open(&root).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        let text = error.to_string();
        assert!(text.contains("hotplug kernel prune --all --cache") && text.contains("cache 0"), "{text}");
    }

    #[test]
    fn many_may_open_a_new_one_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("cache");
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| Cache::open(&root).unwrap());
            }
        });
    }

    #[test]
    fn refuses_a_name_that_make_cannot_handle() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Cache::open(folder.path().join("my cache")).unwrap_err().exit_status(), 2);
    }
}
