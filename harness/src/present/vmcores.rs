//! The lines about the vmcores of a run.

use std::path::Path;

use crate::conclusion::labelled;
use crate::text::harmless;
use crate::trial::{Vmcore, VmcoreNote};
use crate::vmm::shell_word;

/// The most bytes of a reason.
const REASON: usize = 80;

/// The vmcores that were asked for, with the line that opens each, and why the others are missing.
/// `folder` is the path of the run's folder for the reader.
pub(super) fn lines(vmcores: &[VmcoreNote], folder: &Path) -> Vec<String> {
    if vmcores.is_empty() {
        return vec!["vmcore    none: no trial panicked or hung".into()];
    }
    let of = |note: &VmcoreNote| {
        let file = format!("{}/{}/vmcore", folder.display(), note.trial);
        match (&note.vmcore, &note.vmlinux) {
            (Vmcore::Kept { .. }, Some(vmlinux)) => {
                format!("crash {} {}", shell_word(&vmlinux.display().to_string()), shell_word(&file))
            }
            (Vmcore::Kept { .. }, None) => format!("{file}, of a kernel that was given without a vmlinux"),
            (Vmcore::NotKept { why }, _) => format!("not of {}: {}", note.trial, harmless(why, REASON)),
        }
    };
    labelled("vmcore", vmcores.iter().map(of))
}

#[cfg(test)]
mod tests {
    use hotplug_side::Side;

    use super::*;

    #[test]
    fn a_vmcore_is_told_with_the_line_that_opens_it() {
        let note = |trial: &str, vmlinux: Option<&str>, vmcore| VmcoreNote {
            trial: format!("trials/{trial}"),
            side: Side::After,
            vmlinux: vmlinux.map(Into::into),
            vmcore,
        };
        let all = [
            note("after-000", Some("/cache/vmlinux"), Vmcore::Kept { bytes: 15 << 20 }),
            note("after-001", None, Vmcore::Kept { bytes: 15 << 20 }),
            note("after-002", None, Vmcore::NotKept { why: "the disk\nis full".into() }),
        ];
        let expected = [
            "vmcore    crash /cache/vmlinux r/trials/after-000/vmcore",
            "          r/trials/after-001/vmcore, of a kernel that was given without a vmlinux",
            "          not of trials/after-002: the diskis full",
        ];
        assert_eq!(lines(&all, Path::new("r")), expected);
        assert_eq!(lines(&[], Path::new("r")), ["vmcore    none: no trial panicked or hung"]);
    }
}
