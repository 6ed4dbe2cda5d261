//! Decodes the lock order from a guest's memory. The memory is not trusted: addresses are checked,
//! loops are bounded, and malformed data is reported and never guessed.

use object::Endian as _;
use std::collections::HashMap;

use rustc_hash::FxHashMap;

use super::graph::{Edge, How, Interned, LockClass, LockOrder, Node, Usage};
use super::layout::Layout;

/// The longest name of a lock that is read, in bytes. The longest name in a 6.12 kernel has 60.
const NAME: u64 = 128;

/// The longest call path that is read. Lockdep's own have at most 64 entries.
const PATH: usize = 64;

/// The reason why a guest's memory holds no lock order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedDump(pub String);

/// The bytes of lockdep's arrays in one guest, as far as they are used.
#[derive(Debug, Clone, Default)]
pub struct Dump {
    /// `lock_classes_in_use`.
    pub classes_in_use: Vec<u8>,
    /// `lock_classes`.
    pub classes: Vec<u8>,
    /// `list_entries`.
    pub entries: Vec<u8>,
    /// `stack_trace`.
    pub traces: Vec<u8>,
    /// The strings that are not in the kernel's image, by their address.
    pub names: HashMap<u64, Vec<u8>>,
}

/// Reads lockdep's arrays and decodes them. `memory` reads a number of bytes at a physical address.
///
/// # Errors
/// The errors of `memory`, and [`MalformedDump`] if the bytes cannot be lockdep's.
pub async fn read<E: From<MalformedDump>>(
    layout: &Layout,
    mut memory: impl AsyncFnMut(u64, u64) -> Result<Vec<u8>, E>,
) -> Result<LockOrder, E> {
    let mut at = async |address: u64, bytes: u64| {
        let place = layout
            .physical(address)
            .ok_or_else(|| E::from(MalformedDump(format!("{address:#x} is not in the kernel's image"))))?;
        let read = memory(place, bytes).await?;
        if read.len() as u64 != bytes {
            return Err(MalformedDump(format!("read {} of {bytes} bytes at {place:#x}", read.len())).into());
        }
        Ok::<_, E>(read)
    };
    let banner = at(layout.banner.address, layout.banner.bytes).await?;
    if layout.image_at(layout.banner.address).is_none_or(|image| !image.starts_with(&banner)) {
        return Err(
            MalformedDump("the guest's memory does not hold the kernel of this vmlinux".into()).into()
        );
    }
    let classes_in_use = at(layout.classes_in_use.address, layout.classes_in_use.bytes).await?;
    let entries_in_use = at(layout.entries_in_use.address, layout.entries_in_use.bytes).await?;
    let used = layout.word(&at(layout.traces_used, 8).await?, 0).unwrap_or(0);
    let base = match layout.page_offset_base {
        Some(variable) => layout.word(&at(variable, 8).await?, 0),
        None => None,
    };
    let classes = (highest(&classes_in_use) * layout.classes.stride).min(layout.classes.bytes);
    let entries = (highest(&entries_in_use) * layout.entries.stride).min(layout.entries.bytes);
    let traces = used.saturating_mul(8).min(layout.traces.bytes);
    let mut dump = Dump {
        classes_in_use,
        classes: at(layout.classes.address, classes).await?,
        entries: at(layout.entries.address, entries).await?,
        traces: at(layout.traces.address, traces).await?,
        names: HashMap::new(),
    };
    for address in dump.names_elsewhere(layout) {
        let Some(place) = layout.physical_of_map(address, base) else { continue };
        // Not across a page: the next page may not be memory.
        let bytes = NAME.min(4096 - place % 4096);
        dump.names.insert(address, memory(place, bytes).await?);
    }
    Ok(dump.decode(layout)?)
}

