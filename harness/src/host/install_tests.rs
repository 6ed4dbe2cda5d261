//! Plans on fake roots of Debian 12 and 13, Ubuntu and Fedora.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::host::needs::lacking;
use crate::host::os::tests::{DEBIAN_12, DEBIAN_13, FEDORA, UBUNTU};
use crate::host::qemu::Version;

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(&path, text).unwrap();
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// An installation with a few of the tools.
fn root(os_release: &str, sources: (&str, &str)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "etc/os-release", os_release);
    put(folder.path(), &format!("etc/apt/{}", sources.0), sources.1);
    for there in
        ["usr/bin/make", "usr/bin/gcc", "usr/bin/xz", "usr/include/stdio.h", "usr/src/linux-config-6.1"]
    {
        put(folder.path(), there, "");
    }
    folder
}

fn plan_for(root: &Path, qemu: Option<&Qemu>) -> Result<Plan> {
    let system = System::at(root);
    plan(&system, &Os::find(&system), &lacking(&system, qemu), qemu)
}

fn qemu(major: u32) -> Qemu {
    Qemu { path: "/usr/bin/qemu-system-x86_64".into(), version: Version { major, minor: 2, micro: 0 } }
}

const ONE_LINE: (&str, &str) =
    ("sources.list", "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main\n");

#[test]
fn debian_12_takes_qemu_from_backports() {
    let root = root(DEBIAN_12, ONE_LINE);
    insta::assert_snapshot!(plan_for(root.path(), None).unwrap().shell(Rights::Sudo), @"");
}

#[test]
fn debian_12_with_backports_needs_no_source_of_ours() {
    let root = root(DEBIAN_12, ONE_LINE);
    let theirs =
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\n";
    put(root.path(), "etc/apt/sources.list.d/theirs.sources", theirs);
    let plan = plan_for(root.path(), Some(&qemu(7))).unwrap();
    assert_eq!((plan.source, plan.backports.unwrap().0.as_str()), (None, "bookworm-backports"));
}

#[test]
fn debian_12_without_a_debian_source_is_told() {
    let root = root(DEBIAN_12, ("sources.list", ""));
    insta::assert_snapshot!(plan_for(root.path(), None).unwrap_err(), @"");
}

#[test]
fn debian_13_takes_everything_from_the_release() {
    let source =
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie trixie-updates\nComponents: main\n";
    let root = root(DEBIAN_13, ("sources.list.d/debian.sources", source));
    insta::assert_snapshot!(plan_for(root.path(), None).unwrap().shell(Rights::Root), @"");
}

#[test]
fn ubuntu_installs_its_own_qemu_and_is_honest_about_an_old_one() {
    let root = root(UBUNTU, ("sources.list", ""));
    let plan = plan_for(root.path(), None).unwrap();
    assert_eq!((plan.source.is_none(), plan.packages[0]), (true, "qemu-system-x86"));
    insta::assert_snapshot!(plan_for(root.path(), Some(&qemu(8))).unwrap_err(), @"");
}

#[test]
fn a_qemu_built_by_hand_is_not_aptly_renewed() {
    let root = root(DEBIAN_12, ONE_LINE);
    let qemu = Qemu { path: "/opt/qemu/qemu-system-x86_64".into(), ..qemu(8) };
    insta::assert_snapshot!(plan_for(root.path(), Some(&qemu)).unwrap_err(), @"");
}

#[test]
fn fedora_gets_names_and_no_commands() {
    let root = root(FEDORA, ("unused", ""));
    insta::assert_snapshot!(plan_for(root.path(), None).unwrap_err(), @"");
}

#[test]
fn nothing_is_planned_where_nothing_lacks() {
    let root = root(DEBIAN_12, ONE_LINE);
    for program in ["flex", "bison", "bc", "git"] {
        put(root.path(), &format!("usr/bin/{program}"), "");
    }
    put(root.path(), "usr/include/gelf.h", "");
    put(root.path(), "usr/src/linux-source-6.1.tar.xz", "");
    let plan = plan_for(root.path(), Some(&qemu(10))).unwrap();
    assert!(plan.is_empty() && plan.commands(Rights::Root).is_empty(), "{plan:?}");
}
