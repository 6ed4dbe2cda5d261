//! Reads and writes the harness's files: JSON, and atomic writes.

use std::io::{Error as IoError, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use fs_err::os::unix::fs::OpenOptionsExt;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Reads a JSON file. Returns `None` if it does not exist. Fails with a user error if this version
/// cannot parse the file.
pub fn read_json_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs_err::read(path) {
        Ok(text) => parse_json(path, &text).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Parses the contents of the JSON file at `path`. Fails with a user error.
pub fn parse_json<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|error| {
        Error::user(format!("cannot read {}: {error}", path.display()))
            .help("use the version of hotplug that wrote it")
    })
}

/// Removes a folder with all that is in it, if it exists.
pub(crate) fn remove_tree(folder: &Path) -> Result<()> {
    absent(fs_err::remove_dir_all(folder))
}

/// Removes a file if it exists.
pub(crate) fn remove_file(file: &Path) -> Result<()> {
    absent(fs_err::remove_file(file))
}

fn absent(result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes a JSON file with indented lines.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(Error::infrastructure)?;
    text.push(b'\n');
    Ok(write_whole(path, &text)?)
}

/// Writes a JSON file with a single line, for large values that only programs read.
pub fn write_json_compact(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec(value).map_err(Error::infrastructure)?;
    text.push(b'\n');
    Ok(write_whole(path, &text)?)
}

/// Writes a file whole or not at all. A reader never sees a part of the file. A full disk leaves no
/// file, or the old one.
///
/// If there was no file at `path`, a killed harness leaves no temporary file either, because the
/// new file has no name until it is complete (open(2), `O_TMPFILE`).
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unnamed =
        fs_err::OpenOptions::new().write(true).mode(0o644).custom_flags(nix::libc::O_TMPFILE).open(folder);
    let mut file = match unnamed {
        Ok(file) => file,
        // Some file systems do not support `O_TMPFILE`. There, a named temporary file is renamed.
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(bytes)?;
            file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            return file.persist(path).map(drop).map_err(|error| error.error);
        }
        Err(error) => return Err(error),
    };
    file.write_all(bytes)?;
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link =
        |to: &Path| nix::unistd::linkat(AT_FDCWD, unnamed.as_str(), AT_FDCWD, to, AtFlags::AT_SYMLINK_FOLLOW);
    let linked = match link(path) {
        // linkat(2) does not replace a file, but rename(2) does. At every moment there is the old
        // or the new file.
        Err(Errno::EEXIST) => {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let mut name = path.file_name().unwrap_or_default().to_owned();
            // Two threads may write the same file.
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            name.push(format!(".{}-{number}", std::process::id()));
            let beside = folder.join(name);
            // A process with the same id that was killed at this point may have left this file.
            let _ = std::fs::remove_file(&beside);
            let linked = link(&beside);
            if linked.is_ok() {
                fs_err::rename(&beside, path)?;
            }
            linked
        }
        linked => linked,
    };
    linked.map_err(|error| {
        let error = IoError::from(error);
        IoError::new(error.kind(), format!("cannot write {}: {error}", path.display()))
    })
}
