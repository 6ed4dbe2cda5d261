//! Where the places of a scenario are in one kernel's image.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use super::tasks::Members;
use crate::kreport::symbols::Symbols;
use crate::scenario::Point;
use crate::side::Side;
use crate::vmlinux;
use crate::{Error, Result};

/// Near matches that are told.
const NEAR: usize = 4;

/// What holding vCPUs of one kernel takes.
#[derive(Debug)]
pub struct Places {
    /// The first instructions of each place; of a `:return`, of its function.
    addresses: BTreeMap<Point, Vec<u64>>,
    /// Where the kernel keeps its tasks and what they hold, or why that is not known.
    pub members: std::result::Result<Members, String>,
    /// Reads one after another: it keeps what it has read.
    symbols: Mutex<Symbols>,
}

/// Of both kernels, where they are the same, once.
pub type Held = Arc<Places>;

impl Places {
    /// Looks all of them up in a vmlinux. An error names what the kernel of `side` has not, and what is near.
    pub fn find<'a>(vmlinux: &Path, side: Side, points: impl IntoIterator<Item = &'a Point>) -> Result<Self> {
        let bytes = fs_err::read(vmlinux)?;
        let unreadable = |error: &dyn std::fmt::Display| {
            Error::user(format!("{} cannot be read: {error}", vmlinux.display()))
                .mend("build the kernel with CONFIG_DEBUG_INFO_DWARF5, as hotplug does by itself")
        };
        let file = object::File::parse(&*bytes).map_err(|error| unreadable(&error))?;
        let functions = functions(&file);
        let sections = vmlinux::sections(&file).map_err(|error| unreadable(&error))?;
        let dwarf = vmlinux::dwarf(&sections);
        let boot_only = |address: u64| {
            let text = file.section_by_name(".init.text");
            text.is_some_and(|text| (text.address()..text.address() + text.size()).contains(&address))
        };
        let missing = |point: &Point, why: String, mend: String| {
            Error::user(format!("nobody can be held at {point}: the kernel {side} {why}")).mend(mend)
        };
        let mut addresses = BTreeMap::new();
        for point in points {
            let found = match point {
                Point::Entry(name) | Point::Return(name) => match functions.get(name.as_str()) {
                    Some(found) if found.iter().all(|address| boot_only(*address)) => {
                        let mend = "name a function that is there after the boot".to_owned();
                        return Err(missing(point, format!("runs {name} at boot only"), mend));
                    }
                    Some(found) => found.clone(),
                    None => {
                        let inlined =
                            vmlinux::is_inlined(&dwarf, name).map_err(|error| unreadable(&error))?;
                        let why = if inlined {
                            format!("has {name} compiled into its callers")
                        } else {
                            format!("has no function {name}")
                        };
                        let near = near(name, functions.keys().copied());
                        let mend = match (inlined, near.is_empty()) {
                            (true, _) => {
                                "name a caller, or a line of it, such as mm/memory_hotplug.c:1820".into()
                            }
                            (false, true) => "name one of its System.map".into(),
                            (false, false) => format!("perhaps {}", near.join(", ")),
                        };
                        return Err(missing(point, why, mend));
                    }
                },
                Point::Line { file, line } => {
                    let (found, lines) =
                        vmlinux::line(&dwarf, file, *line).map_err(|error| unreadable(&error))?;
                    if found.is_empty() {
                        let after = lines.range(line..).next();
                        let before = lines.range(..line).next_back();
                        let near: Vec<String> =
                            before.into_iter().chain(after).map(|line| format!("{file}:{line}")).collect();
                        let (why, mend) = if near.is_empty() {
                            (
                                format!("has no code of {file}"),
                                "give the file's path from the top of the source",
                            )
                        } else {
                            (
                                format!("has no code there; the nearest is {}", near.join(" and ")),
                                "name a line that has",
                            )
                        };
                        return Err(missing(point, why, mend.to_owned()));
                    }
                    found
                }
            };
            addresses.insert(point.clone(), found);
        }
        let members = Members::of(&file).map_err(|what| format!("{}: {what}", vmlinux.display()));
        Ok(Self { addresses, members, symbols: Mutex::new(Symbols::open(vmlinux)?) })
    }

    /// The first instructions of a place.
    pub fn of(&self, point: &Point) -> &[u64] {
        self.addresses.get(point).map_or(&[], Vec::as_slice)
    }

    /// The functions that the code at an address is of, those that were compiled into another first.
    pub fn functions_at(&self, address: u64) -> Vec<String> {
        self.symbols.lock().unwrap_or_else(PoisonError::into_inner).functions_at(address)
    }
}

