//! The table of `hotplug doctor`.

use std::fmt;

use super::apt::OUR_SOURCE;
use super::install::{Rights, plan};
use super::needs::{self, Activity, Need, needs_of};
use super::{Acceleration, ByteCount, Host, System};
use crate::arch::Architecture;
use crate::{Error, Result};

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The name of the need.
    pub what: String,
    /// The item that the host has.
    pub found: String,
    /// The required amount, or the purpose.
    pub needed: String,
    /// The remedy. `None` if the need is met.
    pub help: Option<String>,
    /// The commands that the need is for. `None` for all.
    pub activity: Option<Activity>,
}

/// The needs that the host meets and those that it does not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoctorReport {
    /// The rows of the table.
    pub rows: Vec<Row>,
}

/// The command that installs all that can be installed for x86-64 guests.
pub const INSTALL_ALL: &str = "hotplug doctor --install";

/// The command that installs all that can be installed for guests of this architecture.
pub(super) fn install_all(arch: Architecture) -> String {
    if arch.is_default() { INSTALL_ALL.to_owned() } else { format!("{INSTALL_ALL} --arch {arch}") }
}

impl DoctorReport {
    /// Builds the table. `acceleration` is the result of the accelerator probe, or `None` if there
    /// is no QEMU.
    pub fn new(system: &System, host: &Host, acceleration: Option<&Result<Acceleration>>) -> Self {
        let all = needs_of(host.arch);
        let installable = all.iter().map(|need| {
            let met = need.met_by(system, host.qemu.as_ref());
            Row {
                what: need.what.to_owned(),
                help: met.is_none().then(|| help_for(system, host, need)),
                found: met.unwrap_or_else(|| need.found_instead(host.qemu.as_ref())),
                needed: need.purpose.to_owned(),
                activity: Some(need.activity),
            }
        });
        let mut rows: Vec<_> = installable.collect();
        rows.push(accelerator(acceleration));
        rows.extend([cores(host), memory(host), disk(host)]);
        Self { rows }
    }

    /// The needs of an activity that the host does not meet. Builds are of use only with guests.
    pub fn lacks(&self, activity: Activity) -> impl Iterator<Item = &Row> {
        let counts = move |of: Option<Activity>| of.is_none_or(|of| of == activity || of == Activity::Guests);
        self.rows.iter().filter(move |row| row.help.is_some() && counts(row.activity))
    }

    /// Whether the host meets all needs.
    pub fn is_complete(&self) -> bool {
        self.rows.iter().all(|row| row.help.is_none())
    }
}

/// The command that installs one need alone.
fn help_for(system: &System, host: &Host, need: &Need) -> String {
    if let Some(command) = need.command() {
        return command;
    }
    let plan = match plan(system, &host.os, &[*need], host.qemu.as_ref()) {
        Ok(plan) => plan,
        Err(error) => return remedy(&error),
    };
    if plan.source.is_some() {
        return format!("{} (also writes {OUR_SOURCE})", install_all(host.arch));
    }
    let sudo = if Rights::of_this_process(system) == Rights::Sudo { "sudo " } else { "" };
    match plan.backports {
        Some((suite, packages)) => format!("{sudo}apt-get install -t {suite} {}", packages.join(" ")),
        None => format!("{sudo}apt-get install --no-install-recommends {}", plan.packages.join(" ")),
    }
}

fn remedy(error: &Error) -> String {
    error.remedy().unwrap_or("see above").to_owned()
}

fn accelerator(acceleration: Option<&Result<Acceleration>>) -> Row {
    let (found, help) = match acceleration {
        Some(Ok(found)) => (found.to_string(), None),
        Some(Err(error)) => (error.in_one_line(), Some(remedy(error))),
        None => ("not known without QEMU".to_owned(), Some("install QEMU, then: hotplug doctor".to_owned())),
    };
    Row {
        what: "accelerator".into(),
        found,
        needed: "a guest that answers".into(),
        help,
        activity: Some(Activity::Guests),
    }
}

fn cores(host: &Host) -> Row {
    let found = format!("{}, {}", host.cores, host.cpu);
    Row { what: "cores".into(), found, needed: "any number".into(), help: None, activity: None }
}

