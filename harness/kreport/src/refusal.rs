//! Finds the lines in which the kernel tells that it refuses to add, remove, online or offline
//! memory or a CPU.
//!
//! A refusal is no bug: the kernel may refuse. So it is never a [`super::Report`], and it is looked
//! for only on request.

use std::ops::RangeInclusive;
use std::sync::OnceLock;

use aho_corasick::AhoCorasick;
use serde::{Deserialize, Serialize};

use super::line::{self, Line};
use super::prefix::Caller;
use super::quote::Strip;
use super::refusal_forms::{self, FORMS, RefusalForm};

/// Refusals that are kept of one log. Equal ones in a row are one.
const LIMIT: usize = 4096;
/// Lines between a dump of a page and the refusal that it belongs to.
const NEAR: u64 = 40;
/// The same in microseconds of kernel time.
const SOON: u64 = 2_000_000;

/// The operation that the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refused {
    /// Adding memory.
    MemoryAdd,
    /// Bringing memory online.
    MemoryOnline,
    /// Taking memory offline.
    MemoryOffline,
    /// Removing memory.
    MemoryRemove,
    /// Adding a CPU, or bringing it online.
    CpuOnline,
    /// Taking a CPU offline, or removing it.
    CpuOffline,
    /// An operation on a device, whose firmware or bus prints the reason.
    Device,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MemoryAdd => "adding memory",
            Self::MemoryOnline => "bringing memory online",
            Self::MemoryOffline => "taking memory offline",
            Self::MemoryRemove => "removing memory",
            Self::CpuOnline => "bringing a CPU online",
            Self::CpuOffline => "taking a CPU offline",
            Self::Device => "a hotplug operation of a device",
        })
    }
}

/// A refusal, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The operation.
    pub what: Refused,
    /// The reason, such as "the block holds unmovable pages (slab)".
    pub reason: String,
    /// The memory, the CPU or the device, as printed.
    pub object: Option<String>,
    /// The line of the kernel that tells it.
    pub text: String,
    /// The first and the last line in the log, counted from 1.
    pub lines: RangeInclusive<u64>,
    /// The kernel's clock at the first line, in microseconds since boot.
    pub time: Option<u64>,
    /// The number of lines in a row that tell the same.
    pub times: u64,
    /// The kernel tries again by itself until it succeeds or a signal ends it.
    pub retried: bool,
}

/// A dump of a page (`__dump_page()` in mm/debug.c, `__dump_page_owner()` in
/// `mm/page_owner.c`).
#[derive(Debug, Default)]
struct PageDump {
    line: u64,
    caller: Option<Caller>,
    flags: Option<String>,
}

/// Reads the refusals of a log as it grows.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    found: Vec<Refusal>,
    /// Refusals that were not kept, because there were too many.
    more: u64,
    page: PageDump,
    caller: Option<Caller>,
}

impl Refusals {
    /// Reads complete lines. `first` is the number of the first of them.
    pub(super) fn lines(&mut self, bytes: &[u8], first: u64, strip: Strip<'_>) {
        let mut number = first;
        let mut at = 0;
        while let Some(found) = bytes.get(at..).and_then(|rest| triggers().find(rest)) {
            let hit = at + found.start();
            let start = memchr::memrchr(b'\n', &bytes[at..hit]).map_or(at, |newline| at + newline + 1);
            let end = memchr::memchr(b'\n', &bytes[hit..]).map_or(bytes.len(), |newline| hit + newline);
            number += memchr::memchr_iter(b'\n', &bytes[at..start]).count() as u64;
            let cleaned = line::clean(&bytes[start..end.min(start + line::LIMIT)]);
            line::with_texts(&cleaned, strip, |line, text| {
                if !line.user {
                    self.line(line, text.trim(), number);
                }
            });
            number += 1;
            at = end + 1;
        }
    }

    fn line(&mut self, line: &Line<'_>, text: &str, number: u64) {
        if let Some(flags) = refusal_forms::page_flags(text) {
            self.page = PageDump { line: number, caller: line.caller, flags: Some(flags) };
            return;
        }
        if let Some(kind) = refusal_forms::page_type(text) {
            // Since 6.10, the kind of a page is not a flag.
            if self.page.caller == line.caller && self.page.line + NEAR > number {
                let flags = self.page.flags.take().filter(|flags| !flags.is_empty());
                self.page.flags =
                    Some(flags.map_or_else(|| kind.clone(), |flags| format!("{kind}, {flags}")));
            }
            return;
        }
        if let Some(owner) = refusal_forms::page_owner(text) {
            self.owner(line, &owner, number);
            return;
        }
        let Some(form) = FORMS.iter().find(|form| form.fits(text)) else { return };
        self.add(form, line, text, number);
    }

    /// The task that allocated the page above.
    fn owner(&mut self, line: &Line<'_>, owner: &str, number: u64) {
        if let Some(last) = self.found.last_mut()
            && self.caller == line.caller
            && last.lines.end() + NEAR > number
            && last.times == 1
            && let Some(reason) = last.reason.strip_suffix(')')
        {
            last.reason = format!("{reason}, {owner})");
            last.lines = *last.lines.start()..=number;
        }
    }

