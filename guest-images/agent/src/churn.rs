//! A load that creates and removes files in tmpfs: dentries and inodes, each from a slab cache of
//! its own.

use std::io;
use std::path::{Path, PathBuf};

/// Enough inodes for some slabs.
const FILES: usize = 64;

/// A folder for a worker's files.
pub(crate) fn folder(worker: u32) -> io::Result<PathBuf> {
    let path = path(worker);
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

/// Creates files, stats, renames and removes them.
pub(crate) fn once(folder: &Path) -> io::Result<()> {
    let name = |kind: &str, number: usize| folder.join(format!("{kind}{number}"));
    for number in 0..FILES {
        // Not truncated: the loop before may have ended early, for lack of memory.
        std::fs::File::options().write(true).create(true).truncate(false).open(name("new", number))?;
    }
    for number in 0..FILES {
        std::fs::metadata(name("new", number))?;
        // Looking up a missing name creates a dentry, too: a negative one.
        let _ = std::fs::metadata(name("absent", number));
        std::fs::rename(name("new", number), name("old", number))?;
    }
    for number in 0..FILES {
        std::fs::remove_file(name("old", number))?;
    }
    Ok(())
}

/// Removes the leftovers of a killed worker.
pub(crate) fn clean_up(worker: u32) {
    let _ = std::fs::remove_dir_all(path(worker));
}

fn path(worker: u32) -> PathBuf {
    format!("/tmp/files-{worker}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays() {
        let folder = folder(std::process::id()).unwrap();
        once(&folder).unwrap();
        std::fs::write(folder.join("new3"), "left by one that ended early").unwrap();
        once(&folder).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        clean_up(std::process::id());
        assert!(!folder.exists());
    }
}
