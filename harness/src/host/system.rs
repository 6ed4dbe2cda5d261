//! The file system that the survey reads: this machine's, or a folder that replaces it in tests.

use std::path::{Path, PathBuf};

/// A file system and its search path for programs.
#[derive(Debug, Clone)]
pub struct System {
    root: PathBuf,
    path: Vec<PathBuf>,
}

/// The folders of system administration programs, which a user's PATH on Debian lacks.
const SBIN: [&str; 2] = ["/usr/sbin", "/sbin"];

impl System {
    /// This machine, with the `PATH` of this process.
    pub fn this_machine() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        let path = std::env::split_paths(&path).chain(SBIN.map(PathBuf::from)).collect();
        Self { root: "/".into(), path }
    }

    /// The file system below `root`, with programs in its `usr/bin`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), path: vec!["/usr/bin".into()] }
    }

    /// The text of a file. `None` if it cannot be read.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        fs_err::read_to_string(self.resolve(path)).ok()
    }

    /// The entries of a folder, as sorted paths relative to the root. Empty if the folder does not
    /// exist.
    pub(super) fn entries(&self, folder: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs_err::read_dir(self.resolve(folder)) else { return Vec::new() };
        let mut found: Vec<_> =
            entries.flatten().map(|entry| Path::new(folder).join(entry.file_name())).collect();
        found.sort();
        found
    }

    /// The path, relative to the root, of the first executable with this name on the search path.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        self.path.iter().map(|folder| folder.join(name)).find(|candidate| {
            let real = self.resolve(candidate);
            real.is_file() && nix::unistd::access(&real, nix::unistd::AccessFlags::X_OK).is_ok()
        })
    }

    /// Whether the C compiler would find `<name>`. Debian's multiarch folders are searched too.
    pub(super) fn header(&self, name: &str) -> bool {
        let multiarch = Path::new("/usr/include").join(format!("{}-linux-gnu", std::env::consts::ARCH));
        [Path::new("/usr/include"), Path::new("/usr/local/include"), &multiarch]
            .iter()
            .any(|folder| self.resolve(folder.join(name)).is_file())
    }

    fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}