/// Where the functions of an image begin, by name. What the compiler made of a function (`name.isra.0`, `name.constprop.0`) is
/// that function; what it cut off (`name.cold`, `name.part.0`) is not its begin.
fn functions<'a>(file: &'a object::File<'_>) -> HashMap<&'a str, Vec<u64>> {
    let mut all: HashMap<&str, Vec<u64>> = HashMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let Ok(name) = symbol.name() else { continue };
        let (plain, made) = name.split_once('.').unwrap_or((name, ""));
        let whole = made.split('.').all(|part| {
            ["", "isra", "constprop"].contains(&part) || part.bytes().all(|byte| byte.is_ascii_digit())
        });
        if whole && !plain.is_empty() {
            all.entry(plain).or_default().push(symbol.address());
        }
    }
    for addresses in all.values_mut() {
        addresses.sort_unstable();
        addresses.dedup();
    }
    all
}

/// Names like this one, the nearest first.
fn near<'a>(name: &str, all: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut ranked: Vec<(f64, &str)> = all
        .map(|other| (strsim::jaro_winkler(name, other), other))
        .filter(|(likeness, _)| *likeness > 0.87)
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    ranked.into_iter().take(NEAR).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "\
__attribute__((noinline)) int offline_pages(int *x)
{
	return *x;
}
static inline __attribute__((always_inline)) int offline_page(int *x)
{
	return offline_pages(x) + 1;
}
__attribute__((noinline)) int online_pages(int *x)
{
	return offline_page(x) + 2;
}
__attribute__((section(\".init.text\"), noinline)) int memory_init(int *x) { return *x; }
void _start(void) { int x = 0; online_pages(&x); memory_init(&x); for (;;) ; }
";

    fn image() -> Option<tempfile::TempDir> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("t.c"), CODE).unwrap();
        let built = std::process::Command::new("cc")
            .current_dir(folder.path())
            .args(["-g", "-O1", "-nostdlib", "-static", "-no-pie", "-fno-stack-protector", "-o", "t", "t.c"])
            .status();
        // Kernels are built on the same machine; without a compiler there is no vmlinux either.
        built.is_ok_and(|status| status.success()).then_some(folder)
    }

    fn find(folder: &tempfile::TempDir, point: &str) -> Result<Places> {
        Places::find(&folder.path().join("t"), Side::After, &[point.parse::<Point>().unwrap()])
    }

    #[test]
    fn a_place_is_found_or_what_is_wrong_with_it_is_said() {
        let Some(folder) = image() else { return };
        let at = |point: &str| find(&folder, point).unwrap().of(&point.parse().unwrap()).to_vec();
        assert_eq!(at("offline_pages").len(), 1);
        assert_eq!(at("offline_pages"), at("offline_pages:return"));
        // A function's first line is its begin.
        assert_eq!(at("t.c:2"), at("offline_pages"));
        let said = |point: &str| {
            let error = find(&folder, point).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            error.to_string()
        };
        let text = said("offline_pagse");
        assert!(text.contains("the kernel after has no function offline_pagse"), "{text}");
        assert!(text.contains("perhaps offline_pages"), "{text}");
        assert!(said("offline_page").contains("has offline_page compiled into its callers"));
        assert!(said("memory_init").contains("at boot only"));
        assert!(said("t.c:6000").contains("no code there; the nearest is t.c:"));
        assert!(said("mm/t.c:2").contains("has no code of mm/t.c"));
    }

    #[test]
    fn frames_know_what_was_compiled_into_them() {
        let Some(folder) = image() else { return };
        let places = find(&folder, "online_pages").unwrap();
        let begin = places.of(&"online_pages".parse().unwrap())[0];
        let found = (begin..begin + 40).map(|address| places.functions_at(address));
        assert!(found.into_iter().any(|names| names == ["offline_page", "online_pages"]));
    }
}
