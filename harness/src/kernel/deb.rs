//! Reads Debian packages (deb(5)) with ar(1) and tar(1), which every machine that builds kernels
//! has.

use std::io::Read;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::{Error, Result};

use super::command::{Tool, capture};

/// The first bytes of an archive of ar(1), which every package is.
const ARCHIVE: &[u8] = b"!<arch>\n";

/// Whether `file` is a package.
pub(super) fn is_package(file: &Path) -> Result<bool> {
    let mut start = Vec::new();
    fs_err::File::open(file)?.take(ARCHIVE.len() as u64).read_to_end(&mut start)?;
    Ok(start == ARCHIVE)
}

/// Unpacks the files of `package` that match `pattern`, or all of them, into `folder`. `wrong` makes
/// an error of what a tool said about the package.
pub(super) async fn unpack(
    package: &Path,
    folder: &Path,
    pattern: Option<&str>,
    wrong: &dyn Fn(&str) -> Error,
    cancel: &CancellationToken,
) -> Result<()> {
    let package = fs_err::canonicalize(package)?;
    let members = capture(Tool::new("ar", folder).arg("t").arg(&package), cancel).await?.ok(wrong)?;
    let members = String::from_utf8_lossy(&members).into_owned();
    let Some(data) = members.lines().find(|name| name.starts_with("data.tar") && !name.contains('/')) else {
        return Err(wrong("it has no member data.tar"));
    };
    capture(Tool::new("ar", folder).arg("x").arg(&package).arg(data), cancel).await?.ok(wrong)?;
    let tar = Tool::new("tar", folder).args(["--no-same-owner", "--wildcards", "-xf", data]).args(pattern);
    capture(tar, cancel).await?.ok(wrong)?;
    crate::files::remove_file(&folder.join(data))
}