    fn add(&mut self, form: &RefusalForm, line: &Line<'_>, text: &str, number: u64) {
        let near = self.page.line > 0 && self.page.caller == line.caller && self.page.line + NEAR > number;
        let flags = if form.dump && near { self.page.flags.take() } else { None };
        let mut reason = form.reason_of(text);
        if form.dump {
            let flags = flags.filter(|flags| !flags.is_empty()).unwrap_or_else(|| "no flags".to_owned());
            reason = format!("{reason} ({flags})");
        }
        let object = form.object_of(text);
        let soon = |last: &Refusal| last.time.zip(line.time).is_none_or(|(then, now)| now < then + SOON);
        if let Some(last) =
            self.found.last_mut().filter(|last| soon(last) && last.lines.end() + NEAR > number)
        {
            // The same once more: a retry, or the next page of the block.
            if last.what == form.what && last.reason == reason && (object.is_none() || last.object == object)
            {
                last.times += 1;
                last.lines = *last.lines.start()..=number;
                return;
            }
            // The last word of the same operation: the range, after the dump of the page.
            if last.what == form.what && form.sums_up && last.object.is_none() && self.caller == line.caller {
                last.object = object;
                last.lines = *last.lines.start()..=number;
                return;
            }
        }
        if self.found.len() >= LIMIT {
            self.more += 1;
            return;
        }
        self.caller = line.caller;
        self.found.push(Refusal {
            what: form.what,
            reason,
            object,
            text: text.to_owned(),
            lines: number..=number,
            time: line.time,
            times: 1,
            retried: form.retried,
        });
    }

    /// The refusals, and the number of those that were not kept.
    pub(super) fn finish(self) -> (Vec<Refusal>, u64) {
        (self.found, self.more)
    }
}

/// The search for the words of [`FORMS`], which is built once.
fn triggers() -> &'static AhoCorasick {
    static TRIGGERS: OnceLock<AhoCorasick> = OnceLock::new();
    TRIGGERS.get_or_init(|| {
        let words = FORMS.iter().map(|form| form.words[0]).chain(refusal_forms::PAGE);
        AhoCorasick::new(words).unwrap_or_else(|error| unreachable!("constant patterns: {error}"))
    })
}

/// The refusals in a log that comes from the kernel itself, in its order.
pub fn refusals_of(log: &[u8]) -> Vec<Refusal> {
    let mut refusals = Refusals::default();
    refusals.lines(log, 1, Strip::Nothing);
    refusals.found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(log: &str) -> Refusal {
        let mut all = refusals_of(log.as_bytes());
        assert_eq!(all.len(), 1, "{all:#?}");
        all.remove(0)
    }

    #[test]
    fn an_unmovable_page_is_one_refusal_with_its_owner() {
        let refusal = one("\
[   50.000001][   T27] page:ffffea0005200000 refcount:1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x148000
[   50.000002][   T27] flags: 0x17ffffc0000200(slab|node=0|zone=2|lastcpupid=0x1fffff)
[   50.000003][   T27] raw: 0017ffffc0000200 ffff888100041a00 0000000000000000 dead000000000001
[   50.000004][   T27] page dumped because: unmovable page
[   50.000005][   T27] page_owner tracks the page as allocated
[   50.000006][   T27] page last allocated via order 0, migratetype Unmovable, gfp_mask 0x12cc0(GFP_KERNEL), pid 311, tgid 311 (cryptsetup), ts 4812345678, free_ts 0
[   50.000007][   T27] memory offlining [mem 0x0000000148000000-0x000000014fffffff] failed due to failure to isolate range
");
        assert_eq!(refusal.what, Refused::MemoryOffline);
        assert_eq!(refusal.reason, "the block holds unmovable pages (slab, pid 311 cryptsetup)");
        assert_eq!(refusal.object.as_deref(), Some("mem 0x0000000148000000-0x000000014fffffff"));
        assert_eq!((refusal.lines, refusal.retried), (4..=7, false));
    }

    #[test]
    fn a_migration_that_fails_is_retried() {
        let dump = "\
[   50.000001] migrating pfn 148003 failed ret:1 
[   50.000002] page:ffffea0005200000 refcount:2 mapcount:1 mapping:0000000000000000 index:0x0 pfn:0x148003
[   50.000003] flags: 0x17ffffc0000034(uptodate|lru|active|node=0|zone=2)
[   50.000004] page dumped because: migration failure
";
        let refusal = one(&dump.repeat(5));
        assert!(refusal.retried && refusal.times == 5, "{refusal:?}");
        assert_eq!(refusal.reason, "pages cannot be migrated (uptodate|lru|active)");
    }

    #[test]
    fn what_only_sounds_like_a_refusal_is_none() {
        for line in [
            "smpboot: Allowing 8 CPUs, 4 hotplug CPUs",
            "smpboot: CPU 3 is now offline",
            "pseries-hotplug-mem: Attempting to hot-add 4 LMB(s)",
            "pseries-hotplug-mem: Memory at 20000000 (drc index 80000002) was hot-added",
            "page dumped because: nonzero _refcount",
            "acpi PNP0A08:00: _OSC: platform does not support [LTR]",
            "foo: failed to load firmware",
            "Offlined Pages 32768",
        ] {
            assert_eq!(refusals_of(format!("[   50.000001] {line}\n").as_bytes()), [], "{line}");
        }
    }
}
