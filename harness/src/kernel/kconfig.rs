//! Explains why Kconfig did not accept an option. It parses as much of the Kconfig language as an
//! error message needs.

use crate::arch::Arch;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One definition of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// File, relative to the source, and line of the definition.
    place: String,
    /// Whether the option has a prompt, so that a user can set it.
    prompt: bool,
    /// The option's `depends on` expressions.
    depends: Vec<String>,
}

/// The definitions of `names` in the Kconfig files under `source` that this architecture has.
pub(crate) fn find(source: &Path, arch: &Arch, names: &[&str]) -> BTreeMap<String, Vec<Entry>> {
    let mut found: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    // Options of other architectures have the same names, so only this one is searched.
    let elsewhere = |entry: &walkdir::DirEntry| {
        let path = entry.path().strip_prefix(source).unwrap_or(entry.path());
        path.starts_with("arch")
            && entry.depth() == 2
            && entry.file_type().is_dir()
            && !path.ends_with(arch.kernel)
    };
    let walk = walkdir::WalkDir::new(source).sort_by_file_name();
    for file in walk.into_iter().filter_entry(|entry| !elsewhere(entry)).flatten() {
        if !file.file_name().to_string_lossy().starts_with("Kconfig") {
            continue;
        }
        let Ok(text) = fs_err::read_to_string(file.path()) else { continue };
        let name = file.path().strip_prefix(source).unwrap_or(file.path()).display().to_string();
        for (option, entry) in entries(&name, &text, names) {
            found.entry(option).or_default().push(entry);
        }
    }
    found
}

fn entries(file: &str, text: &str, names: &[&str]) -> Vec<(String, Entry)> {
    let mut found: Vec<(String, Entry)> = Vec::new();
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let starts_a_line = !line.starts_with([' ', '\t', '#']) && !line.is_empty();
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next());
        if starts_a_line {
            let name = second.filter(|name| matches!(first, "config" | "menuconfig") && names.contains(name));
            inside = name.is_some();
            if let Some(name) = name {
                let place = format!("{file}:{}", index + 1);
                found.push((name.to_owned(), Entry { place, prompt: false, depends: Vec::new() }));
            }
        } else if let Some((_, entry)) = found.last_mut().filter(|_| inside) {
            match (first, second) {
                ("help", _) => inside = false,
                ("depends", Some("on")) => entry.depends.push(words.collect::<Vec<_>>().join(" ")),
                ("prompt" | "bool" | "tristate" | "int" | "hex" | "string", Some(_)) => entry.prompt = true,
                _ => {}
            }
        }
    }
    found
}

/// The reasons why an option with these definitions cannot be set in a kernel with the options
/// `got`.
pub(crate) fn reasons(entries: &[Entry], got: &BTreeMap<&str, &str>) -> Vec<String> {
    if entries.is_empty() {
        return vec!["no Kconfig file of this source defines it".to_owned()];
    }
    let mut reasons = Vec::new();
    for entry in entries {
        let Entry { place, prompt, depends } = entry;
        if !prompt {
            reasons.push(format!("{place}: has no prompt: only other options can select it"));
        }
        for expression in depends {
            let values: Vec<_> = symbols(expression)
                .into_iter()
                .map(|symbol| format!("{symbol}={}", got.get(symbol).copied().unwrap_or("n")))
                .collect();
            reasons.push(format!("{place}: depends on {expression} ({})", values.join(", ")));
        }
        if *prompt && depends.is_empty() {
            reasons.push(format!("{place}: its menu, its choice or another option decides its value"));
        }
    }
    reasons
}

fn symbols(expression: &str) -> BTreeSet<&str> {
    let word = |byte: char| byte.is_ascii_alphanumeric() || byte == '_';
    expression
        .split(|byte| !word(byte))
        .filter(|word| word.starts_with(|first: char| first.is_ascii_uppercase() || first.is_ascii_digit()))
        .collect()
}
