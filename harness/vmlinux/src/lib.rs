//! Reads the debug information of a vmlinux.

mod code;
mod source_files;
mod structures;

use std::borrow::Cow;

use addr2line::gimli;
use object::{Object, ObjectSection};

pub use code::{is_inlined, line};
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
