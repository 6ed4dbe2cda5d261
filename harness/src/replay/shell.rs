//! The files of the shell that a replay leaves in its guest.

use std::path::PathBuf;

use hotplug_protocol::PROGRAMS;

use crate::image::{self, Item, Kind};
use crate::program_files;
use crate::scenario::{ProgramFiles, Scenario};
use crate::trial::{BUSYBOX, SHELL};
use crate::{Error, Result};

/// Where busybox is looked for if `PATH` does not have it.
const FOLDERS: [&str; 2] = ["/bin", "/usr/bin"];

/// Adds this machine's busybox to the files of the scenario's programs.
///
/// Fails with a user error if there is none, or if it is not static.
pub(super) fn add(scenario: &mut Scenario) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    let found = folders.map(|folder| folder.join(BUSYBOX)).find(|file| file.is_file());
    let wrong = |what: String| Error::user(what).help("apt install busybox-static");
    let file = found.ok_or_else(|| wrong("a shell in the guest needs a static busybox".into()))?;
    let bytes = fs_err::read(&file)?;
    match program_files::interpreter(&bytes) {
        Ok(None) => {}
        Ok(Some(_)) => return Err(wrong(format!("{} is not static", file.display()))),
        Err(what) => return Err(wrong(format!("{} {what}", file.display()))),
    }
    let place = format!("{PROGRAMS}/{SHELL}").trim_start_matches('/').to_owned();
    let item = |path: &str, kind| Item { path: path.to_owned(), kind };
    let items = [
        item(PROGRAMS.trim_start_matches('/'), Kind::Folder),
        item(&place, Kind::Folder),
        item(&format!("{place}/{BUSYBOX}"), Kind::File { permissions: 0o755, bytes }),
    ];
    let archive = image::archive_of(items.into_iter())?;
    let own = scenario.files.as_ref().map_or(&[][..], |files| files.bytes());
    scenario.files = Some(ProgramFiles::new([own, &archive].concat()).into());
    Ok(())
}
