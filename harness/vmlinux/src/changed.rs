//! The functions whose machine code differs between two kernels.
//!
//! A function that grows moves all functions behind it. So an address within the code is compared by
//! the symbol that it points to. The code is not disassembled: wherever the bytes differ, the four
//! bytes around the place are read as an address, in each of the ways in which x86 code has one.

use std::collections::{BTreeMap, BTreeSet};

use object::elf::{SHF_ALLOC, SHF_EXECINSTR};
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, SymbolKind};

/// The length of an address within x86 code.
const FIELD: usize = 4;

/// The distances from the end of a relative address to the end of its instruction, which it is
/// relative to: an immediate operand may follow.
const BEHIND: [u64; 4] = [0, 1, 2, 4];

/// The names of the functions whose code differs, and of those that only one of two kernels has. Two
/// addresses without a symbol, such as those of strings, count as equal.
pub fn changed_functions(before: &object::File<'_>, after: &object::File<'_>) -> BTreeSet<String> {
    let (before, after) = (Image::of(before), Image::of(after));
    let names: BTreeSet<&str> = before.functions.keys().chain(after.functions.keys()).copied().collect();
    let is_same = |name: &str| {
        let (Some(one), Some(other)) = (before.functions.get(name), after.functions.get(name)) else {
            return false;
        };
        one.len() == other.len()
            && one.iter().zip(other).all(|(one, other)| is_same_code(&before, *one, &after, *other))
    };
    names.into_iter().filter(|name| !is_same(name)).map(str::to_owned).collect()
}

/// The beginnings of the names of sections with places that code refers to and that have no symbol.
const ANONYMOUS: [&str; 3] = [".rodata", ".init.data", ".altinstr"];

struct Image<'a> {
    /// The address and the size of each function, by its name. Static functions may share a name.
    functions: BTreeMap<&'a str, Vec<(u64, u64)>>,
    /// All symbols, by their address.
    symbols: BTreeMap<u64, Symbols<'a>>,
    /// The sections that the kernel has in memory.
    sections: Vec<Section<'a>>,
}

/// The symbols at one address. A symbol of the linker's, such as `__lock_text_end`, may have the address
/// of a function.
#[derive(Default)]
struct Symbols<'a> {
    /// The largest of their sizes.
    size: u64,
    /// Their names without the numbers that the compiler appends to static variables.
    names: Vec<&'a str>,
}

struct Section<'a> {
    address: u64,
    /// Empty if the file has no content for it.
    data: &'a [u8],
    is_code: bool,
    /// Whether it has places that code refers to and that have no symbol: strings, and code that
    /// replaces other code.
    is_anonymous: bool,
}

/// What an address points to.
enum Place<'a, 'b> {
    /// The symbols at or below it, and its distance from them.
    Symbols(&'b [&'a str], u64),
    /// A place without a symbol.
    Anonymous,
}

impl Place<'_, '_> {
    fn is(&self, other: &Place<'_, '_>) -> bool {
        match (self, other) {
            (Self::Symbols(names, distance), Place::Symbols(others, other)) => {
                distance == other && names.iter().any(|name| others.contains(name))
            }
            (Self::Anonymous, Place::Anonymous) => true,
            _ => false,
        }
    }
}

impl<'a> Image<'a> {
    fn of(file: &'a object::File<'_>) -> Self {
        let mut functions: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        let mut symbols: BTreeMap<u64, Symbols<'_>> = BTreeMap::new();
        for symbol in file.symbols() {
            let (Ok(name), place) = (symbol.name(), (symbol.address(), symbol.size())) else { continue };
            if name.is_empty() || !symbol.is_definition() {
                continue;
            }
            if symbol.kind() == SymbolKind::Text && symbol.size() > 0 {
                functions.entry(name).or_default().push(place);
            }
            if matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Data | SymbolKind::Unknown) {
                let here = symbols.entry(place.0).or_default();
                here.size = here.size.max(place.1);
                here.names.push(without_number(name));
            }
        }
        for all in functions.values_mut() {
            all.sort_unstable();
        }
        let sections = file.sections().filter_map(|section| {
            let SectionFlags::Elf { sh_flags: flags } = section.flags() else { return None };
            let (name, data) = (section.name().ok()?, section.data().ok()?);
            (flags & u64::from(SHF_ALLOC) != 0).then(|| Section {
                address: section.address(),
                data,
                is_code: flags & u64::from(SHF_EXECINSTR) != 0,
                is_anonymous: ANONYMOUS.iter().any(|start| name.starts_with(start)),
            })
        });
        Self { functions, symbols, sections: sections.collect() }
    }

    fn section(&self, address: u64) -> Option<&Section<'a>> {
        let has = |section: &&Section<'_>| {
            address.checked_sub(section.address).is_some_and(|at| at < section.data.len() as u64)
        };
        self.sections.iter().find(has)
    }

    fn code(&self, (address, size): (u64, u64)) -> Option<&'a [u8]> {
        let section = self.section(address).filter(|section| section.is_code)?;
        let start = usize::try_from(address - section.address).ok()?;
        section.data.get(start..start.checked_add(usize::try_from(size).ok()?)?)
    }

    fn place(&self, address: u64) -> Option<Place<'a, '_>> {
        if let Some((start, symbols)) = self.symbols.range(..=address).next_back()
            && address - start < symbols.size.max(1)
        {
            return Some(Place::Symbols(&symbols.names, address - start));
        }
        self.section(address).filter(|section| section.is_anonymous).map(|_| Place::Anonymous)
    }

    /// What a field at `address` may point to: as an absolute address, which is sign-extended, and
    /// relative to the end of its instruction.
    fn places(&self, address: u64, field: [u8; FIELD]) -> [Option<Place<'a, '_>>; 1 + BEHIND.len()] {
        let value = i64::from(i32::from_le_bytes(field)).cast_unsigned();
        let end = address.wrapping_add(FIELD as u64).wrapping_add(value);
        let [a, b, c, d] = BEHIND.map(|behind| self.place(end.wrapping_add(behind)));
        [self.place(value), a, b, c, d]
    }
}

