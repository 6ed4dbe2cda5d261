//! What `hotplug doctor --install` does: a plan first, made without touching anything, then apt.

use std::fmt::Write as _;

use super::needs::{Found, Need};
use super::{Os, Qemu, System, apt};
use crate::{Error, Result};

/// How commands get root's rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// They are root's already.
    Root,
    /// Through sudo(8).
    Sudo,
    /// Not at all.
    None,
}

impl Rights {
    /// Those of this process on this machine.
    pub fn of_this_process(system: &System) -> Self {
        if nix::unistd::geteuid().is_root() {
            Self::Root
        } else if system.program("sudo").is_some() {
            Self::Sudo
        } else {
            Self::None
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Text of our file in `/etc/apt/sources.list.d`, where no backports source is configured yet.
    pub source: Option<String>,
    /// Packages from the release itself.
    pub packages: Vec<&'static str>,
    /// Packages from this suite, named first.
    pub backports: Option<(String, Vec<&'static str>)>,
}

/// Plans for what is lacking.
///
/// The user's errors: no apt (the packages are named), or, once nothing else is left to do, a QEMU that is too old
/// and that apt cannot renew.
pub fn plan(system: &System, os: &Os, lacking: &[&'static Need], qemu: Option<&Qemu>) -> Result<Plan> {
    if lacking.is_empty() {
        return Ok(Plan::default());
    }
    if !os.has_apt() {
        let names: Vec<_> = lacking.iter().map(|need| need.package).collect();
        return Err(Error::user(format!("{}: packages can be installed only with apt", os.name))
            .detail(format!("lacking, by their names in Debian: {}", names.join(" ")))
            .help("install your distribution's packages of these, then: hotplug doctor"));
    }
    let mut plan = Plan::default();
    let mut beyond_apt = None;
    for need in lacking {
        match (need.found, qemu, os.backports_for_qemu()) {
            (Found::Qemu, Some(qemu), _) if !is_apts(qemu) => {
                beyond_apt = Some(too_old(qemu, "it is not apt's, and comes first"));
            }
            (Found::Qemu, _, Some(suite)) => {
                plan.source = backports_source(system, os, &suite)?;
                plan.backports = Some((suite, vec![need.package]));
            }
            (Found::Qemu, Some(qemu), None) => {
                beyond_apt = Some(too_old(qemu, &format!("{} has no newer one", os.name)));
            }
            _ => plan.packages.push(need.package),
        }
    }
    match beyond_apt {
        Some(error) if plan.is_empty() => Err(error),
        _ => Ok(plan),
    }
}

/// Whether it is where Debian's package puts it; `/bin` is the same folder there.
fn is_apts(qemu: &Qemu) -> bool {
    qemu.path.starts_with("/usr/bin") || qemu.path.starts_with("/bin")
}

fn too_old(qemu: &Qemu, why: &str) -> Error {
    Error::user(format!("{} is QEMU {}, and {why}", qemu.path.display(), qemu.version)).help(format!(
        "set {} to a qemu-system-x86_64 of version {} or newer; without one, run only scenarios that remove no CPUs",
        super::OVERRIDE,
        super::FOR_CPU_REMOVAL.major
    ))
}

/// Nothing where a source for `suite` is configured.
fn backports_source(system: &System, os: &Os, suite: &str) -> Result<Option<String>> {
    let sources = apt::sources(system);
    if sources.iter().any(|source| source.offers(suite)) {
        return Ok(None);
    }
    let codename = os.codename.as_deref().unwrap_or_default();
    let Some(own) = sources.iter().find(|source| source.offers(codename)) else {
        return Err(Error::user(format!(
            "apt has no source for {codename} from which one for {suite} could be made"
        ))
        .help(format!("add a source for {suite} to /etc/apt/sources.list.d")));
    };
    Ok(Some(format!(
        "# Written by `hotplug doctor --install`: {} itself has no QEMU of version {} or newer.\n{}",
        os.name,
        super::FOR_CPU_REMOVAL.major,
        own.for_suite(suite)
    )))
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.backports.is_none()
    }

    /// All packages, in the order they are installed.
    pub fn all_packages(&self) -> Vec<&'static str> {
        let backports = self.backports.iter().flat_map(|(_, packages)| packages);
        self.packages.iter().chain(backports).copied().collect()
    }

    /// apt's commands, after the source was written.
    pub fn commands(&self, rights: Rights) -> Vec<Vec<String>> {
        let mut commands = Vec::new();
        if !self.is_empty() {
            commands.push(privileged(rights, &["apt-get", "update"]));
        }
        if !self.packages.is_empty() {
            commands.push(privileged(rights, &[&INSTALL[..], &self.packages[..]].concat()));
        }
        if let Some((suite, packages)) = &self.backports {
            commands
                .push(privileged(rights, &[&INSTALL[..], &["-t", suite.as_str()], &packages[..]].concat()));
        }
        commands
    }

    /// The same as text for a shell, the source included.
    pub fn shell(&self, rights: Rights) -> String {
        let mut text = String::new();
        if let Some(source) = &self.source {
            let tee = privileged(rights, &["tee", apt::OUR_SOURCE]);
            let tee = tee.iter().filter(|word| !ENVIRONMENT.contains(&word.as_str()));
            let _ = writeln!(text, "{} <<'END'\n{source}END", tee.cloned().collect::<Vec<_>>().join(" "));
        }
        for command in self.commands(rights) {
            let _ = writeln!(text, "{}", command.join(" "));
        }
        text
    }
}

/// Another apt may be at work, as unattended-upgrades is after a boot: wait for it, seconds.
const INSTALL: [&str; 6] =
    ["apt-get", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"];

const ENVIRONMENT: [&str; 3] = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"];

fn privileged(rights: Rights, command: &[&str]) -> Vec<String> {
    // sudo drops the environment, so that it is set behind it.
    let sudo: &[&str] = if rights == Rights::Sudo { &["sudo"] } else { &[] };
    [sudo, &ENVIRONMENT, command].concat().into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
