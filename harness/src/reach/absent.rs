//! The files of a source that register callbacks of hotplug, and that a kernel does not contain.

use std::collections::BTreeSet;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Folders of the source that are searched, beside the architecture's own. A driver may be one of
/// another architecture, which its Makefile does not say.
const FOLDERS: [&str; 12] = [
    "block", "crypto", "drivers", "fs", "init", "io_uring", "kernel", "lib", "mm", "net", "security", "virt",
];

/// Functions that register a callback, and what they register.
const REGISTER: [(&str, &str); 6] = [
    ("register_memory_notifier(", "memory"),
    ("hotplug_memory_notifier(", "memory"),
    ("register_node_notifier(", "node"),
    ("hotplug_node_notifier(", "node"),
    ("cpuhp_setup_state", "cpu"),
    ("register_pm_notifier(", "suspend"),
];

/// Files that define these functions.
const DEFINED: [&str; 4] =
    ["kernel/cpu.c", "drivers/base/memory.c", "drivers/base/node.c", "kernel/power/main.c"];

/// A file that registers callbacks and is not in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Absent {
    /// The file, relative to the source.
    pub file: String,
    /// The kinds of callbacks: `memory`, `node`, `cpu`, `suspend`.
    pub kinds: Vec<String>,
    /// The option that builds it, if the makefile of its folder names one.
    pub option: Option<String>,
}

/// Searches a source. `built` has the files in the kernel. Returns the absent ones in the order of
/// their paths, and the files that register callbacks and are in the kernel.
pub fn absent(
    source: &Path,
    architecture: &str,
    built: &BTreeSet<String>,
) -> (Vec<Absent>, BTreeSet<String>) {
    let own = format!("arch/{architecture}");
    let mut all = Vec::new();
    let mut there = BTreeSet::new();
    for folder in FOLDERS.into_iter().chain([own.as_str()]) {
        for entry in walkdir::WalkDir::new(source.join(folder)).sort_by_file_name().into_iter().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|end| end != "c") {
                continue;
            }
            let Ok(text) = std::fs::read(path) else { continue };
            let file = path.strip_prefix(source).unwrap_or(path).display().to_string();
            let calls = |name: &str| memchr::memmem::find(&text, name.as_bytes()).is_some();
            let kinds: BTreeSet<&str> =
                REGISTER.iter().filter(|(name, _)| calls(name)).map(|(_, kind)| *kind).collect();
            if kinds.is_empty() || DEFINED.contains(&file.as_str()) {
                continue;
            }
            if built.contains(&file) {
                there.insert(file);
                continue;
            }
            let kinds = kinds.into_iter().map(str::to_owned).collect();
            all.push(Absent { option: option(path), file, kinds });
        }
    }
    all.sort_by(|a, b| a.file.cmp(&b.file));
    (all, there)
}

/// The option in the makefile of the file's folder that builds its object, or an object that it is
/// a part of.
fn option(file: &Path) -> Option<String> {
    let folder = file.parent()?;
    let text = ["Kbuild", "Makefile"]
        .into_iter()
        .find_map(|name| std::fs::read_to_string(folder.join(name)).ok())?;
    let text = text.replace("\\\n", " ");
    let mut object = format!("{}.o", file.file_stem()?.to_str()?);
    // A part of a part of an object is as deep as makefiles of the kernel go.
    for _ in 0..3 {
        let mut whole = None;
        for line in text.lines() {
            let Some((target, parts)) = line.split_once("+=").or_else(|| line.split_once(":=")) else {
                continue;
            };
            if !parts.split_whitespace().any(|part| part == object) {
                continue;
            }
            if let Some((_, name)) = target.split_once("$(CONFIG_") {
                return Some(name.split(')').next()?.to_owned());
            }
            let stem = target.trim().strip_suffix("-y").or_else(|| target.trim().strip_suffix("-objs"));
            whole = whole.or(stem.filter(|stem| *stem != "obj").map(|stem| format!("{stem}.o")));
        }
        object = whole?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_files_are_listed_with_their_option() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "mm/Makefile",
            "obj-y := slub.o\nobj-$(CONFIG_KSM) += ksm.o\nparts-y += \\\n  deep.o\nobj-$(CONFIG_PARTS) += parts.o\n",
        );
        write("mm/slub.c", "hotplug_node_notifier(f, 0);");
        write("mm/ksm.c", "hotplug_memory_notifier(f, 0);");
        write("mm/deep.c", "cpuhp_setup_state_nocalls(X, f, g);\nregister_memory_notifier(&x);");
        write("mm/plain.c", "nothing();");
        write("kernel/cpu.c", "int cpuhp_setup_state(void);");
        write("arch/s390/a.c", "register_memory_notifier(&x);");
        let built = BTreeSet::from(["mm/slub.c".to_owned()]);
        let (all, there) = absent(folder.path(), "x86", &built);
        let of = |file: &str, kinds: &[&str], option: &str| Absent {
            file: file.into(),
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            option: Some(option.into()),
        };
        assert_eq!(there, built);
        assert_eq!(all, [of("mm/deep.c", &["cpu", "memory"], "PARTS"), of("mm/ksm.c", &["memory"], "KSM")]);
    }
}
