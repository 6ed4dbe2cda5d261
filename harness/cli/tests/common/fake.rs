//! The fake QEMU (`examples/fake_qemu`), which cargo builds beside the tests.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::path::Path;
use std::process::Command;

/// Installs the fake where the user `nobody` can reach it, because QEMU runs as `nobody` under
/// root.
///
/// A separate process copies it. If one thread of this process had the file open for writing while
/// another thread forks, the file could not be executed.
pub(crate) fn install(to: &Path) {
    let fake = Path::new(env!("CARGO_BIN_EXE_hotplug")).with_file_name("examples/fake_qemu");
    assert!(fake.exists(), "{} is missing: cargo build --example fake_qemu", fake.display());
    let done = Command::new("install").arg("-m755").arg(fake).arg(to).status().unwrap();
    assert!(done.success(), "{done}");
}
