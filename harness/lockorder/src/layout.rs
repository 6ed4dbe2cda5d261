//! The location and the layout of lockdep's graph in the memory of a kernel, from its vmlinux.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hotplug_vmlinux::{LOCKDEP, Structure, structures};
use object::{Endianness, Object, ObjectSegment, ObjectSymbol, SymbolKind};

/// Where a kernel maps physical memory, as virtual addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Maps {
    /// Where the kernel's image is mapped. Guests boot without KASLR, so physical memory begins
    /// there.
    image: u64,
    /// Where all physical memory is mapped, unless a variable of the kernel holds the address.
    all: u64,
}

impl Maps {
    /// Those of x86-64 (`Documentation/arch/x86/x86_64/mm.rst`): `__START_KERNEL_map`, and the
    /// direct map with four levels of page tables.
    pub(super) const X86: Self = Self { image: 0xffff_ffff_8000_0000, all: 0xffff_8880_0000_0000 };

    /// The one of POWER (`arch/powerpc/include/asm/page.h`): `PAGE_OFFSET`, which is also
    /// `KERNELBASE`.
    const POWER: Self = Self { image: 0xc000_0000_0000_0000, all: 0xc000_0000_0000_0000 };

    fn of(file: &object::File<'_>) -> Self {
        match file.architecture() {
            object::Architecture::PowerPc64 => Self::POWER,
            _ => Self::X86,
        }
    }
}

/// The reason why the layout of a kernel is unknown.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The vmlinux cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The vmlinux has lockdep, but lacks the types of its graph.
    #[error("{} lacks the layout of lockdep's graph: {what}", vmlinux.display())]
    Unknown {
        /// The file.
        vmlinux: PathBuf,
        /// The missing symbol or type.
        what: String,
    },
}

impl LayoutError {
    /// The text for a `help:` line, which tells the user how to fix the error.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Io(_) => None,
            Self::Unknown { .. } => {
                Some("build the kernel with CONFIG_DEBUG_INFO_DWARF5, as hotplug does by itself")
            }
        }
    }
}

/// An array of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array {
    /// The virtual address of its first element.
    pub address: u64,
    /// The size of the array, in bytes.
    pub bytes: u64,
    /// The size of one element, in bytes.
    pub stride: u64,
}

impl Array {
    /// The number of elements.
    pub fn len(self) -> u64 {
        self.bytes / self.stride
    }

    /// Whether the array has no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The index of the element that begins at an address.
    pub fn index(self, address: u64) -> Option<usize> {
        let offset = address.checked_sub(self.address)?;
        (offset < self.bytes && offset % self.stride == 0)
            .then(|| usize::try_from(offset / self.stride).ok())
            .flatten()
    }
}

/// Offsets of the members of `struct lock_class` that are read, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassMembers {
    /// The list of locks that were taken under it.
    pub locks_after: u64,
    /// Its key. The address is one byte higher for each subclass.
    pub key: u64,
    /// Its subclass.
    pub subclass: u64,
    /// The contexts in which it was taken.
    pub usage_mask: u64,
    /// Its name.
    pub name: u64,
}

/// The same for `struct lock_list`, include/linux/lockdep.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeMembers {
    /// The class that is taken.
    pub class: u64,
    /// The call path that made the dependency.
    pub trace: u64,
    /// The distance of the two locks among the locks held.
    pub distance: u64,
    /// The kinds of the dependency.
    pub dep: u64,
}

/// The same for `struct lock_trace`, kernel/locking/lockdep.c.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceMembers {
    /// The number of return addresses.
    pub nr_entries: u64,
    /// The first return address.
    pub entries: u64,
}

/// A variable or a function of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// The name, without the compiler's number: `__key` for `__key.42`.
    pub name: String,
    /// The source file, if the symbol is static.
    pub file: Option<String>,
    /// The address.
    pub address: u64,
    /// The size, in bytes.
    pub bytes: u64,
}

