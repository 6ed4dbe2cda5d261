//! The doctor's table.

use std::fmt;

use super::needs::{self, NEEDS};
use super::{Acceleration, Bytes, Host, Os, System};
use crate::Result;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is about.
    pub what: String,
    /// What the host has.
    pub found: String,
    /// What is needed, or what for.
    pub needed: String,
    /// What mends it; nothing where the need is met.
    pub mend: Option<String>,
}

/// What the host has and lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The table.
    pub rows: Vec<Row>,
}

/// The command that mends all that can be installed.
pub const MEND_ALL: &str = "hotplug doctor --install";

impl Report {
    /// Puts it together. `acceleration` is the probe's answer, or nothing where there was no QEMU to probe with.
    pub fn new(system: &System, host: &Host, acceleration: Option<&Result<Acceleration>>) -> Self {
        let installable = NEEDS.iter().map(|need| {
            let met = need.met_by(system, host.qemu.as_ref());
            Row {
                what: need.what.to_owned(),
                mend: met.is_none().then(|| install_command(&host.os, need)),
                found: met.unwrap_or_else(|| need.found_instead(host.qemu.as_ref())),
                needed: need.purpose.to_owned(),
            }
        });
        let mut rows: Vec<_> = installable.collect();
        rows.push(accelerator(acceleration));
        rows.extend([cores(host), memory(host), disk(host)]);
        Self { rows }
    }

    /// Whether all that is needed is there.
    pub fn is_complete(&self) -> bool {
        self.rows.iter().all(|row| row.mend.is_none())
    }
}

fn install_command(os: &Os, need: &needs::Need) -> String {
    let package = need.package;
    if !os.has_apt() {
        return format!("install your distribution's package of what Debian calls {package}");
    }
    match os.backports_for_qemu().filter(|_| need.found == needs::Found::Qemu) {
        Some(suite) => {
            format!("apt-get install -t {suite} {package} (adds a source for {suite} where there is none)")
        }
        None => format!("apt-get install --no-install-recommends {package}"),
    }
}

fn accelerator(acceleration: Option<&Result<Acceleration>>) -> Row {
    let (found, mend) = match acceleration {
        Some(Ok(found)) => (found.to_string(), None),
        Some(Err(error)) => ("no guest answers".to_owned(), Some(error.to_string())),
        None => ("not known without QEMU".to_owned(), Some("install QEMU, then: hotplug doctor".to_owned())),
    };
    Row { what: "accelerator".into(), found, needed: "a guest that answers".into(), mend }
}

fn cores(host: &Host) -> Row {
    let found = format!("{}, {}", host.cores, host.cpu);
    Row { what: "cores".into(), found, needed: "any number".into(), mend: None }
}

fn memory(host: &Host) -> Row {
    let enough = host.memory_available >= needs::MEMORY;
    Row {
        what: "memory".into(),
        found: format!("{} available of {}", host.memory_available, host.memory),
        needed: format!("{}: a build, two guests", needs::MEMORY),
        mend: (!enough).then(|| "close other programs, or run on a larger machine".to_owned()),
    }
}

fn disk(host: &Host) -> Row {
    // A cache in use has its kernels already; only an empty one still needs the room.
    let enough = host.cache_free >= needs::DISK || host.cache_used >= Bytes::gib(1);
    Row {
        what: "disk".into(),
        found: format!("{} free at {}", host.cache_free, host.cache.display()),
        needed: format!("{}: kernel tree, objects", needs::DISK),
        mend: (!enough).then(|| "set XDG_CACHE_HOME to a folder on a larger disk".to_owned()),
    }
}

/// Columns of the table; `what` and `needed` fit theirs by construction.
const WHAT: usize = 18;
const FOUND: usize = 38;
const WIDTH: usize = 100;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "       {:WHAT$}{:FOUND$}needed for", "what", "found")?;
        for row in &self.rows {
            let state = if row.mend.is_none() { "ok" } else { "LACKS" };
            let head = format!("{state:7}{:WHAT$}", row.what);
            // What does not fit its column goes on in the next line, under it.
            let found = wrap(&row.found, FOUND - 2);
            let mut found = found.iter();
            let first = found.next().map_or("", String::as_str);
            writeln!(f, "{head}{first:FOUND$}{}", row.needed)?;
            for rest in found {
                writeln!(f, "{:1$}{rest}", "", 7 + WHAT)?;
            }
            for (number, line) in row.mend.iter().flat_map(|mend| wrap(mend, WIDTH - 15)).enumerate() {
                writeln!(f, "{:7}{:8}{line}", "", if number == 0 { "mend:" } else { "" })?;
            }
        }
        if self.is_complete() {
            writeln!(f, "\nall that is needed is here")
        } else {
            writeln!(f, "\nmend all that can be installed: {MEND_ALL}")
        }
    }
}

/// Breaks at spaces; a word longer than the width stays whole.
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
    use crate::host::{Accelerator, Qemu, Version};

    fn host(qemu: Option<Qemu>) -> Host {
        Host {
            os: Os::parse(
                "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=12\nVERSION_CODENAME=bookworm",
            ),
            kernel: "6.1.0-32-amd64".into(),
            cpu: "Intel(R) Xeon(R) Processor @ 2.10GHz".into(),
            cores: 2,
            memory: Bytes::gib(8),
            memory_available: Bytes::gib(7),
            qemu,
            cache: "/root/.cache/hotplug".into(),
            cache_free: Bytes::gib(2),
            cache_used: Bytes(0),
        }
    }

    #[test]
    fn an_empty_machine_lacks_everything_and_says_what_mends_it() {
        let root = tempfile::tempdir().unwrap();
        let report = Report::new(&System::at(root.path()), &host(None), None);
        let text = report.to_string();
        assert!(!report.is_complete());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        insta::assert_snapshot!(text, @"");
    }

    #[test]
    fn an_old_qemu_lacks_and_a_long_reason_is_wrapped() {
        let root = tempfile::tempdir().unwrap();
        let version = Version { major: 7, minor: 2, micro: 22 };
        let mut host = host(Some(Qemu { path: "/usr/bin/qemu-system-x86_64".into(), version }));
        host.cache_free = Bytes::gib(50);
        let reason = "/dev/kvm opens, but no guest answers within 5 s".to_owned();
        let acceleration = Ok(Acceleration { accelerator: Accelerator::Tcg, reason });
        let text = Report::new(&System::at(root.path()), &host, Some(&acceleration)).to_string();
        let some: Vec<_> = text.lines().filter(|line| !line.contains("missing")).collect();
        insta::assert_snapshot!(some.join("\n"), @"");
    }
}
