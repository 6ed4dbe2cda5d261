//! The addresses of a scenario's probe points in the image of one kernel.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use hotplug_kreport::symbols::Symbols;
use hotplug_side::Side;
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use super::tasks::Members;
use crate::arch::Architecture;
use crate::scenario::Point;
use crate::{Error, Result};

/// A loop of the kernel's code that a held task runs. The task leaves it when its instruction
/// pointer is set to another address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loop {
    /// The address of its first instruction, which runs again in each iteration.
    pub address: u64,
    /// The bytes of the loop. A kernel patches its text during boot, so the bytes in the guest's
    /// memory are compared with these.
    pub code: Vec<u8>,
}

impl Loop {
    fn find(file: &object::File<'_>) -> Option<Self> {
        let text = file.section_by_name(".text")?;
        let data = text.data().ok()?;
        Architecture::ALL.iter().flat_map(|arch| arch.table().loops).find_map(|pattern| {
            let is = |code: &[u8]| {
                code.iter().zip(*pattern).all(|(byte, want)| want.is_none_or(|want| want == *byte))
            };
            let at = data.windows(pattern.len()).position(is)?;
            Some(Self { address: text.address() + at as u64, code: data[at..at + pattern.len()].to_vec() })
        })
    }
}

/// The most near matches that an error lists.
const NEAR: usize = 4;

/// What is needed to hold tasks and vCPUs of one kernel.
#[derive(Debug)]
pub struct Places {
    /// The addresses of the first instructions of each place. For a `:return`, these are of its
    /// function.
    addresses: BTreeMap<Point, Vec<u64>>,
    /// The points of the form `point?` that the kernel does not have, each with the error to
    /// report.
    missing: BTreeMap<Point, Error>,
    /// The loop in which a task can be held.
    pub idle_loop: Option<Loop>,
    /// The layout of the kernel's tasks and held locks, or why it is not known.
    pub members: std::result::Result<Members, String>,
    /// The symbols, behind a mutex because a lookup caches what it has read.
    symbols: Mutex<Symbols>,
}

/// What a kernel lacks, and the help.
type Missing = (String, String);

/// The addresses of a place, or what the kernel lacks. An error means that the vmlinux cannot be
/// read.
type Found = std::result::Result<std::result::Result<Vec<u64>, Missing>, hotplug_vmlinux::Error>;

/// A vmlinux in which places are looked up.
struct Image<'a> {
    file: &'a object::File<'a>,
    functions: HashMap<&'a str, Vec<u64>>,
    dwarf: hotplug_vmlinux::Dwarf<'a>,
}

impl Image<'_> {
    fn find(&self, point: &Point) -> Found {
        match point {
            Point::Entry(name) | Point::Return(name) => self.function(name),
            Point::Line { file, line } => self.line(file, *line),
            Point::IfAny(point) => self.find(point),
        }
    }

    fn function(&self, name: &str) -> Found {
        let boot = self.file.section_by_name(".init.text");
        let boot = boot.map_or(0..0, |text| text.address()..text.address() + text.size());
        match self.functions.get(name) {
            Some(found) if found.iter().all(|address| boot.contains(address)) => {
                let help = "name a function that exists after the boot".to_owned();
                return Ok(Err((format!("runs {name} during boot only"), help)));
            }
            Some(found) => return Ok(Ok(found.clone())),
            None => {}
        }
        if hotplug_vmlinux::is_inlined(&self.dwarf, name)? {
            let help =
                "name a caller, or a line of the function, such as mm/memory_hotplug.c:1820".to_owned();
            return Ok(Err((format!("has {name} inlined into its callers"), help)));
        }
        let help = match near(name, self.functions.keys().copied()) {
            near if near.is_empty() => "name a function that is in the kernel's System.map".to_owned(),
            near => format!("similar names: {}", near.join(", ")),
        };
        Ok(Err((format!("has no function {name}"), help)))
    }

    fn line(&self, file: &str, line: u32) -> Found {
        let (found, lines) = hotplug_vmlinux::line(&self.dwarf, file, line)?;
        if !found.is_empty() {
            return Ok(Ok(found));
        }
        let near = lines.range(..line).next_back().into_iter().chain(lines.range(line..).next());
        let near: Vec<String> = near.map(|line| format!("{file}:{line}")).collect();
        Ok(Err(if near.is_empty() {
            (format!("has no code from {file}"), "give the file's path from the top of the source".to_owned())
        } else {
            (
                format!("has no code at this line; the nearest is {}", near.join(" and ")),
                "name a line that has code".to_owned(),
            )
        }))
    }
}

