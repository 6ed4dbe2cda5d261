//! What a vmlinux's debug information says.

mod code;
mod structures;

use std::borrow::Cow;

use addr2line::gimli;
use object::{Object, ObjectSection};

pub(crate) use code::{is_inlined, line};
pub(crate) use structures::{Structure, structures};

pub(crate) use addr2line::gimli::Error;

type Slice<'a> = gimli::EndianSlice<'a, gimli::LittleEndian>;
/// What is read of them.
pub(crate) type Dwarf<'a> = gimli::Dwarf<Slice<'a>>;
type Sections<'a> = gimli::DwarfSections<Cow<'a, [u8]>>;

/// The sections, decompressed.
pub(crate) fn sections<'a>(file: &object::File<'a>) -> Result<Sections<'a>, gimli::Error> {
    gimli::DwarfSections::load(|id: gimli::SectionId| {
        let data = file.section_by_name(id.name()).and_then(|section| section.uncompressed_data().ok());
        Ok(data.unwrap_or_default())
    })
}

/// The dwarf of them.
pub(crate) fn dwarf<'a>(sections: &'a Sections<'_>) -> Dwarf<'a> {
    sections.borrow(|section| gimli::EndianSlice::new(section, gimli::LittleEndian))
}
