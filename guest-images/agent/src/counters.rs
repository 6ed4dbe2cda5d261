//! gcc's counters of the running kernel, as debugfs has them (Documentation/dev-tools/gcov.rst).

use std::io;
use std::path::Path;

use data_encoding::HEXLOWER;
use hotplug_protocol::ObjectCounters;

/// The folder of the counters. It has a folder for each component of the path of an object file
/// (kernel/gcov/fs.c, `new_node()`).
const ROOT: &str = "/sys/kernel/debug/gcov";

/// Reads all counters; empty for a kernel without them.
pub(crate) fn read() -> io::Result<Vec<ObjectCounters>> {
    let mut found = Vec::new();
    match walk(Path::new(ROOT), &mut found) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map(|()| found),
    }
}

fn walk(folder: &Path, found: &mut Vec<ObjectCounters>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        // Next to each file of counters is a link to the place of its notes.
        if entry.file_type()?.is_dir() {
            walk(&path, found)?;
        } else if path.extension().is_some_and(|end| end == "gcda") {
            // The kernel takes a copy when the file is opened (`gcov_seq_open()`).
            let gcda = HEXLOWER.encode(&std::fs::read(&path)?);
            let path = path.strip_prefix(ROOT).unwrap_or(&path).display().to_string();
            found.push(ObjectCounters { path, gcda });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_below_the_path_of_their_object() {
        let root = std::env::temp_dir().join(format!("hotplug-gcov-{}", std::process::id()));
        std::fs::create_dir_all(root.join("build/mm")).unwrap();
        std::fs::write(root.join("reset"), "0").unwrap();
        std::fs::write(root.join("build/mm/slub.gcda"), [0x61, 0x64, 0x00, 0xff]).unwrap();
        std::os::unix::fs::symlink("/nowhere", root.join("build/mm/slub.gcno")).unwrap();
        let mut found = Vec::new();
        walk(&root, &mut found).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        let [one] = &found[..] else { panic!("{found:?}") };
        assert!(one.path.ends_with("build/mm/slub.gcda"));
        assert_eq!(one.gcda, "616400ff");
    }
}