/// The name of a symbol without the number that the compiler appends to a static variable.
fn without_number(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((start, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => start,
        _ => name,
    }
}

fn is_same_code(before: &Image<'_>, one: (u64, u64), after: &Image<'_>, other: (u64, u64)) -> bool {
    let (Some(a), Some(b)) = (before.code(one), after.code(other)) else { return false };
    if a.len() != b.len() {
        return false;
    }
    // No field begins before this place.
    let mut from = 0;
    while let Some(differs) = a[from..].iter().zip(&b[from..]).position(|(a, b)| a != b) {
        let differs = from + differs;
        let first = from.max(differs.saturating_sub(FIELD - 1));
        let same = (first..=differs).find(|at| {
            let field = |code: &[u8]| code.get(*at..)?.first_chunk().copied();
            let (Some(in_a), Some(in_b)) = (field(a), field(b)) else { return false };
            let in_a = before.places(one.0 + *at as u64, in_a);
            let in_b = after.places(other.0 + *at as u64, in_b);
            in_a.iter().zip(&in_b).any(|(a, b)| a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| a.is(b)))
        });
        let Some(at) = same else { return false };
        from = at + FIELD;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The functions that differ between two programs, which are compiled and placed as a kernel is.
    fn changed(before: &str, after: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let built = |name: &str, text: &str| {
            let (source, file) = (folder.path().join(format!("{name}.c")), folder.path().join(name));
            fs_err::write(&source, format!("{COMMON}{text}")).unwrap();
            let mut compiler = Command::new("cc");
            compiler.args(["-O1", "-mcmodel=kernel", "-fno-pic", "-fcf-protection=none", "-fno-inline"]);
            compiler.args([
                "-no-pie",
                "-static",
                "-nostdlib",
                "-Wl,-Ttext=0xffffffff81000000",
                "-Wl,-efirst",
            ]);
            let done = compiler.arg("-o").arg(&file).arg(&source).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            fs_err::read(file).unwrap()
        };
        let (before, after) = (built("before", before), built("after", after));
        let parsed = |bytes| object::File::parse(bytes).unwrap();
        changed_functions(&parsed(&*before), &parsed(&*after)).into_iter().collect()
    }

    const COMMON: &str = "int a, b; static int table[9]; const char *said;
        void take(int *lock) { ++*lock; }\n";

    #[test]
    fn a_function_that_only_moved_is_the_same() {
        let others = "void second(void) { take(&a); take(&b); said = \"string\"; table[4]++; }
            void third(int n) { if (n) second(); else take(&b); }";
        let before = format!("void first(void) {{ take(&a); }} {others}");
        let after = format!(
            "int more[40]; void first(void) {{ take(&a); take(&b); said = \"one more\"; more[2]++; }} {others}"
        );
        assert_eq!(changed(&before, &before), Vec::<String>::new());
        assert_eq!(changed(&before, &after), ["first"]);
    }

    #[test]
    fn two_locks_in_the_other_order_are_a_change() {
        let with = |body: &str| format!("void second(void) {{ take(&b); }} void first(void) {{ {body} }}");
        let before = with("take(&a); take(&b);");
        assert_eq!(changed(&before, &with("take(&b); take(&a);")), ["first"]);
        let both = before.replace("take(&b); }", "take(&a); }");
        assert_eq!(changed(&before, &both), ["first", "second"]);
        assert_eq!(changed(&before, &with("take(&a); second();")), ["first"]);
        // Constants are no addresses.
        assert_eq!(changed(&with("a = 4000;"), &with("a = 4001;")), ["first"]);
    }

    #[test]
    fn a_function_of_one_kernel_alone_is_a_change() {
        let before = "void first(void) { take(&a); }";
        assert_eq!(changed(before, &format!("{before} void second(void) {{}}")), ["second"]);
    }
}
