//! Where lockdep keeps its graph in one kernel's memory, and what the addresses in it mean: from that kernel's vmlinux.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hotplug_vmlinux::{Structure, structures};
use object::{Object, ObjectSegment, ObjectSymbol, SymbolKind};

/// Where the kernel's image is mapped (`Documentation/x86/x86_64/mm.rst`): `__START_KERNEL_map`. Guests boot without
/// KASLR, so that physical memory begins there.
const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// Where physical memory is mapped with four levels of page tables; with five, the kernel's own variable says it.
const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;

/// Why the layout of a kernel is not known.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The vmlinux cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The vmlinux has lockdep and lacks the types that its graph consists of.
    #[error("{} does not tell where lockdep keeps its graph: {what}", vmlinux.display())]
    Unknown {
        /// The file.
        vmlinux: PathBuf,
        /// What it lacks.
        what: String,
    },
}

impl LayoutError {
    /// What the user can do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Io(_) => None,
            Self::Unknown { .. } => {
                Some("build the kernel with CONFIG_DEBUG_INFO_DWARF5, as hotplug does by itself")
            }
        }
    }
}

/// An array of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array {
    /// Where it begins, virtual.
    pub address: u64,
    /// All of it, bytes.
    pub bytes: u64,
    /// One element, bytes.
    pub stride: u64,
}

impl Array {
    /// How many elements there are.
    pub fn len(self) -> u64 {
        self.bytes / self.stride
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The number of the element that begins at an address.
    pub fn index(self, address: u64) -> Option<usize> {
        let offset = address.checked_sub(self.address)?;
        (offset < self.bytes && offset % self.stride == 0)
            .then(|| usize::try_from(offset / self.stride).ok())
            .flatten()
    }
}

/// Offsets of the members that are read, bytes (`struct lock_class`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassMembers {
    /// The list of what is taken under it.
    pub locks_after: u64,
    /// Its key, one byte further for each subclass.
    pub key: u64,
    /// Its subclass.
    pub subclass: u64,
    /// In which contexts it was taken.
    pub usage_mask: u64,
    /// Its name.
    pub name: u64,
}

/// The same of `struct lock_list`, include/linux/lockdep.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeMembers {
    /// Which class is taken.
    pub class: u64,
    /// The call path that made it.
    pub trace: u64,
    /// How far apart the two were among the locks held.
    pub distance: u64,
    /// In which ways.
    pub dep: u64,
}

/// The same of `struct lock_trace`, kernel/locking/lockdep.c.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceMembers {
    /// Number of return addresses.
    pub nr_entries: u64,
    /// The first of them.
    pub entries: u64,
}

/// A variable or a function of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Without the compiler's number: `__key` of `__key.42`.
    pub name: String,
    /// Its source file, where the symbol is static.
    pub file: Option<String>,
    /// Where it begins.
    pub address: u64,
    /// How long it is, bytes.
    pub bytes: u64,
}

/// What [`super::read`] goes by.
#[derive(Debug)]
pub struct Layout {
    /// `lock_classes`.
    pub classes: Array,
    /// `list_entries`: two for each dependency.
    pub entries: Array,
    /// `stack_trace`.
    pub traces: Array,
    /// `lock_classes_in_use`, a bit for each class.
    pub classes_in_use: Array,
    /// `list_entries_in_use`.
    pub entries_in_use: Array,
    /// `nr_stack_trace_entries`: words of `traces` that are used.
    pub traces_used: u64,
    /// The variable that says where physical memory is mapped, if it is one.
    pub page_offset_base: Option<u64>,
    /// `linux_banner`, by which a guest's memory is known to be of this image.
    pub banner: Array,
    /// Members of a class.
    pub class: ClassMembers,
    /// Members of one direction of a dependency.
    pub edge: EdgeMembers,
    /// Members of a call path.
    pub trace: TraceMembers,
    /// Variables, by address.
    pub(super) data: Vec<Symbol>,
    /// Functions, by address.
    pub(super) text: Vec<Symbol>,
    /// The image's read-only and initialised memory: where it is, and what is in it.
    pub(super) image: Vec<(Range<u64>, Vec<u8>)>,
}

impl Layout {
    /// Reads it from a vmlinux. None where the kernel has no lockdep; an error where it has one that cannot be read.
    pub fn of(vmlinux: &Path) -> Result<Option<Self>, LayoutError> {
        let bytes = fs_err::read(vmlinux)?;
        let wrong = |what: &dyn std::fmt::Display| LayoutError::Unknown {
            vmlinux: vmlinux.to_owned(),
            what: what.to_string(),
        };
        let file = object::File::parse(&*bytes).map_err(|error| wrong(&error))?;
        let symbols = Symbols::of(&file);
        if !symbols.by_name.contains_key("lock_classes") {
            return Ok(None);
        }
        let structures = structures(&file).map_err(|error| wrong(&error))?;
        Self::from_parts(&file, symbols, &structures).map(Some).map_err(|what| wrong(&what))
    }

