//! Recorded results of real runs, copied to a folder as if they had been run there.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

/// Copies the files and folders of `from` to `to`, which is created.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A folder with the run in `from` as `results/<name>`, and the run's own folder.
pub(crate) fn home(from: &Path, name: &str) -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("results").join(name);
    copy(from, &folder);
    let run = &result(&folder)["run"];
    std::fs::write(folder.join("run.json"), run.to_string()).unwrap();
    (home, folder)
}

/// A run's `result.json`.
pub(crate) fn result(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("result.json")).unwrap()).unwrap()
}

/// The binary, run in that folder.
pub(crate) fn hotplug(home: &Path, arguments: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotplug"));
    command.current_dir(home).args(arguments).assert()
}

/// The output of a command that succeeds.
pub(crate) fn said(home: &Path, arguments: &[&str]) -> String {
    String::from_utf8(hotplug(home, arguments).code(0).get_output().stdout.clone()).unwrap()
}
