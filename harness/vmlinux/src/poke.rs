//! The places in a kernel's text that it patches while it runs. It does so through a breakpoint
//! (arch/x86/kernel/alternative.c, `text_poke_bp_batch()`).

use std::collections::BTreeMap;

use object::{Object, ObjectSection, ObjectSymbol};

/// What is patched at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PokeSite {
    /// The jump of a static key (`include/linux/jump_label.h`).
    StaticKey,
    /// A static call, or its trampoline (`include/linux/static_call.h`).
    StaticCall,
    /// A call of ftrace (include/linux/ftrace.h).
    Ftrace,
}

impl std::fmt::Display for PokeSite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::StaticKey => "the jump of a static key",
            Self::StaticCall => "a static call",
            Self::Ftrace => "a call of ftrace",
        })
    }
}

/// A table of the kernel, between two symbols of its linker script
/// (include/asm-generic/vmlinux.lds.h).
struct Table {
    start: &'static str,
    stop: &'static str,
    /// The size of an entry, in bytes.
    entry: usize,
    site: PokeSite,
}

const TABLES: [Table; 3] = [
    // `struct jump_entry` with CONFIG_HAVE_ARCH_JUMP_LABEL_RELATIVE: `s32 code, target; long key`.
    Table {
        start: "__start___jump_table",
        stop: "__stop___jump_table",
        entry: 16,
        site: PokeSite::StaticKey,
    },
    // `struct static_call_site`: `s32 addr, key`.
    Table {
        start: "__start_static_call_sites",
        stop: "__stop_static_call_sites",
        entry: 8,
        site: PokeSite::StaticCall,
    },
    // Absolute addresses of 8 bytes.
    Table { start: "__start_mcount_loc", stop: "__stop_mcount_loc", entry: 8, site: PokeSite::Ftrace },
];

/// The trampolines of static calls are functions between these symbols.
const TRAMPOLINES: [&str; 2] = ["__static_call_text_start", "__static_call_text_end"];

/// The calls in ftrace's own code (`arch/x86/kernel/ftrace_64.S`).
const FTRACE_CALLS: [&str; 4] =
    ["ftrace_call", "ftrace_regs_call", "ftrace_graph_call", "ftrace_graph_regs_call"];

/// The places of a kernel.
#[derive(Debug, Default)]
pub struct PokeSites(BTreeMap<u64, PokeSite>);

impl PokeSites {
    /// Reads the tables of a vmlinux. A table that the kernel lacks has no places.
    pub fn of(file: &object::File<'_>) -> Self {
        let mut sites = BTreeMap::new();
        let symbols: BTreeMap<&str, u64> = file
            .symbols()
            .filter_map(|symbol| {
                Some((symbol.name().ok().filter(|name| !name.is_empty())?, symbol.address()))
            })
            .collect();
        let range = |start: &str, stop: &str| Some(*symbols.get(start)?..*symbols.get(stop)?);
        for table in TABLES {
            let Some(range) = range(table.start, table.stop) else { continue };
            let bytes = bytes(file, &range).unwrap_or_default();
            for (place, entry) in (range.start..).step_by(table.entry).zip(bytes.chunks_exact(table.entry)) {
                sites.extend(address(place, entry, table.site).map(|address| (address, table.site)));
            }
        }
        if let Some(range) = range(TRAMPOLINES[0], TRAMPOLINES[1]) {
            // The symbols that only mark the end have no trampoline.
            let starts = symbols.values().filter(|address| range.contains(address));
            sites.extend(starts.map(|address| (*address, PokeSite::StaticCall)));
        }
        let calls = FTRACE_CALLS.iter().filter_map(|name| symbols.get(name));
        sites.extend(calls.map(|address| (*address, PokeSite::Ftrace)));
        Self(sites)
    }

    /// What is patched at this address.
    pub fn at(&self, address: u64) -> Option<PokeSite> {
        self.0.get(&address).copied()
    }

    /// Whether the vmlinux has none of the tables.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The content of a range of addresses.
fn bytes<'a>(file: &object::File<'a>, range: &std::ops::Range<u64>) -> Option<&'a [u8]> {
    let size = range.end.checked_sub(range.start)?;
    file.sections().find_map(|section| section.data_range(range.start, size).ok().flatten())
}

/// The address that an entry at `place` names. Those of static keys and calls are relative to the
/// entry, and so the same wherever the kernel is loaded.
fn address(place: u64, entry: &[u8], site: PokeSite) -> Option<u64> {
    if site == PokeSite::Ftrace {
        return Some(u64::from_le_bytes(entry.try_into().ok()?));
    }
    let offset = i32::from_le_bytes(entry.get(..4)?.try_into().ok()?);
    Some(place.wrapping_add_signed(i64::from(offset)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function with the jump of a static key at its 13th byte, one with a static call, one with a
    /// call of ftrace, and a trampoline.
    const CODE: &str = r#"
        .text
        .globl _start, keyed, calling, traced
        _start: nop
        keyed:  .nops 12
        1:      .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
                ret
        calling: nop
        2:      call trampoline
                ret
        traced: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
                ret
        .globl __static_call_text_start, __static_call_text_end
        __static_call_text_start:
        trampoline: jmp traced
        __static_call_text_end:
        .section .rodata, "a"
        .globl __start___jump_table, __stop___jump_table
        __start___jump_table:
                .long 1b - ., 0
                .quad 0
        __stop___jump_table:
        .globl __start_static_call_sites, __stop_static_call_sites
        __start_static_call_sites:
                .long 2b - ., 0
        __stop_static_call_sites:
        .data
        .globl __start_mcount_loc, __stop_mcount_loc
        __start_mcount_loc: .quad traced
        __stop_mcount_loc:
    "#;

    #[test]
    fn the_tables_of_a_kernel_name_the_places_that_it_patches() {
        let folder = tempfile::tempdir().unwrap();
        let (code, image) = (folder.path().join("t.s"), folder.path().join("t"));
        std::fs::write(&code, CODE).unwrap();
        let built = std::process::Command::new("cc")
            .args(["-nostdlib", "-static", "-no-pie", "-o"])
            .args([&image, &code])
            .status();
        assert!(built.unwrap().success(), "cc did not assemble a small file");
        let bytes = std::fs::read(&image).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let at = |name: &str| file.symbols().find(|symbol| symbol.name() == Ok(name)).unwrap().address();
        let sites = PokeSites::of(&file);
        assert_eq!(sites.at(at("keyed") + 12), Some(PokeSite::StaticKey));
        assert_eq!(sites.at(at("calling") + 1), Some(PokeSite::StaticCall));
        assert_eq!(sites.at(at("trampoline")), Some(PokeSite::StaticCall));
        assert_eq!(sites.at(at("traced")), Some(PokeSite::Ftrace));
        for other in [at("keyed"), at("keyed") + 11, at("keyed") + 13, at("calling"), at("_start"), 0] {
            assert_eq!(sites.at(other), None, "{other:#x}");
        }
        assert!(!sites.is_empty());
        // A program without these tables.
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(PokeSites::of(&object::File::parse(&*own).unwrap()).is_empty());
    }
}
