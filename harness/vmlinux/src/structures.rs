//! The size and the member offsets of C structures, and the constants of enumerations.

use std::collections::HashMap;

use addr2line::gimli;

use super::{Dwarf, Slice, of_source};

/// The source file whose debug information has lockdep's structures.
pub const LOCKDEP: &str = "kernel/locking/lockdep.c";

/// A C structure.
#[derive(Debug, Default)]
pub struct Structure {
    /// Its size, in bytes.
    pub bytes: u64,
    /// The offset of each member, in bytes. For a bit field, it is that of the byte in which the
    /// field begins.
    pub members: HashMap<String, u64>,
}

/// The structures in the debug information of a source file such as `kernel/locking/lockdep.c`, by
/// name.
pub fn structures(file: &object::File<'_>, source: &str) -> Result<HashMap<String, Structure>, gimli::Error> {
    of_source(file, source, structures_of)
}

/// The named constants of the enumerations in the debug information of a source file, by name.
pub fn enumerators(file: &object::File<'_>, source: &str) -> Result<HashMap<String, i64>, gimli::Error> {
    of_source(file, source, |dwarf, unit| {
        let mut all = HashMap::new();
        let mut entries = unit.entries();
        while let Some((_, entry)) = entries.next_dfs()? {
            if entry.tag() != gimli::DW_TAG_enumerator {
                continue;
            }
            let value = entry.attr_value(gimli::DW_AT_const_value)?.and_then(|value| {
                value.sdata_value().or_else(|| value.udata_value().and_then(|value| value.try_into().ok()))
            });
            if let (Some(name), Some(value)) = (entry.attr_value(gimli::DW_AT_name)?, value) {
                let name = dwarf.attr_string(unit, name)?;
                all.insert(name.to_string_lossy().into_owned(), value);
            }
        }
        Ok(all)
    })
}

fn structures_of<'a>(
    dwarf: &Dwarf<'a>,
    unit: &gimli::Unit<Slice<'a>>,
) -> Result<HashMap<String, Structure>, gimli::Error> {
    let mut all: HashMap<String, Structure> = HashMap::new();
    // The structure that is being read, and its depth in the tree.
    let mut current: Option<(String, isize)> = None;
    let mut depth = 0;
    let mut entries = unit.entries();
    while let Some((step, entry)) = entries.next_dfs()? {
        depth += step;
        if current.as_ref().is_some_and(|(_, at)| depth <= *at) {
            current = None;
        }
        let name = match entry.attr_value(gimli::DW_AT_name)? {
            Some(value) => dwarf.attr_string(unit, value)?.to_string_lossy().into_owned(),
            None => continue,
        };
        match entry.tag() {
            gimli::DW_TAG_structure_type => {
                let bytes = entry.attr_value(gimli::DW_AT_byte_size)?.and_then(|value| value.udata_value());
                if let Some(bytes) = bytes {
                    all.insert(name.clone(), Structure { bytes, members: HashMap::new() });
                    current = Some((name, depth));
                }
            }
            gimli::DW_TAG_member => {
                let place = entry.attr_value(gimli::DW_AT_data_member_location)?;
                let bits = entry.attr_value(gimli::DW_AT_data_bit_offset)?;
                let bits = bits.and_then(|value| value.udata_value()).map(|bits| bits / 8);
                let place = place.and_then(|value| value.udata_value()).or(bits).unwrap_or(0);
                if let Some((structure, at)) = &current
                    && depth == at + 1
                    && let Some(structure) = all.get_mut(structure)
                {
                    structure.members.insert(name, place);
                }
            }
            _ => {}
        }
    }
    Ok(all)
}