fn memory(host: &Host) -> Row {
    let enough = host.memory_available >= needs::MEMORY;
    Row {
        what: "memory".into(),
        found: format!("{} available of {}", host.memory_available, host.memory),
        needed: format!("{}: a build, two guests", needs::MEMORY),
        help: (!enough).then(|| "close other programs, or run on a larger machine".to_owned()),
        activity: None,
    }
}

fn disk(host: &Host) -> Row {
    // A cache in use already has its kernels. Only an empty one still needs the space. The used
    // space is computed second, because it takes seconds.
    let enough =
        host.cache_free >= needs::DISK || super::machine::used_space(&host.cache) >= ByteCount::gib(1);
    Row {
        what: "disk".into(),
        found: format!("{} free at {}", host.cache_free, host.cache.display()),
        needed: format!("{}: kernel tree, objects", needs::DISK),
        help: (!enough).then(|| "set XDG_CACHE_HOME to a folder on a larger disk".to_owned()),
        activity: Some(Activity::Builds),
    }
}

/// Column widths of the table. The texts of `what` and `needed` always fit.
const WHAT: usize = 18;
const FOUND: usize = 38;
const WIDTH: usize = 100;

impl fmt::Display for DoctorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "       {:WHAT$}{:FOUND$}needed for", "what", "found")?;
        for row in &self.rows {
            let state = if row.help.is_none() { "ok" } else { "LACKS" };
            let head = format!("{state:7}{:WHAT$}", row.what);
            // Text that does not fit its column continues below it.
            let found = wrap(&row.found, FOUND - 2);
            let mut found = found.iter();
            let first = found.next().map_or("", String::as_str);
            writeln!(f, "{head}{first:FOUND$}{}", row.needed)?;
            for rest in found {
                writeln!(f, "{:1$}{rest}", "", 7 + WHAT)?;
            }
            for (number, line) in row.help.iter().flat_map(|help| wrap(help, WIDTH - 15)).enumerate() {
                writeln!(f, "{:7}{:8}{line}", "", if number == 0 { "help:" } else { "" })?;
            }
        }
        if self.is_complete() {
            return writeln!(f, "\nthis machine has everything that hotplug needs");
        }
        writeln!(f, "\n       what this machine can run")?;
        for (activity, commands) in Activity::ALL {
            let lacks: Vec<_> = self.lacks(activity).map(|row| row.what.as_str()).collect();
            let (state, text) = match lacks.as_slice() {
                [] => ("yes", commands.to_owned()),
                all => ("NO", format!("{commands}; needs {}", all.join(", "))),
            };
            for (number, line) in wrap(&text, WIDTH - 7).iter().enumerate() {
                writeln!(f, "{:7}{line}", if number == 0 { state } else { "" })?;
            }
        }
        writeln!(f, "\nto install all of these: {INSTALL_ALL}")
    }
}