/// The layout that [`super::read`] needs.
#[derive(Debug)]
pub struct Layout {
    /// The byte order of the kernel.
    pub byte_order: Endianness,
    pub(super) maps: Maps,
    /// `lock_classes`.
    pub classes: Array,
    /// `list_entries`: two for each dependency.
    pub entries: Array,
    /// `stack_trace`.
    pub traces: Array,
    /// `lock_classes_in_use`, one bit for each class.
    pub classes_in_use: Array,
    /// `list_entries_in_use`.
    pub entries_in_use: Array,
    /// The address of `nr_stack_trace_entries`: the number of used words of `traces`.
    pub traces_used: u64,
    /// The address of the variable that holds where physical memory is mapped, if the kernel has
    /// one.
    pub page_offset_base: Option<u64>,
    /// `linux_banner`, which identifies a guest's memory as that of this image.
    pub banner: Array,
    /// Members of a class.
    pub class: ClassMembers,
    /// Members of one direction of a dependency.
    pub edge: EdgeMembers,
    /// Members of a call path.
    pub trace: TraceMembers,
    /// Variables, sorted by address.
    pub(super) data: Vec<Symbol>,
    /// Functions, sorted by address.
    pub(super) text: Vec<Symbol>,
    /// The image's read-only and initialised memory: the addresses and the content.
    pub(super) image: Vec<(Range<u64>, Vec<u8>)>,
}

impl Layout {
    /// Reads the layout from a vmlinux. `None` if the kernel has no lockdep; an error if the kernel
    /// has lockdep but the layout cannot be read.
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
        let structures = structures(&file, LOCKDEP).map_err(|error| wrong(&error))?;
        Self::from_parts(&file, symbols, &structures).map(Some).map_err(|what| wrong(&what))
    }

    fn from_parts(
        file: &object::File<'_>,
        symbols: Symbols,
        structures: &HashMap<String, Structure>,
    ) -> Result<Self, String> {
        let maps = Maps::of(file);
        let member = |structure: &str, name: &str| {
            let members = structures.get(structure).ok_or_else(|| format!("no struct {structure}"))?;
            members.members.get(name).copied().ok_or_else(|| format!("no {structure}.{name}"))
        };
        let array = |name: &str, stride: u64| {
            let (address, bytes) =
                symbols.by_name.get(name).copied().ok_or_else(|| format!("no symbol {name}"))?;
            let whole = stride > 0 && bytes % stride == 0 && address >= maps.image;
            whole.then_some(Array { address, bytes, stride }).ok_or_else(|| format!("{name} is malformed"))
        };
        let size = |name: &str| structures.get(name).map_or(0, |structure| structure.bytes);
        let image = file
            .segments()
            .filter_map(|segment| {
                let data = segment.data().ok().filter(|data| !data.is_empty())?;
                (segment.address() >= maps.image)
                    .then(|| (segment.address()..segment.address() + data.len() as u64, data.to_vec()))
            })
            .collect();
        Ok(Self {
            byte_order: file.endianness(),
            maps,
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

    /// The physical address of an address of the image in a guest.
    pub fn physical(&self, address: u64) -> Option<u64> {
        address.checked_sub(self.maps.image)
    }

    /// The same for an address in the map of all physical memory. `base` is the value of
    /// `page_offset_base`.
    pub fn physical_of_map(&self, address: u64, base: Option<u64>) -> Option<u64> {
        // This is larger than the memory of any guest.
        const LARGEST: u64 = 1 << 46;
        address.checked_sub(base.unwrap_or(self.maps.all)).filter(|offset| *offset < LARGEST)
    }

    /// The bytes of the image from an address on, as they are before the kernel runs; `None` for
    /// memory that is zero at the start.
    pub fn image_at(&self, address: u64) -> Option<&[u8]> {
        let (range, bytes) = self.image.iter().find(|(range, _)| range.contains(&address))?;
        bytes.get(usize::try_from(address - range.start).ok()?..)
    }

    /// The variable with this name. Of several static ones, any.
    pub fn variable_named(&self, name: &str) -> Option<&Symbol> {
        self.data.iter().find(|symbol| symbol.name == name)
    }

    /// The variable that contains an address.
    pub fn variable(&self, address: u64) -> Option<&Symbol> {
        covering(&self.data, address)
    }

    /// The function that contains an address. Its end counts: a call that does not return may be
    /// its last instruction.
    pub fn function(&self, address: u64) -> Option<&Symbol> {
        covering(&self.text, address.checked_sub(1)?)
    }
}

fn covering(symbols: &[Symbol], address: u64) -> Option<&Symbol> {
    let behind = symbols.partition_point(|symbol| symbol.address <= address);
    // Aliases and nested symbols begin before it: looking at the last eight is enough.
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
                // In ELF, the static symbols of a file follow the symbol of the file.
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

/// Removes the number with which the compiler distinguishes static symbols of one name. Another
/// build has another number.
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