impl Places {
    /// Looks up all `points` in a vmlinux. An error names the point that the kernel of `side`
    /// lacks, and near matches.
    pub fn find<'a>(vmlinux: &Path, side: Side, points: impl IntoIterator<Item = &'a Point>) -> Result<Self> {
        let bytes = fs_err::read(vmlinux)?;
        let unreadable = |error: &dyn std::fmt::Display| {
            Error::user(format!("{} cannot be read: {error}", vmlinux.display()))
                .help("build the kernel with CONFIG_DEBUG_INFO_DWARF5, as hotplug does by itself")
        };
        let file = object::File::parse(&*bytes).map_err(|error| unreadable(&error))?;
        let members = Members::of(&file).map_err(|what| format!("{}: {what}", vmlinux.display()));
        let functions = functions(&file);
        let sections = hotplug_vmlinux::sections(&file).map_err(|error| unreadable(&error))?;
        let idle_loop = Loop::find(&file);
        let image = Image { functions, dwarf: hotplug_vmlinux::dwarf(&sections), file: &file };
        let mut addresses = BTreeMap::new();
        let mut missing = BTreeMap::new();
        for point in points {
            match image.find(point).map_err(|error| unreadable(&error))? {
                Ok(found) => drop(addresses.insert(point.clone(), found)),
                Err((why, help)) => {
                    let error =
                        Error::user(format!("cannot set a breakpoint at {point}: the {side} kernel {why}"));
                    let error = error.help(help);
                    if !matches!(point, Point::IfAny(_)) {
                        return Err(error);
                    }
                    missing.insert(point.clone(), error);
                }
            }
        }
        Ok(Self { addresses, missing, idle_loop, members, symbols: Mutex::new(Symbols::open(vmlinux)?) })
    }

    /// Checks that at least one of the two kernels has each place of the form `point?`.
    pub fn check(before: &Self, after: &Self) -> Result<()> {
        match before.missing.iter().find(|(point, _)| after.missing.contains_key(*point)) {
            Some((point, error)) => {
                let text = error.to_string();
                let what = format!("cannot set a breakpoint at {point}: neither kernel has this place");
                Err(Error::user(what).detail(text))
            }
            None => Ok(()),
        }
    }

    /// The addresses of the first instructions of a place.
    pub fn of(&self, point: &Point) -> &[u64] {
        self.addresses.get(point).map_or(&[], Vec::as_slice)
    }

    /// The functions that the code at an address belongs to. Functions that were inlined into
    /// another one come first.
    pub fn functions_at(&self, address: u64) -> Vec<String> {
        self.symbols.lock().unwrap_or_else(PoisonError::into_inner).functions_at(address)
    }
}

/// The start addresses of the functions of an image, by name. A variant that the compiler made of a
/// function (`name.isra.0`, `name.constprop.0`) counts as that function. A part that it split off
/// (`name.cold`, `name.part.0`) does not.
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

/// Similar names, the most similar first.
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

    fn image() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("t.c"), CODE).unwrap();
        let built = std::process::Command::new("cc")
            .current_dir(folder.path())
            .args(["-g", "-O1", "-nostdlib", "-static", "-no-pie", "-fno-stack-protector", "-o", "t", "t.c"])
            .status();
        assert!(built.unwrap().success(), "cc did not compile a small file");
        folder
    }

    fn find(folder: &tempfile::TempDir, point: &str) -> Result<Places> {
        Places::find(&folder.path().join("t"), Side::After, &[point.parse::<Point>().unwrap()])
    }

    #[test]
    fn a_place_is_found_or_what_is_wrong_with_it_is_said() {
        let folder = image();
        let at = |point: &str| find(&folder, point).unwrap().of(&point.parse().unwrap()).to_vec();
        assert_eq!(at("offline_pages").len(), 1);
        assert_eq!(at("offline_pages"), at("offline_pages:return"));
        // The first line of a function is at its entry.
        assert_eq!(at("t.c:2"), at("offline_pages"));
        let said = |point: &str| {
            let error = find(&folder, point).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            error.to_string()
        };
        let text = said("offline_pagse");
        assert!(text.contains("the after kernel has no function offline_pagse"), "{text}");
        assert!(text.contains("similar names: offline_pages"), "{text}");
        assert!(said("offline_page").contains("has offline_page inlined into its callers"));
        assert!(said("memory_init").contains("during boot only"));
        assert!(said("t.c:6000").contains("no code at this line; the nearest is t.c:"));
        assert!(said("mm/t.c:2").contains("has no code from mm/t.c"));
    }

    #[test]
    fn frames_know_what_was_compiled_into_them() {
        let folder = image();
        let places = find(&folder, "online_pages").unwrap();
        let begin = places.of(&"online_pages".parse().unwrap())[0];
        let found = (begin..begin + 40).map(|address| places.functions_at(address));
        assert!(found.into_iter().any(|names| names == ["offline_page", "online_pages"]));
    }
}
