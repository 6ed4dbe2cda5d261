//! Tests of the plan on fake root file systems of Debian 12 and 13, Ubuntu and Fedora.

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

/// A root file system with a few of the tools.
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

/// Adds all needs except QEMU.
fn complete(root: &Path) {
    for there in [
        "bin/flex",
        "bin/bison",
        "bin/bc",
        "bin/git",
        "bin/socat",
        "include/gelf.h",
        "src/linux-source-6.1.tar.xz",
    ] {
        put(root, &format!("usr/{there}"), "");
    }
}

fn plan_for(root: &Path, qemu: Option<&Qemu>) -> Result<InstallPlan> {
    let system = System::at(root);
    plan(&system, &Os::find(&system), &lacking(&system, crate::arch::Architecture::X86, qemu), qemu)
}

fn qemu(major: u32) -> Qemu {
    Qemu { path: "/usr/bin/qemu-system-x86_64".into(), version: Version { major, minor: 2, micro: 0 } }
}

const ONE_LINE: (&str, &str) =
    ("sources.list", "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main\n");

#[test]
fn debian_12_takes_qemu_from_backports() {
    let root = root(DEBIAN_12, ONE_LINE);
    insta::assert_snapshot!(plan_for(root.path(), None).unwrap().shell(Rights::Sudo), @r#"
    sudo tee /etc/apt/sources.list.d/hotplug-backports.sources <<'END'
    # Written by `hotplug doctor --install`: Debian GNU/Linux 12 (bookworm) itself has no QEMU of version 9 or newer.
    Types: deb
    Suites: bookworm-backports
    Components: main
    URIs: http://mirror.example/debian
    Signed-By: /k.gpg
    END
    sudo env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get update
    sudo env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 linux-source flex bison bc libelf-dev git socat
    sudo env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 -t bookworm-backports qemu-system-x86
    "#);
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
    insta::assert_snapshot!(plan_for(root.path(), None).unwrap_err(), @r#"
    apt has no source for bookworm from which one for bookworm-backports could be made
      help: add a source for bookworm-backports to /etc/apt/sources.list.d
    "#);
}

#[test]
fn debian_13_takes_everything_from_the_release() {
    let source =
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie trixie-updates\nComponents: main\n";
    let root = root(DEBIAN_13, ("sources.list.d/debian.sources", source));
    insta::assert_snapshot!(plan_for(root.path(), None).unwrap().shell(Rights::Root), @r#"
    env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get update
    env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 qemu-system-x86 linux-source flex bison bc libelf-dev git socat
    "#);
}

#[test]
fn ubuntu_installs_its_own_qemu_and_is_honest_about_an_old_one() {
    let root = root(UBUNTU, ("sources.list", ""));
    let plan = plan_for(root.path(), None).unwrap();
    assert_eq!((plan.source.is_none(), plan.packages[0]), (true, "qemu-system-x86"));
    let plan = plan_for(root.path(), Some(&qemu(8))).unwrap();
    assert_eq!(plan.packages[0], "linux-source", "the rest is installed before the old QEMU is an error");
    complete(root.path());
    insta::assert_snapshot!(plan_for(root.path(), Some(&qemu(8))).unwrap_err(), @r#"
    /usr/bin/qemu-system-x86_64 is QEMU 8.2.0, and Ubuntu 24.04.3 LTS has no newer one
      help: set HOTPLUG_QEMU to a qemu-system-x86_64 of version 9 or newer; without one, run only scenarios that remove no CPUs
    "#);
}

#[test]
fn a_qemu_built_by_hand_is_not_aptly_renewed() {
    let root = root(DEBIAN_12, ONE_LINE);
    complete(root.path());
    let qemu = Qemu { path: "/opt/qemu/qemu-system-x86_64".into(), ..qemu(8) };
    insta::assert_snapshot!(plan_for(root.path(), Some(&qemu)).unwrap_err(), @r#"
    /opt/qemu/qemu-system-x86_64 is QEMU 8.2.0, and apt cannot upgrade it because it was not installed by apt
      help: set HOTPLUG_QEMU to a qemu-system-x86_64 of version 9 or newer; without one, run only scenarios that remove no CPUs
    "#);
}

#[test]
fn fedora_gets_names_and_no_commands() {
    let root = root(FEDORA, ("unused", ""));
    insta::assert_snapshot!(plan_for(root.path(), None).unwrap_err(), @r#"
    Fedora Linux: packages can be installed only with apt
        missing packages, by their Debian names: qemu-system-x86 linux-source flex bison bc libelf-dev git socat
      help: install your distribution's packages for these, then run: hotplug doctor
    "#);
}

#[test]
fn nothing_is_planned_where_nothing_lacks() {
    let root = root(DEBIAN_12, ONE_LINE);
    complete(root.path());
    let plan = plan_for(root.path(), Some(&qemu(10))).unwrap();
    assert!(plan.is_empty() && plan.commands(Rights::Root).is_empty(), "{plan:?}");
}
