//! The structure of the library: data flows one way through its top-level modules
//! (docs/architecture.md).

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

/// For each top-level module, the other modules that its files name, each with such a file.
type Uses = BTreeMap<String, BTreeMap<String, String>>;

/// A path into the crate: `crate::name`, or the names in the braces of `use crate::{...}`.
static PATH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\bcrate::(?:(\w+)|\{([^;]*)\})").unwrap());
static NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?:^|,)\s*(\w+)").unwrap());

fn uses() -> Uses {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(&root) {
        let path = entry.unwrap().into_path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_code = path.extension().is_some_and(|ending| ending == "rs");
        if is_code && !name.ends_with("tests.rs") && !["lib.rs", "main.rs"].contains(&name) {
            files.push(path);
        }
    }
    let module = |path: &Path| {
        let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
        first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
    };
    let modules: BTreeSet<String> = files.iter().map(|path| module(path)).collect();
    let mut uses = Uses::new();
    for path in &files {
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let code: String =
            code.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect();
        let from = module(path);
        for found in PATH.captures_iter(&code) {
            let named: Vec<&str> = match (found.get(1), found.get(2)) {
                (Some(one), _) => vec![one.as_str()],
                (None, Some(list)) => {
                    NAME.captures_iter(list.as_str()).map(|name| name.get(1).unwrap().as_str()).collect()
                }
                (None, None) => Vec::new(),
            };
            for to in named.into_iter().filter(|to| modules.contains(*to) && *to != from) {
                uses.entry(from.clone()).or_default().insert(to.to_owned(), path.display().to_string());
            }
        }
    }
    uses
}

/// A cycle of modules that is reachable from `at`, if there is one.
fn circle(uses: &Uses, at: &str, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
    if let Some(start) = way.iter().position(|name| name == at) {
        return Some([&way[start..], &[at.to_owned()]].concat());
    }
    if !done.insert(at.to_owned()) {
        return None;
    }
    way.push(at.to_owned());
    let found =
        uses.get(at).into_iter().flat_map(BTreeMap::keys).find_map(|next| circle(uses, next, way, done));
    way.pop();
    found
}

#[test]
fn the_modules_of_the_library_have_no_circle() {
    let uses = uses();
    assert!(
        uses.len() > 15 && uses["trial"].contains_key("scenario"),
        "the reader of `use` lines reads nothing"
    );
    let mut done = BTreeSet::new();
    for module in uses.keys() {
        if let Some(way) = circle(&uses, module, &mut Vec::new(), &mut done) {
            let steps = way
                .windows(2)
                .map(|pair| format!("{} names {} in {}", pair[0], pair[1], uses[&pair[0]][&pair[1]]));
            panic!("{}\n{}", way.join(" -> "), steps.collect::<Vec<_>>().join("\n"));
        }
    }
}

#[test]
fn a_circle_is_found() {
    let edge = |to: &str| BTreeMap::from([(to.to_owned(), String::new())]);
    let uses = Uses::from([("a".into(), edge("b")), ("b".into(), edge("c")), ("c".into(), edge("b"))]);
    let way = circle(&uses, "a", &mut Vec::new(), &mut BTreeSet::new());
    assert_eq!(way, Some(["b", "c", "b"].map(str::to_owned).to_vec()));
}

/// The public types of this workspace, each with the files that define one of that name.
fn public_types() -> BTreeMap<String, BTreeSet<String>> {
    static TYPE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?m)^\s*pub (?:struct|enum|trait|type|union) (\w+)").unwrap());
    let harness = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = harness.parent().unwrap();
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for folder in [harness, &root.join("protocol"), &root.join("guest-images")] {
        for entry in walkdir::WalkDir::new(folder) {
            let path = entry.unwrap().into_path();
            let is_source = path.components().any(|part| part.as_os_str() == "src");
            if is_source && path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for found in TYPE.captures_iter(&text) {
                    types.entry(found[1].to_owned()).or_default().insert(path.display().to_string());
                }
            }
        }
    }
    types
}

#[test]
fn no_two_public_types_have_one_name() {
    let types = public_types();
    assert!(types.len() > 200 && types.contains_key("RunResult"), "the reader of types reads nothing");
    let twice: Vec<_> = types.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:#?}");
}

#[test]
fn only_the_command_line_parses_arguments() {
    let manifest = |folder: &str| {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("Cargo.toml"))
            .unwrap()
    };
    assert!(manifest("cli").contains("clap"));
    for folder in [".", "kreport", "lockorder", "statistics", "vmlinux", "side", "../protocol"] {
        assert!(!manifest(folder).contains("clap"), "{folder}");
    }
}

/// The Debian package names the licences of all that the binary carries.
#[test]
fn the_package_has_the_licences_of_the_repository() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let words = |text: &str| {
        let lines = text.lines().map(|line| if line == " ." { "" } else { line });
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    let package = words(&std::fs::read_to_string(root.join("cli/debian-copyright")).unwrap());
    let licence = std::fs::read_to_string(root.join("../LICENSE")).unwrap();
    let (mit, patches) = licence.split_once("The kernel patches (*.patch)").unwrap();
    for paragraph in mit.split("\n\n").skip(2) {
        assert!(package.contains(&words(paragraph)), "{paragraph}");
    }
    assert!(patches.contains("GPL-2.0"), "{patches}");
    let gpl = "Files: *.patch Copyright: The authors of the Linux kernel, and the hotplug \
               authors License: GPL-2 ";
    assert!(package.contains(gpl) && package.contains("/usr/share/common-licenses/GPL-2"), "{package}");
    let manifest = std::fs::read_to_string(root.join("cli/Cargo.toml")).unwrap();
    assert!(manifest.contains("license-file = [\"debian-copyright\", \"0\"]"), "{manifest}");
}
