//! The source files of a kernel.

use std::ops::ControlFlow;
use std::sync::Arc;

use addr2line::gimli;

use super::each_unit;

/// The source files that were compiled into the kernel, as the compiler named them.
pub fn sources(file: &object::File<'_>) -> Result<Vec<String>, gimli::Error> {
    let mut all = Vec::new();
    each_unit::<()>(file, |_, unit| {
        all.extend(unit.name.map(|name| String::from_utf8_lossy(&name).into_owned()));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all)
}

/// The source file of an address of code, by ranges of addresses.
#[derive(Debug, Default)]
pub struct SourceMap {
    /// The first address of a range, the one after its end, and the file, in order.
    ranges: Vec<(u64, u64, Arc<str>)>,
}

impl SourceMap {
    /// Reads the ranges of all source files, which are named as the compiler named them.
    pub fn of(file: &object::File<'_>) -> Result<Self, gimli::Error> {
        let mut ranges = Vec::new();
        each_unit::<()>(file, |dwarf, unit| {
            let name: Arc<str> = String::from_utf8_lossy(&unit.name.unwrap_or_default()).into();
            let mut of_unit = dwarf.unit_ranges(unit)?;
            while let Some(range) = of_unit.next()? {
                ranges.push((range.begin, range.end, name.clone()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        ranges.sort();
        Ok(Self { ranges })
    }

    /// The file with the code at an address.
    pub fn file(&self, address: u64) -> Option<&str> {
        let after = self.ranges.partition_point(|(begin, ..)| *begin <= address);
        let (_, end, name) = self.ranges.get(after.checked_sub(1)?)?;
        (address < *end).then_some(&**name)
    }
}
