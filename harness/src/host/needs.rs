//! The needs of a run, as one table: the need, how it is detected, and the Debian package that
//! provides it.
//!
//! A need is detected by the program, header or tarball that is used, and not through dpkg, so a
//! QEMU built by hand counts. The kernel build's needs are the packages without which a build of
//! tinyconfig with the harness's fragment failed in an empty Debian 12. cpio, kmod, rsync and
//! libssl-dev were not needed: the kernel has no built-in initramfs and no modules, and so no
//! module signatures.

use std::path::PathBuf;

use super::{ByteCount, FOR_CPU_REMOVAL, Qemu, System};
use crate::arch::Architecture;
use crate::image;

/// How a need is detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A QEMU that is new enough.
    Qemu,
    /// A program on the search path.
    Program(&'static str),
    /// A header that the C compiler finds.
    Header(&'static str),
    /// Any `linux-source-*` tarball in `/usr/src`.
    KernelSource,
    /// A C library that programs can contain, in this folder.
    StaticLibrary(&'static str),
    /// A guest agent for this architecture in this binary.
    Agent(Architecture),
}

/// The commands that a need is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Everything that boots a guest.
    Guests,
    /// Everything that builds a kernel.
    Builds,
    /// The script of a failed trial.
    Scripts,
}

impl Activity {
    /// All of them, each with the commands in words.
    pub const ALL: [(Self, &str); 3] = [
        (Self::Guests, "guests of given kernels (--before-image, --after-image, shard)"),
        (Self::Builds, "kernels from source (compare PATCH, kernel build, bisect, series, prove)"),
        (Self::Scripts, "repeat.sh of a failed trial"),
    ];
}

/// One need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The need's name in the table.
    pub what: &'static str,
    /// How the need is detected.
    pub found: Found,
    /// The package in Debian and Ubuntu.
    pub package: &'static str,
    /// The purpose, as shown in the table.
    pub purpose: &'static str,
    /// The commands that it is for. Builds and scripts need a QEMU, too.
    pub activity: Activity,
}

const fn program(name: &'static str, package: &'static str, purpose: &'static str) -> Need {
    Need { what: name, found: Found::Program(name), package, purpose, activity: Activity::Builds }
}

/// The needs of x86-64 guests, all of which can be installed.
pub const NEEDS: [Need; 12] = [
    Need {
        what: "QEMU",
        found: Found::Qemu,
        package: "qemu-system-x86",
        purpose: "9 or newer: CPU removal under TCG",
        activity: Activity::Guests,
    },
    // The metapackage: linux-source-6.1 on Debian 12, linux-source-6.12 on Debian 13.
    Need {
        what: "kernel source",
        found: Found::KernelSource,
        package: "linux-source",
        purpose: "the source of both kernels",
        activity: Activity::Builds,
    },
    program("make", "make", "kernel build"),
    program("gcc", "gcc", "kernel build"),
    Need {
        what: "C library headers",
        found: Found::Header("stdio.h"),
        package: "libc6-dev",
        purpose: "kernel build: its own tools",
        activity: Activity::Builds,
    },
    program("flex", "flex", "kernel build: Kconfig"),
    program("bison", "bison", "kernel build: Kconfig"),
    program("bc", "bc", "kernel build: time constants"),
    Need {
        what: "libelf headers",
        found: Found::Header("gelf.h"),
        package: "libelf-dev",
        purpose: "kernel build: objtool",
        activity: Activity::Builds,
    },
    program("xz", "xz-utils", "unpacks the source, packs the kernel"),
    program("git", "git", "applies patches"),
    Need {
        what: "socat",
        found: Found::Program("socat"),
        package: "socat",
        purpose: "repeat.sh of each failed trial",
        activity: Activity::Scripts,
    },
];

/// The needs of guests of an architecture.
pub(super) fn needs_of(arch: Architecture) -> Vec<Need> {
    let table = arch.table();
    let mut all = NEEDS.to_vec();
    let Some(cross) = table.cross else { return all };
    all[0] = Need { package: table.qemu_package, ..all[0] };
    if !arch.is_native() {
        all.push(Need {
            what: "cross compiler",
            found: Found::Program(cross.gcc),
            package: cross.gcc_package,
            purpose: "kernel build, and the guest's agent",
            activity: Activity::Builds,
        });
        all.push(Need {
            what: "its C library",
            found: Found::StaticLibrary(cross.library),
            package: cross.library_package,
            purpose: "the guest's agent",
            activity: Activity::Guests,
        });
    }
    all.push(Need {
        what: "agent",
        found: Found::Agent(arch),
        package: "",
        purpose: "guests of this architecture",
        activity: Activity::Guests,
    });
    all
}

/// The space that a run needs in the cache folder. A kernel tree takes 1.4 GiB. The objects of a
/// kernel take 0.2 GiB without debug information and 0.5 GiB with it. The tarball is unpacked there
/// in between.
pub const DISK: ByteCount = ByteCount::gib(3);

