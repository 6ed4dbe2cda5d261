//! Inlined functions and source lines, which have no symbol.

use std::collections::BTreeSet;

use addr2line::gimli::{self, Reader as _};

use super::Slice;

/// Whether a function of this name is inlined into its callers.
pub fn is_inlined(dwarf: &gimli::Dwarf<Slice<'_>>, name: &str) -> Result<bool, gimli::Error> {
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        let unit = dwarf.unit(header)?;
        let mut entries = unit.entries();
        while let Some((_, entry)) = entries.next_dfs()? {
            if entry.tag() != gimli::DW_TAG_subprogram || entry.attr_value(gimli::DW_AT_inline)?.is_none() {
                continue;
            }
            if let Some(value) = entry.attr_value(gimli::DW_AT_name)?
                && dwarf.attr_string(&unit, value)?.to_slice()? == name.as_bytes()
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The addresses where the code of a source line begins: the first instruction of each range.
/// `file` is the end of the file's path. The second value is the set of lines of the file that have
/// code.
pub fn line(
    dwarf: &gimli::Dwarf<Slice<'_>>,
    file: &str,
    wanted: u32,
) -> Result<(Vec<u64>, BTreeSet<u32>), gimli::Error> {
    let mut addresses = Vec::new();
    let mut lines = BTreeSet::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        let unit = dwarf.unit(header)?;
        let Some(program) = unit.line_program.clone() else { continue };
        let mut of_file: Vec<Option<bool>> = Vec::new();
        let mut rows = program.rows();
        let mut last = None;
        while let Some((header, row)) = rows.next_row()? {
            let index = usize::try_from(row.file_index()).unwrap_or(usize::MAX);
            if of_file.len() <= index && index < 1 << 16 {
                of_file.resize(index + 1, None);
            }
            let Some(known) = of_file.get_mut(index) else { continue };
            let is_it = match known {
                Some(is_it) => *is_it,
                None => *known.insert(names(dwarf, &unit, header, row.file_index(), file)?),
            };
            let here = row.line().filter(|_| is_it && !row.end_sequence()).map(std::num::NonZeroU64::get);
            if let Some(here) = here.and_then(|line| u32::try_from(line).ok()) {
                lines.insert(here);
                if here == wanted && row.is_stmt() && last != Some(wanted) {
                    addresses.push(row.address());
                }
                last = Some(here);
            } else {
                last = None;
            }
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok((addresses, lines))
}

/// Whether the path of a unit's file ends with `file`.
fn names<R: gimli::Reader>(
    dwarf: &gimli::Dwarf<R>,
    unit: &gimli::Unit<R>,
    header: &gimli::LineProgramHeader<R>,
    index: u64,
    file: &str,
) -> Result<bool, gimli::Error> {
    let Some(entry) = header.file(index) else { return Ok(false) };
    let text = |value| -> Result<String, gimli::Error> {
        Ok(dwarf.attr_string(unit, value)?.to_string_lossy()?.into_owned())
    };
    let mut path = text(entry.path_name())?;
    if let Some(directory) = entry.directory(header).filter(|_| !path.starts_with('/')) {
        path = format!("{}/{path}", text(directory)?);
    }
    let rest = path.strip_suffix(file);
    Ok(rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('/')))
}
