//! Reads the debug information of a vmlinux.

mod changed;
mod code;
mod poke;
mod source_files;
mod structures;

use std::borrow::Cow;
use std::ops::ControlFlow;

use addr2line::gimli;
use object::{Object, ObjectSection};

pub use changed::changed_functions;
pub use code::{is_inlined, line};
pub use poke::{PokeSite, PokeSites};
pub use source_files::{SourceMap, sources};
pub use structures::{LOCKDEP, Structure, enumerators, structures};

pub use addr2line::gimli::Error;

/// The bytes of a section.
pub type Slice<'a> = gimli::EndianSlice<'a, gimli::RunTimeEndian>;
/// The debug information in the sections.
pub type Dwarf<'a> = gimli::Dwarf<Slice<'a>>;
/// All sections with debug information, decompressed, and the byte order of the file.
#[derive(Debug)]
pub struct Sections<'a> {
    sections: gimli::DwarfSections<Cow<'a, [u8]>>,
    byte_order: gimli::RunTimeEndian,
}

/// Reads the sections with debug information, and decompresses them.
pub fn sections<'a>(file: &object::File<'a>) -> Result<Sections<'a>, gimli::Error> {
    let byte_order =
        if file.is_little_endian() { gimli::RunTimeEndian::Little } else { gimli::RunTimeEndian::Big };
    let sections = gimli::DwarfSections::load(|id: gimli::SectionId| {
        let data = file.section_by_name(id.name()).and_then(|section| section.uncompressed_data().ok());
        Ok::<_, gimli::Error>(data.unwrap_or_default())
    })?;
    Ok(Sections { sections, byte_order })
}

/// The debug information in these sections.
pub fn dwarf<'a>(sections: &'a Sections<'_>) -> Dwarf<'a> {
    sections.sections.borrow(|section| gimli::EndianSlice::new(section, sections.byte_order))
}

/// Calls `each` with the debug information of every source file, until it breaks. Returns what it
/// breaks with.
fn each_unit<T>(
    file: &object::File<'_>,
    mut each: impl for<'a> FnMut(&Dwarf<'a>, &gimli::Unit<Slice<'a>>) -> Result<ControlFlow<T>, gimli::Error>,
) -> Result<Option<T>, gimli::Error> {
    let sections = sections(file)?;
    let dwarf = dwarf(&sections);
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        if let ControlFlow::Break(found) = each(&dwarf, &dwarf.unit(header)?)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Reads the debug information of one source file, such as `kernel/cpu.c`. Returns nothing if it
/// has none.
fn of_source<T: Default>(
    file: &object::File<'_>,
    source: &str,
    read: impl for<'a> Fn(&Dwarf<'a>, &gimli::Unit<Slice<'a>>) -> Result<T, gimli::Error>,
) -> Result<T, gimli::Error> {
    let found = each_unit(file, |dwarf, unit| {
        let is_it = unit.name.is_some_and(|name| name.ends_with(source.as_bytes()));
        Ok(if is_it { ControlFlow::Break(read(dwarf, unit)?) } else { ControlFlow::Continue(()) })
    });
    Ok(found?.unwrap_or_default())
}
