//! What a run needs of the machine, as one table: what it is, how it is found, which Debian package brings it.
//!
//! Found by what is used (a program, a header, a tarball), not by asking dpkg: a QEMU built by hand counts. The list
//! for kernels is what a build of tinyconfig with our fragment failed without in an empty Debian 12; cpio, kmod,
//! rsync and libssl-dev were not among them (no initramfs in the kernel, no modules and so no signatures of them).

use std::path::PathBuf;

use super::{Bytes, FOR_CPU_REMOVAL, Qemu, System};

/// How a need is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// QEMU, new enough.
    Qemu,
    /// A program on the search path.
    Program(&'static str),
    /// A header the C compiler finds.
    Header(&'static str),
    /// Any `linux-source-*` tarball in `/usr/src`.
    KernelSource,
}

/// One need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Its name in the table.
    pub what: &'static str,
    /// How it is found.
    pub found: Found,
    /// Debian's and Ubuntu's package.
    pub package: &'static str,
    /// What for.
    pub purpose: &'static str,
}

const fn program(name: &'static str, package: &'static str, purpose: &'static str) -> Need {
    Need { what: name, found: Found::Program(name), package, purpose }
}

/// Everything that can be installed.
pub const NEEDS: [Need; 12] = [
    Need {
        what: "QEMU",
        found: Found::Qemu,
        package: "qemu-system-x86",
        purpose: "9 or newer: guests that lose CPUs",
    },
    // The metapackage: linux-source-6.1 on Debian 12, linux-source-6.12 on Debian 13.
    Need {
        what: "kernel source",
        found: Found::KernelSource,
        package: "linux-source",
        purpose: "what patches are applied to",
    },
    program("make", "make", "kernel build"),
    program("gcc", "gcc", "kernel build"),
    Need {
        what: "C library headers",
        found: Found::Header("stdio.h"),
        package: "libc6-dev",
        purpose: "kernel build: its own tools",
    },
    program("flex", "flex", "kernel build: Kconfig"),
    program("bison", "bison", "kernel build: Kconfig"),
    program("bc", "bc", "kernel build: time constants"),
    Need {
        what: "libelf headers",
        found: Found::Header("gelf.h"),
        package: "libelf-dev",
        purpose: "kernel build: objtool",
    },
    program("xz", "xz-utils", "unpacks the source, packs the kernel"),
    program("git", "git", "applies patches"),
    program("socat", "socat", "repeat.sh, beside each failing trial"),
];

/// Room a run takes in the cache folder: a kernel tree is 1.4 GiB, its objects 0.2 GiB a kernel without debug
/// information and 0.5 GiB with it, and the tarball is unpacked in between.
pub const DISK: Bytes = Bytes::gib(3);

/// Memory for a build with two jobs, or for two guests of 512 MiB with DIMMs to come.
pub const MEMORY: Bytes = Bytes::gib(2);

impl Need {
    /// What meets it on this machine, for the table; nothing where it is lacking.
    pub fn met_by(&self, system: &System, qemu: Option<&Qemu>) -> Option<String> {
        match self.found {
            Found::Qemu => qemu.filter(|qemu| qemu.version >= FOR_CPU_REMOVAL).map(describe),
            Found::Program(name) => system.program(name).map(|path| path.display().to_string()),
            Found::Header(name) => system.header(name).then(|| format!("<{name}>")),
            Found::KernelSource => {
                let names: Vec<_> = kernel_sources(system).iter().filter_map(|path| name_of(path)).collect();
                (!names.is_empty()).then(|| names.join(", "))
            }
        }
    }

    /// What is there instead where it is lacking.
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

/// The needs that nothing meets.
pub fn lacking(system: &System, qemu: Option<&Qemu>) -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| need.met_by(system, qemu).is_none()).collect()
}

/// Tarballs of kernel sources, as Debian (`.tar.xz`) and Ubuntu (`.tar.bz2`) put them.
fn kernel_sources(system: &System) -> Vec<PathBuf> {
    let mut found = system.entries("/usr/src");
    found.retain(|path| {
        name_of(path).is_some()
            && path.extension().is_some_and(|e| ["xz", "bz2", "gz", "zst"].iter().any(|x| e == *x))
    });
    found
}

/// `linux-source-6.1` of `/usr/src/linux-source-6.1.tar.xz`.
fn name_of(path: &std::path::Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (name, _) = name.split_once(".tar")?;
    name.starts_with("linux-source-").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before there is a doctor, `make` installs what needs no source of its own.
    #[test]
    fn make_installs_what_the_doctor_would() {
        let early: Vec<&str> = include_str!("packages").lines().collect();
        let listed = NEEDS.iter().filter(|need| need.found != Found::Qemu).map(|need| need.package);
        assert_eq!(early, listed.collect::<Vec<_>>());
    }
}