impl Dump {
    /// The classes in use: their index and their bytes.
    fn in_use<'a>(&'a self, layout: &Layout) -> impl Iterator<Item = (usize, &'a [u8])> {
        let stride = usize::try_from(layout.classes.stride).unwrap_or(1);
        self.classes.chunks_exact(stride).enumerate().filter(|(place, _)| {
            self.classes_in_use.get(place / 8).is_some_and(|byte| byte >> (place % 8) & 1 != 0)
        })
    }

    /// The addresses of the names that are not in the image.
    fn names_elsewhere(&self, layout: &Layout) -> Vec<u64> {
        let names = self.in_use(layout).filter_map(|(_, class)| layout.word(class, layout.class.name));
        names.filter(|name| *name != 0 && layout.image_at(*name).is_none()).collect()
    }

    /// Decodes the arrays.
    ///
    /// # Errors
    /// If the lists are broken: the memory is that of another kernel, or it was overwritten.
    pub fn decode(&self, layout: &Layout) -> Result<LockOrder, MalformedDump> {
        let mut order = LockOrder::default();
        let mut places = HashMap::new();
        let mut keys = Vec::new();
        for (place, class) in self.in_use(layout) {
            let (Some(key), Some(name)) =
                (layout.word(class, layout.class.key), layout.word(class, layout.class.name))
            else {
                continue;
            };
            if key == 0 || name == 0 {
                // Lockdep is removing the class.
                continue;
            }
            // The kernel has eight (MAX_LOCKDEP_SUBCLASSES).
            let subclass = layout.half(class, layout.class.subclass).unwrap_or(0).min(7);
            let key = key.wrapping_sub(subclass.into());
            let variable = layout.variable(key);
            places.insert(place, u32::try_from(order.classes.len()).unwrap_or(u32::MAX));
            keys.push(key);
            order.classes.push(Node {
                class: LockClass {
                    name: self.name(layout, name),
                    key: variable.map(|variable| match key - variable.address {
                        0 => variable.name.clone(),
                        // One key of an array, or a lock inside a structure.
                        offset => format!("{}+{offset:#x}", variable.name),
                    }),
                    file: variable.and_then(|variable| variable.file.clone()),
                    subclass,
                    ordinal: 0,
                },
                usage: Usage::of_mask(layout.word(class, layout.class.usage_mask).unwrap_or(0)),
            });
        }
        number_equals(&mut order.classes, &keys);

        let mut paths = Interned::default();
        let mut functions = Interned::default();
        // Many dependencies share a path, and paths share frames. Each is formatted only once.
        let mut frames: FxHashMap<u64, u32> = FxHashMap::default();
        let mut known: FxHashMap<u64, Option<u32>> = FxHashMap::default();
        for (place, class) in self.in_use(layout) {
            let Some(&from) = places.get(&place) else { continue };
            let head =
                layout.classes.address + place as u64 * layout.classes.stride + layout.class.locks_after;
            let mut next = layout.word(class, layout.class.locks_after).unwrap_or(0);
            let mut left = layout.entries.len();
            while next != head {
                let entry = layout.entries.index(next).and_then(|number| self.entry(layout, number));
                let (Some(entry), true) = (entry, left > 0) else {
                    let name = &order.classes[from as usize].class.name;
                    return Err(MalformedDump(format!("the list of locks taken under {name} is broken")));
                };
                left -= 1;
                next = layout.word(entry, 0).unwrap_or(0);
                let class =
                    layout.word(entry, layout.edge.class).and_then(|class| layout.classes.index(class));
                // A dependency whose class was just removed is left out.
                let Some(&to) = class.and_then(|class| places.get(&class)) else { continue };
                let trace = layout.word(entry, layout.edge.trace).unwrap_or(0);
                let path = *known.entry(trace).or_insert_with(|| {
                    let mut place = |address: u64| {
                        let new = || functions.place(&function_at(layout, address));
                        *frames.entry(address).or_insert_with(new)
                    };
                    let path: Vec<u32> = self.path(layout, trace)?.map(&mut place).collect();
                    (!path.is_empty()).then(|| paths.place(&path))
                });
                let distance = layout.short(entry, layout.edge.distance).unwrap_or(1);
                let how = bytes(entry, layout.edge.dep).map_or(How::EN, |[dep]: [u8; 1]| How(dep & 15));
                order.edges.push(Edge { from, to, how, distance, path });
            }
        }
        order.paths = paths.all;
        order.functions = functions.all;
        Ok(order)
    }

    fn entry<'a>(&'a self, layout: &Layout, number: usize) -> Option<&'a [u8]> {
        let stride = usize::try_from(layout.entries.stride).ok()?;
        let start = number.checked_mul(stride)?;
        self.entries.get(start..start + stride)
    }

    /// A string of the guest, limited in length, with unprintable bytes replaced by `?`.
    fn name(&self, layout: &Layout, address: u64) -> String {
        let here = self.names.get(&address).map(Vec::as_slice);
        let bytes = here.or_else(|| layout.image_at(address)).unwrap_or(b"?");
        let bytes = &bytes[..bytes.len().min(usize::try_from(NAME).unwrap_or(0))];
        let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
        let name: String = bytes[..end]
            .iter()
            .map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '?' })
            .collect();
        if name.is_empty() { "?".into() } else { name }
    }

    /// The frames of a `struct lock_trace`.
    fn path(&self, layout: &Layout, trace: u64) -> Option<impl Iterator<Item = u64>> {
        let number = layout.traces.index(trace)?;
        let bytes = self.traces.get(number * 8..)?;
        let length = usize::try_from(layout.half(bytes, layout.trace.nr_entries)?).ok()?;
        let first = usize::try_from(layout.trace.entries).ok()?;
        let frames = bytes.get(first..)?.chunks_exact(8).take(length.min(PATH));
        Some(frames.filter_map(|address| layout.word(address, 0)))
    }
}

/// A frame as the kernel prints it.
fn function_at(layout: &Layout, address: u64) -> String {
    match layout.function(address) {
        Some(function) => {
            format!("{}+{:#x}/{:#x}", function.name, address - function.address, function.bytes)
        }
        None => format!("{address:#x}"),
    }
}

/// Numbers the classes that are equal in all else, by the address of their key.
fn number_equals(classes: &mut [Node], keys: &[u64]) {
    let mut order: Vec<usize> = (0..classes.len()).collect();
    order.sort_by_key(|place| keys[*place]);
    let mut seen: HashMap<LockClass, u32> = HashMap::new();
    for place in order {
        let count = seen.entry(classes[place].class.clone()).or_default();
        classes[place].class.ordinal = *count;
        *count += 1;
    }
}

/// One more than the number of the highest bit that is set.
fn highest(bits: &[u8]) -> u64 {
    let last = bits.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |place| place as u64 * 8 + u64::from(8 - bits[place].leading_zeros()))
}

fn bytes<const N: usize>(from: &[u8], at: u64) -> Option<[u8; N]> {
    let at = usize::try_from(at).ok()?;
    from.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Integers of the guest's memory, in its byte order.
impl Layout {
    fn word(&self, from: &[u8], at: u64) -> Option<u64> {
        bytes(from, at).map(|word| self.byte_order.read_u64_bytes(word))
    }

    fn half(&self, from: &[u8], at: u64) -> Option<u32> {
        bytes(from, at).map(|half| self.byte_order.read_u32_bytes(half))
    }

    fn short(&self, from: &[u8], at: u64) -> Option<u16> {
        bytes(from, at).map(|short| self.byte_order.read_u16_bytes(short))
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
