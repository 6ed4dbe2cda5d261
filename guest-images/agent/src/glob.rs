//! Paths with `*` in their components, as far as attributes need them:
//! `/sys/devices/system/cpu/cpu*/online`.

use std::path::{Path, PathBuf};

/// All paths that `pattern` matches now, sorted. Folders that cannot be listed are left out.
/// Components without `*` are not checked: opening the file shows whether it exists.
pub(crate) fn expand(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for component in pattern.split('/').filter(|component| !component.is_empty()) {
        found = if component.contains('*') {
            found.iter().flat_map(|folder| matching(folder, component)).collect()
        } else {
            found.into_iter().map(|folder| folder.join(component)).collect()
        };
    }
    found.sort_unstable();
    found
}

fn matching(folder: &Path, component: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| matches(component, name)))
        .map(|entry| entry.path())
        .collect()
}

/// Whether `name` matches `pattern`, in which each `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(name) = name.strip_prefix(start) else {
        return false;
    };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut name) = name.strip_suffix(end) else {
        return false;
    };
    // The first match of each part leaves the most text for the parts after it.
    middle.split('*').all(|part| match name.split_once(part) {
        Some((_, after)) => {
            name = after;
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text() {
        for (pattern, name) in [
            ("cpu*", "cpu0"),
            ("cpu*", "cpu"),
            ("*", "anything"),
            ("*-64", "kmalloc-64"),
            ("k*c-*4", "kmalloc-64"),
            ("a**b", "ab"),
            ("*a*a*", "aa"),
            ("online", "online"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn all_of_the_rest_has_to_be_there() {
        for (pattern, name) in [
            ("cpu*", "memory0"),
            ("*-64", "kmalloc-640"),
            ("aa*aa", "aaa"),
            ("*a*a*", "a"),
            ("a*b*c", "acb"),
            ("online", "online2"),
            ("", "x"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn only_folders_with_a_star_are_looked_into() {
        let folder = std::env::temp_dir().join(format!("hotplug-glob-{}", std::process::id()));
        for entry in ["cpu1", "cpu0", "cpufreq", "node0"] {
            std::fs::create_dir_all(folder.join(entry)).unwrap();
        }
        std::fs::write(folder.join("cpu0/online"), "").unwrap();
        let found = |pattern: &str| expand(&format!("{}/{pattern}", folder.display()));
        assert_eq!(found("cpu*/on*"), [folder.join("cpu0/online")]);
        assert_eq!(found("cpu*/online").len(), 3);
        assert_eq!(found("node0/online"), [folder.join("node0/online")]);
        assert!(found("node0/*/online").is_empty());
        assert!(found("absent/*").is_empty());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