/// The memory for a build with two jobs, or for two guests of 512 MiB with DIMMs to be plugged.
pub const MEMORY: ByteCount = ByteCount::gib(2);

impl Need {
    /// A description of the item that meets the need on this machine, for the table. `None` if the
    /// need is not met.
    pub fn met_by(&self, system: &System, qemu: Option<&Qemu>) -> Option<String> {
        match self.found {
            Found::Qemu => qemu.filter(|qemu| qemu.version >= FOR_CPU_REMOVAL).map(describe),
            Found::Program(name) => system.program(name).map(|path| path.display().to_string()),
            Found::Header(name) => system.header(name).then(|| format!("<{name}>")),
            Found::StaticLibrary(folder) => {
                let is_it = |path: &PathBuf| path.file_name().is_some_and(|name| name == "libc.a");
                system.entries(folder).into_iter().find(is_it).map(|path| path.display().to_string())
            }
            Found::Agent(arch) => image::initramfs(arch).is_ok().then(|| "in this binary".to_owned()),
            Found::KernelSource => {
                let names: Vec<_> = kernel_sources(system).iter().filter_map(|path| name_of(path)).collect();
                (!names.is_empty()).then(|| names.join(", "))
            }
        }
    }

    /// The command that meets the need, if no package of the distribution does.
    pub fn command(&self) -> Option<String> {
        match self.found {
            Found::Agent(arch) => arch.table().cross.map(image::how_to_have),
            _ => None,
        }
    }

    /// A description of the machine's state if the need is not met.
    pub fn found_instead(&self, qemu: Option<&Qemu>) -> String {
        match (self.found, qemu) {
            (Found::Qemu, Some(qemu)) => format!("too old: {}", describe(qemu)),
            _ => "missing".to_owned(),
        }
    }
}

fn describe(qemu: &Qemu) -> String {
    format!("{}, {}", qemu.version, qemu.path.display())
}

/// The needs that this machine does not meet.
pub fn lacking(system: &System, arch: Architecture, qemu: Option<&Qemu>) -> Vec<Need> {
    needs_of(arch).into_iter().filter(|need| need.met_by(system, qemu).is_none()).collect()
}

/// Tarballs of kernel sources, as Debian (`.tar.xz`) and Ubuntu (`.tar.bz2`) install them.
fn kernel_sources(system: &System) -> Vec<PathBuf> {
    let mut found = system.entries("/usr/src");
    found.retain(|path| {
        name_of(path).is_some()
            && path.extension().is_some_and(|e| ["xz", "bz2", "gz", "zst"].iter().any(|x| e == *x))
    });
    found
}

/// The name of a source: `linux-source-6.1` for `/usr/src/linux-source-6.1.tar.xz`.
fn name_of(path: &std::path::Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (name, _) = name.split_once(".tar")?;
    name.starts_with("linux-source-").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before the doctor is built, `make` installs the packages that need no additional apt source.
    #[test]
    fn make_installs_what_the_doctor_would() {
        let early: Vec<&str> = include_str!("packages").lines().collect();
        let listed = NEEDS.iter().filter(|need| need.found != Found::Qemu).map(|need| need.package);
        assert_eq!(early, listed.collect::<Vec<_>>());
    }

    /// The Debian package and the container have the same.
    #[test]
    fn packages_and_containers_have_what_the_doctor_would_install() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
        let cargo: toml::Table = read("harness/cli/Cargo.toml").parse().unwrap();
        let deb = &cargo["package"]["metadata"]["deb"];
        let early: Vec<&str> = include_str!("packages").lines().collect();
        assert_eq!(deb["recommends"].as_str().unwrap().split(", ").collect::<Vec<_>>(), early);
        assert!(
            deb["depends"]
                .as_str()
                .unwrap()
                .contains(&format!("{} (>= 1:9)", Architecture::X86.table().qemu_package))
        );
        for asset in deb["assets"].as_array().unwrap() {
            let source = asset[0].as_str().unwrap();
            let folder = source.strip_prefix("../../").map(|path| root.join(path));
            let is_there = |path: std::path::PathBuf| path.parent().is_some_and(std::path::Path::is_dir);
            assert!(source.starts_with("target/release/") || folder.is_some_and(is_there), "{source}");
        }
        let container = read("Containerfile");
        assert!(container.contains(Architecture::X86.table().qemu_package));
        let copied = container.lines().filter_map(|line| line.strip_prefix("COPY "));
        let from_here: Vec<&str> = copied.filter(|words| !words.starts_with("--from=")).collect();
        assert_eq!(from_here, [". .", "harness/src/host/packages /tmp/packages"]);
        assert!(container.contains("xargs apt-get install -y --no-install-recommends"));
    }
}