    fn from_parts(
        file: &object::File<'_>,
        symbols: Symbols,
        structures: &HashMap<String, Structure>,
    ) -> Result<Self, String> {
        let member = |structure: &str, name: &str| {
            let members = structures.get(structure).ok_or_else(|| format!("no struct {structure}"))?;
            members.members.get(name).copied().ok_or_else(|| format!("no {structure}.{name}"))
        };
        let array = |name: &str, stride: u64| {
            let (address, bytes) =
                symbols.by_name.get(name).copied().ok_or_else(|| format!("no symbol {name}"))?;
            let whole = stride > 0 && bytes % stride == 0 && address >= IMAGE;
            whole.then_some(Array { address, bytes, stride }).ok_or_else(|| format!("{name} is odd"))
        };
        let size = |name: &str| structures.get(name).map_or(0, |structure| structure.bytes);
        let image = file
            .segments()
            .filter_map(|segment| {
                let data = segment.data().ok().filter(|data| !data.is_empty())?;
                (segment.address() >= IMAGE)
                    .then(|| (segment.address()..segment.address() + data.len() as u64, data.to_vec()))
            })
            .collect();
        Ok(Self {
            classes: array("lock_classes", size("lock_class"))?,
            entries: array("list_entries", size("lock_list"))?,
            traces: array("stack_trace", 8)?,
            classes_in_use: array("lock_classes_in_use", 8)?,
            entries_in_use: array("list_entries_in_use", 8)?,
            traces_used: array("nr_stack_trace_entries", 8)?.address,
            page_offset_base: array("page_offset_base", 8).ok().map(|variable| variable.address),
            banner: array("linux_banner", 1)?,
            class: ClassMembers {
                locks_after: member("lock_class", "locks_after")?,
                key: member("lock_class", "key")?,
                subclass: member("lock_class", "subclass")?,
                usage_mask: member("lock_class", "usage_mask")?,
                name: member("lock_class", "name")?,
            },
            edge: EdgeMembers {
                class: member("lock_list", "class")?,
                trace: member("lock_list", "trace")?,
                distance: member("lock_list", "distance")?,
                dep: member("lock_list", "dep")?,
            },
            trace: TraceMembers {
                nr_entries: member("lock_trace", "nr_entries")?,
                entries: member("lock_trace", "entries")?,
            },
            data: symbols.data,
            text: symbols.text,
            image,
        })
    }

    /// Where an address of the image is in a guest's physical memory.
    pub fn physical(address: u64) -> Option<u64> {
        address.checked_sub(IMAGE)
    }

    /// The same of an address in the map of all physical memory. `base` is what `page_offset_base` holds.
    pub fn physical_of_map(address: u64, base: Option<u64>) -> Option<u64> {
        // Larger than any guest's memory.
        const LARGEST: u64 = 1 << 46;
        address.checked_sub(base.unwrap_or(DIRECT_MAP)).filter(|offset| *offset < LARGEST)
    }

    /// The image's own bytes from an address on, as they are before it runs; none for memory that is zero at first.
    pub fn image_at(&self, address: u64) -> Option<&[u8]> {
        let (range, bytes) = self.image.iter().find(|(range, _)| range.contains(&address))?;
        bytes.get(usize::try_from(address - range.start).ok()?..)
    }

    /// The variable that an address lies in.
    pub fn variable(&self, address: u64) -> Option<&Symbol> {
        covering(&self.data, address)
    }

    /// The function that an address lies in. Its end counts: a call that does not return may be its last instruction.
    pub fn function(&self, address: u64) -> Option<&Symbol> {
        covering(&self.text, address.checked_sub(1)?)
    }
}

fn covering(symbols: &[Symbol], address: u64) -> Option<&Symbol> {
    let behind = symbols.partition_point(|symbol| symbol.address <= address);
    // Aliases and nested symbols begin before: a few back is enough.
    symbols[..behind].iter().rev().take(8).find(|symbol| address - symbol.address < symbol.bytes)
}

struct Symbols {
    by_name: HashMap<String, (u64, u64)>,
    data: Vec<Symbol>,
    text: Vec<Symbol>,
}

impl Symbols {
    fn of(file: &object::File<'_>) -> Self {
        let mut all = Self { by_name: HashMap::new(), data: Vec::new(), text: Vec::new() };
        let mut source: Option<String> = None;
        for symbol in file.symbols() {
            let Ok(name) = symbol.name() else { continue };
            if symbol.kind() == SymbolKind::File {
                // ELF: a file's static symbols follow its own.
                source = (!name.is_empty()).then(|| name.to_owned());
                continue;
            }
            if symbol.size() == 0 {
                continue;
            }
            let entry = Symbol {
                name: plain(name).to_owned(),
                file: symbol.is_local().then(|| source.clone()).flatten(),
                address: symbol.address(),
                bytes: symbol.size(),
            };
            match symbol.kind() {
                SymbolKind::Text => all.text.push(entry),
                SymbolKind::Data => {
                    all.by_name.insert(name.to_owned(), (symbol.address(), symbol.size()));
                    all.data.push(entry);
                }
                _ => {}
            }
        }
        all.data.sort_by_key(|symbol| symbol.address);
        all.text.sort_by_key(|symbol| symbol.address);
        all
    }
}

/// Without the number by which the compiler tells static symbols of one name apart; another build gives another.
fn plain(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((plain, number))
            if !plain.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) =>
        {
            plain
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn the_compilers_number_is_no_part_of_a_name() {
        assert_eq!(plain("__key.42"), "__key");
        assert_eq!(plain("mem_hotplug_lock"), "mem_hotplug_lock");
        assert_eq!(plain("slab_mutex.constprop.0"), "slab_mutex.constprop");
        assert_eq!(plain(".7"), ".7");
        assert_eq!(plain("a."), "a.");
    }
}
