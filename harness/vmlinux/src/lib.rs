//! What a vmlinux's debug information says.

mod code;
mod structures;

use std::borrow::Cow;

use addr2line::gimli;
use object::{Object, ObjectSection};

pub use code::{is_inlined, line};
pub use structures::{Structure, structures};

pub use addr2line::gimli::Error;

/// A section.
pub type Slice<'a> = gimli::EndianSlice<'a, gimli::LittleEndian>;
/// What is read of them.
pub type Dwarf<'a> = gimli::Dwarf<Slice<'a>>;
/// All sections, decompressed.
pub type Sections<'a> = gimli::DwarfSections<Cow<'a, [u8]>>;

/// The sections, decompressed.
pub fn sections<'a>(file: &object::File<'a>) -> Result<Sections<'a>, gimli::Error> {
    gimli::DwarfSections::load(|id: gimli::SectionId| {
        let data = file.section_by_name(id.name()).and_then(|section| section.uncompressed_data().ok());
        Ok(data.unwrap_or_default())
    })
}

/// The dwarf of them.
pub fn dwarf<'a>(sections: &'a Sections<'_>) -> Dwarf<'a> {
    sections.borrow(|section| gimli::EndianSlice::new(section, gimli::LittleEndian))
}
