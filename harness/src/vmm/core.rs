//! The place of the core dump of a QEMU that crashed (core(5)).

use std::path::Path;

use nix::unistd::Pid;

/// The place of the core dump of the process `pid`, which ran in the harness's working directory.
pub(super) fn place(pid: Pid) -> String {
    let context = |name: &str| fs_err::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    let uses_pid = context("core_uses_pid").trim() == "1";
    let folder = std::env::current_dir().unwrap_or_default();
    of_pattern(context("core_pattern").trim(), uses_pid, pid, &folder)
}

fn of_pattern(pattern: &str, uses_pid: bool, pid: Pid, folder: &Path) -> String {
    if let Some(program) = pattern.strip_prefix('|') {
        let program = program.split_whitespace().next().unwrap_or_default();
        return format!("piped to {program}");
    }
    let mut name = pattern.replace("%p", &pid.to_string());
    if uses_pid && !pattern.contains("%p") {
        name = format!("{name}.{pid}");
    }
    // Other specifiers are not expanded. The reader of the message can expand them.
    folder.join(name).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_followed_as_far_as_they_are_plain() {
        let place = |pattern, uses_pid| of_pattern(pattern, uses_pid, Pid::from_raw(7), Path::new("/here"));
        assert_eq!(place("core", false), "/here/core");
        assert_eq!(place("core", true), "/here/core.7");
        assert_eq!(place("/var/cores/%e.%p", true), "/var/cores/%e.7");
        assert_eq!(
            place("|/usr/lib/systemd/systemd-coredump %P %u", false),
            "piped to /usr/lib/systemd/systemd-coredump"
        );
    }
}
