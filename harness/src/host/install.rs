//! The plan of `hotplug doctor --install`. It is made without changing the machine. `run_plan` then
//! runs apt.

use std::fmt::Write as _;

use super::needs::{Found, Need};
use super::{Os, Qemu, System, apt};
use crate::{Error, Result};

/// How commands get root privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// This process already runs as root.
    Root,
    /// Commands run through sudo(8).
    Sudo,
    /// Commands cannot get root privileges.
    None,
}

impl Rights {
    /// The rights of this process on this machine.
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

/// The steps of an installation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstallPlan {
    /// Text of the harness's file in `/etc/apt/sources.list.d`, if a backports source is needed and
    /// none is configured.
    pub source: Option<String>,
    /// Packages from the release itself.
    pub packages: Vec<&'static str>,
    /// A backports suite, and the packages to install from it.
    pub backports: Option<(String, Vec<&'static str>)>,
}

/// Plans the installation of the lacking packages.
///
/// Fails with a user error if the machine has no apt (the error names the packages). Also fails if
/// QEMU is too old, apt cannot upgrade it, and there is nothing else to install.
pub fn plan(system: &System, os: &Os, lacking: &[Need], qemu: Option<&Qemu>) -> Result<InstallPlan> {
    // What no package brings is left to the user.
    let lacking: Vec<&Need> = lacking.iter().filter(|need| need.command().is_none()).collect();
    if lacking.is_empty() {
        return Ok(InstallPlan::default());
    }
    if !os.has_apt() {
        let names: Vec<_> = lacking.iter().map(|need| need.package).collect();
        return Err(Error::user(format!("{}: packages can be installed only with apt", os.name))
            .detail(format!("missing packages, by their Debian names: {}", names.join(" ")))
            .help("install your distribution's packages for these, then run: hotplug doctor"));
    }
    let mut plan = InstallPlan::default();
    let mut beyond_apt = None;
    for need in lacking {
        match (need.found, qemu, os.backports_for_qemu()) {
            (Found::Qemu, Some(qemu), _) if !is_apts(qemu) => {
                beyond_apt = Some(too_old(qemu, "apt cannot upgrade it because it was not installed by apt"));
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

/// Whether QEMU is in the folder of Debian's package. On Debian, `/bin` is the same folder as
/// `/usr/bin`.
fn is_apts(qemu: &Qemu) -> bool {
    qemu.path.starts_with("/usr/bin") || qemu.path.starts_with("/bin")
}

fn too_old(qemu: &Qemu, why: &str) -> Error {
    Error::user(format!("{} is QEMU {}, and {why}", qemu.path.display(), qemu.version)).help(format!(
        "set {} to a {} of version {} or newer; without one, run only scenarios that remove no CPUs",
        super::OVERRIDE,
        qemu.program(),
        super::FOR_CPU_REMOVAL.major
    ))
}

/// The text of a source for `suite`, for the doctor. `None` if one is already configured.
fn backports_source(system: &System, os: &Os, suite: &str) -> Result<Option<String>> {
    if apt::sources(system).iter().any(|source| source.offers(suite)) {
        return Ok(None);
    }
    Ok(Some(format!(
        "# Written by `hotplug doctor --install`: {} itself has no QEMU of version {} or newer.\n{}",
        os.name,
        super::FOR_CPU_REMOVAL.major,
        suite_source(system, os, suite)?
    )))
}

/// The text of an apt source for `suite`, in the archive of this machine's own release.
///
/// Fails with a user error if apt has no source of that release.
pub(super) fn suite_source(system: &System, os: &Os, suite: &str) -> Result<String> {
    let codename = os.codename.as_deref().unwrap_or_default();
    let sources = apt::sources(system);
    let Some(own) = sources.iter().find(|source| source.offers(codename)) else {
        return Err(Error::user(format!(
            "apt has no source for {codename} from which one for {suite} could be made"
        ))
        .help(format!("add a source for {suite} to /etc/apt/sources.list.d")));
    };
    Ok(own.for_suite(suite).to_string())
}

impl InstallPlan {
    /// Whether there is nothing to install.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.backports.is_none()
    }

    /// All packages, in the order of their installation.
    pub fn all_packages(&self) -> Vec<&'static str> {
        let backports = self.backports.iter().flat_map(|(_, packages)| packages);
        self.packages.iter().chain(backports).copied().collect()
    }

    /// The apt commands to run after the source was written.
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

    /// The plan as shell commands, including the one that writes the source.
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

/// apt's install command. Another apt may be running, such as unattended-upgrades after a boot. The
/// timeout for its lock is in seconds.
const INSTALL: [&str; 6] =
    ["apt-get", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"];

const ENVIRONMENT: [&str; 3] = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"];

fn privileged(rights: Rights, command: &[&str]) -> Vec<String> {
    // sudo drops the environment, so `env` sets it after sudo.
    let sudo: &[&str] = if rights == Rights::Sudo { &["sudo"] } else { &[] };
    [sudo, &ENVIRONMENT, command].concat().into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