/// Breaks text at spaces. A word longer than the width is not broken.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if lines[last].is_empty() {
            lines[last].push_str(word);
        } else if lines[last].chars().count() + 1 + word.chars().count() <= width {
            lines[last].push(' ');
            lines[last].push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Accelerator, Os, Qemu, Version};

    fn host(qemu: Option<Qemu>) -> Host {
        Host {
            arch: Architecture::X86,
            os: Os::parse(
                "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=12\nVERSION_CODENAME=bookworm",
            ),
            kernel: "6.1.0-32-amd64".into(),
            cpu: "Intel(R) Xeon(R) Processor @ 2.10GHz".into(),
            cores: 2,
            memory: ByteCount::gib(8),
            memory_available: ByteCount::gib(7),
            qemu,
            cache: "/none/.cache/hotplug".into(),
            cache_free: ByteCount::gib(2),
        }
    }

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(root.path().join("etc/apt")).unwrap();
        let source = "deb http://mirror.example/debian bookworm main\n";
        fs_err::write(root.path().join("etc/apt/sources.list"), source).unwrap();
        root
    }

    #[test]
    fn an_empty_machine_lacks_everything_and_says_what_mends_it() {
        let root = root();
        let report = DoctorReport::new(&System::at(root.path()), &host(None), None);
        let text = report.to_string().replace("sudo ", "");
        assert!(!report.is_complete());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        insta::assert_snapshot!(text, @r#"
               what              found                                 needed for
        LACKS  QEMU              missing                               9 or newer: CPU removal under TCG
               help:   hotplug doctor --install (also writes
                       /etc/apt/sources.list.d/hotplug-backports.sources)
        LACKS  kernel source     missing                               the source of both kernels
               help:   apt-get install --no-install-recommends linux-source
        LACKS  make              missing                               kernel build
               help:   apt-get install --no-install-recommends make
        LACKS  gcc               missing                               kernel build
               help:   apt-get install --no-install-recommends gcc
        LACKS  C library headers missing                               kernel build: its own tools
               help:   apt-get install --no-install-recommends libc6-dev
        LACKS  flex              missing                               kernel build: Kconfig
               help:   apt-get install --no-install-recommends flex
        LACKS  bison             missing                               kernel build: Kconfig
               help:   apt-get install --no-install-recommends bison
        LACKS  bc                missing                               kernel build: time constants
               help:   apt-get install --no-install-recommends bc
        LACKS  libelf headers    missing                               kernel build: objtool
               help:   apt-get install --no-install-recommends libelf-dev
        LACKS  xz                missing                               unpacks the source, packs the kernel
               help:   apt-get install --no-install-recommends xz-utils
        LACKS  git               missing                               applies patches
               help:   apt-get install --no-install-recommends git
        LACKS  socat             missing                               repeat.sh of each failed trial
               help:   apt-get install --no-install-recommends socat
        LACKS  accelerator       not known without QEMU                a guest that answers
               help:   install QEMU, then: hotplug doctor
        ok     cores             2, Intel(R) Xeon(R) Processor @       any number
                                 2.10GHz
        ok     memory            7.0 GiB available of 8.0 GiB          2.0 GiB: a build, two guests
        LACKS  disk              2.0 GiB free at /none/.cache/hotplug  3.0 GiB: kernel tree, objects
               help:   set XDG_CACHE_HOME to a folder on a larger disk

               what this machine can run
        NO     guests of given kernels (--before-image, --after-image, shard); needs QEMU, accelerator
        NO     kernels from source (compare PATCH, kernel build, bisect, series, prove); needs QEMU, kernel
               source, make, gcc, C library headers, flex, bison, bc, libelf headers, xz, git, accelerator,
               disk
        NO     repeat.sh of a failed trial; needs QEMU, socat, accelerator

        to install all of these: hotplug doctor --install
        "#);
    }

    #[test]
    fn an_old_qemu_lacks_and_a_long_reason_is_wrapped() {
        let root = root();
        let version = Version { major: 7, minor: 2, micro: 22 };
        let mut host = host(Some(Qemu { path: "/usr/bin/qemu-system-x86_64".into(), version }));
        host.cache_free = ByteCount::gib(50);
        let reason = "/dev/kvm opens, but no guest answers within 5 s".to_owned();
        let acceleration = Ok(Acceleration { accelerator: Accelerator::Tcg, reason });
        let text = DoctorReport::new(&System::at(root.path()), &host, Some(&acceleration)).to_string();
        let tools = |line: &&str| line.contains("missing") || line.contains("--no-install-recommends");
        let some: Vec<_> = text.lines().filter(|line| !tools(line)).collect();
        insta::assert_snapshot!(some.join("\n"), @r#"
               what              found                                 needed for
        LACKS  QEMU              too old: 7.2.22,                      9 or newer: CPU removal under TCG
                                 /usr/bin/qemu-system-x86_64
               help:   hotplug doctor --install (also writes
                       /etc/apt/sources.list.d/hotplug-backports.sources)
        ok     accelerator       TCG (/dev/kvm opens, but no guest     a guest that answers
                                 answers within 5 s)
        ok     cores             2, Intel(R) Xeon(R) Processor @       any number
                                 2.10GHz
        ok     memory            7.0 GiB available of 8.0 GiB          2.0 GiB: a build, two guests
        ok     disk              50.0 GiB free at                      3.0 GiB: kernel tree, objects
                                 /none/.cache/hotplug

               what this machine can run
        NO     guests of given kernels (--before-image, --after-image, shard); needs QEMU
        NO     kernels from source (compare PATCH, kernel build, bisect, series, prove); needs QEMU, kernel
               source, make, gcc, C library headers, flex, bison, bc, libelf headers, xz, git
        NO     repeat.sh of a failed trial; needs QEMU, socat

        to install all of these: hotplug doctor --install
        "#);
    }
}
