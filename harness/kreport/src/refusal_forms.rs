//! The table of the lines in which the kernel refuses hotplug. Each row cites the kernel file.

use super::refusal::Refused::{
    self, CpuOffline, CpuOnline, Device, MemoryAdd, MemoryOffline, MemoryOnline, MemoryRemove,
};

/// One form of refusal.
#[derive(Debug)]
pub(super) struct RefusalForm {
    pub what: Refused,
    /// Substrings, in this order. The first one begins the kernel's text, or follows the name of a
    /// subsystem or a device and a colon.
    pub words: &'static [&'static str],
    /// The reason in words. If it ends with a colon, the text after the last substring follows.
    pub reason: &'static str,
    /// A dump of the page comes with it.
    pub dump: bool,
    /// It is printed at the end of an operation, after the lines that tell the reason.
    pub sums_up: bool,
    pub retried: bool,
}

const fn form(what: Refused, words: &'static [&'static str], reason: &'static str) -> RefusalForm {
    RefusalForm { what, words, reason, dump: false, sums_up: false, retried: false }
}

const fn dump(words: &'static [&'static str], reason: &'static str, retried: bool) -> RefusalForm {
    RefusalForm { what: MemoryOffline, words, reason, dump: true, sums_up: false, retried }
}

const fn sum(what: Refused, words: &'static [&'static str], reason: &'static str) -> RefusalForm {
    RefusalForm { what, words, reason, dump: false, sums_up: true, retried: false }
}

/// Words of the lines of a dump.
pub(super) const PAGE: [&str; 3] = ["flags: 0x", "page_type: ", "page last allocated via order"];

/// All forms.
pub(super) const FORMS: &[RefusalForm] = &[
    // mm/memory_hotplug.c: do_migrate_range() and offline_pages(); mm/page_isolation.c:
    // set_migratetype_isolate(); mm/debug.c prints the page
    dump(&["page dumped because: unmovable page"], "the block holds unmovable pages", false),
    dump(&["page dumped because: migration failure"], "pages cannot be migrated", true),
    dump(&["page dumped because: isolation failed"], "pages cannot be isolated", true),
    sum(MemoryOffline, &["memory offlining [mem ", "failed due to "], "the kernel says:"),
    sum(MemoryOffline, &["memory offlining [mem ", "] failed"], "the kernel gives no reason"),
    sum(MemoryOnline, &["online_pages [mem ", "] failed"], "a notifier or the zone refused"),
    // mm/memory_hotplug.c: check_hotplug_memory_range(), try_remove_memory(), mhp_range_allowed()
    form(MemoryAdd, &["unaligned hotplug range: "], "unaligned hotplug range:"),
    form(
        MemoryAdd,
        &["Hotplug memory [", "exceeds maximum addressable range"],
        "the range cannot be addressed",
    ),
    form(
        MemoryAdd,
        &["Hotplugged memory exceeds maximum addressable address"],
        "the range cannot be addressed",
    ),
    form(MemoryAdd, &["Unable to reserve System RAM region: "], "the range is in use:"),
    form(MemoryAdd, &["System RAM resource ", " cannot be added"], "the range is in use or beyond mem="),
    form(MemoryAdd, &["memory add fail, invalid altmap"], "the device's memory map does not fit"),
    form(MemoryAdd, &["not enough memory for memmap"], "not enough memory for the memory map"),
    form(MemoryAdd, &["beyond mem="], "the range is beyond mem="),
    form(MemoryAdd, &["Cannot online node ", "due to NULL pgdat"], "the node has no data"),
    form(MemoryRemove, &["removing memory fails, because memory ["], "the memory is still online"),
    form(MemoryRemove, &["Refuse to remove ", "wrong granularity"], "the range was added in larger pieces"),
    form(MemoryRemove, &["Failed to remove memory: "], "error:"),
    form(MemoryOnline, &["Failed to re-online memory: "], "error:"),
    // drivers/acpi/acpi_memhotplug.c
    form(MemoryAdd, &["add_memory failed"], "the kernel's core refused"),
    form(MemoryAdd, &["acpi_memory_enable_device() error"], "the memory device cannot be enabled"),
    // drivers/virtio/virtio_mem.c, drivers/dax/kmem.c, drivers/hv/hv_balloon.c, drivers/xen/balloon.c
    form(MemoryAdd, &["adding memory failed: "], "error:"),
    form(MemoryAdd, &["memory add failed"], "the kernel's core refused"),
    form(MemoryAdd, &["rejecting DAX region"], "the region is rejected:"),
    form(MemoryAdd, &["could not reserve region"], "the range is in use"),
    form(MemoryAdd, &["hot_add memory failed error is "], "error:"),
    form(MemoryAdd, &["Memory hot add failed"], "the kernel's core refused"),
    form(MemoryAdd, &["Cannot add additional memory ("], "error:"),
    // arch/powerpc/platforms/pseries/hotplug-memory.c
    form(MemoryRemove, &["Memory hot-remove failed"], "not enough LMBs could be removed"),
    form(MemoryRemove, &["Memory indexed-count-remove failed"], "an LMB could not be removed"),
    form(MemoryRemove, &["Failed to hot-remove memory at "], "at:"),
    form(MemoryAdd, &["Memory hot-add failed"], "not enough LMBs could be added"),
    form(MemoryAdd, &["Memory indexed-count-add failed"], "an LMB could not be added"),
    form(MemoryAdd, &["Failed to hot-add memory, "], "at:"),
    form(MemoryAdd, &["Failed to add LMB"], "the LMB could not be added"),
    form(MemoryRemove, &["Failed to remove LMB"], "the LMB could not be removed"),
    form(Device, &["Not enough LMBs available ("], "not enough LMBs are available"),
    form(Device, &["Could not find LMB associativity"], "the LMB has no associativity"),
    // arch/powerpc/platforms/pseries/{hotplug-cpu,dlpar}.c
    form(CpuOffline, &["pseries-hotplug-cpu: Failed to offline CPU ", "rc: "], "error:"),
    form(CpuOffline, &["Failed to offline CPU ", "rc: "], "error:"),
    form(CpuOnline, &["Failed to online cpu ", "rc: "], "error:"),
    form(CpuOffline, &["Unable to remove last online CPU "], "it is the last one"),
    form(CpuOffline, &["Could not find cpu to offline with physical id "], "there is no such CPU:"),
    form(
        CpuOnline,
        &["Cannot add cpu ", "this system configuration"],
        "the configuration allows no more CPUs",
    ),
    form(Device, &["Cannot find CPU (drc index "], "there is no such CPU"),
    form(Device, &["Failed to acquire DRC, rc: "], "the hypervisor does not give it:"),
    form(Device, &["Failed to release drc ("], "the hypervisor does not take it back"),
    form(Device, &["Could not handle DLPAR request "], "the request failed:"),
    // kernel/cpu.c; arch/x86/kernel/smpboot.c; arch/{arm64,riscv,loongarch,arm}/kernel/smp*.c;
    // arch/powerpc/kernel/smp.c
    form(CpuOnline, &["do_boot_cpu failed(", "to wakeup CPU#"], "it does not wake up"),
    form(CpuOnline, &["CPU", " failed to report alive state"], "it does not report that it is alive"),
    form(CpuOnline, &["CPU", ": failed to come online"], "it does not come online"),
    form(CpuOnline, &["CPU", ": failed to boot: "], "it does not boot, error:"),
    form(CpuOnline, &["CPU", ": failed to start"], "it does not start"),
    form(CpuOnline, &["CPU", ": failed in unknown state"], "it is in an unknown state"),
    form(CpuOnline, &["CPU", ": is stuck in kernel"], "it is stuck in the kernel"),
    form(CpuOnline, &["CPU", ": died during early boot"], "it died during its boot"),
    form(CpuOnline, &["CPU", ": Not responding"], "it does not respond"),
    form(CpuOnline, &["Processor ", " is stuck."], "it is stuck"),
    form(CpuOnline, &["failed starting cpu ", "(rc "], "error:"),
    form(CpuOnline, &["Error taking CPU", " up: "], "error:"),
    form(CpuOnline, &["can't online cpu ", "may-hotadd at boot time"], "it was not there at boot"),
    form(CpuOffline, &["Error taking CPU", " down: "], "error:"),
    form(CpuOffline, &["Failed to offline CPU", "error="], "error:"),
    form(CpuOffline, &["CPU ", " didn't die"], "it does not stop"),
    form(CpuOffline, &["CPU", ": cpu didn't die"], "it does not stop"),
    form(CpuOffline, &["CPU", "may not have shut down cleanly"], "it may not have stopped"),
    form(CpuOffline, &["CPU ", " DOWN state ", "failed ("], "a callback refused, error:"),
    form(CpuOnline, &["CPU ", " UP state ", "failed ("], "a callback refused, error:"),
    // drivers/acpi/scan.c, ACPICA on the method that acknowledges
    form(Device, &["Offline disabled."], "its driver allows no offline"),
    form(Device, &["Offline failed."], "a part of it could not be taken offline"),
    form(Device, &["Eject disabled"], "ejection is disabled"),
    form(Device, &["Eject incomplete - status "], "the firmware did not eject it, status:"),
    form(Device, &["Still not present"], "the firmware does not show it"),
    form(Device, &["ACPI Error: ", "._OST"], "_OST failed"),
];

impl RefusalForm {
    /// Whether a text is of this form.
    pub(super) fn fits(&self, text: &str) -> bool {
        let Some(at) = text.find(self.words[0]) else { return false };
        // `acpi PNP0C80:00: `, `mm: `, `Block size [0x8000000] `.
        let before = &text[..at];
        let named = before.is_empty() || before.ends_with(": ") || before.starts_with("Block size [");
        named && before.len() < 60 && self.rest(text).is_some()
    }

    /// The text after the last substring.
    fn rest<'t>(&self, text: &'t str) -> Option<&'t str> {
        let mut after = text;
        for word in self.words {
            after = &after[after.find(word)? + word.len()..];
        }
        Some(after)
    }

    /// The reason, with the kernel's own words where they have it.
    pub(super) fn reason_of(&self, text: &str) -> String {
        let rest = self.rest(text).unwrap_or_default().trim_matches([' ', '.', '(', ')', '"']);
        let takes = self.reason.ends_with(':') && !rest.is_empty();
        if takes { format!("{} {rest}", self.reason) } else { self.reason.trim_end_matches(':').to_owned() }
    }

    /// The memory range or the CPU that the text names, or the device before the first substring.
    pub(super) fn object_of(&self, text: &str) -> Option<String> {
        if let Some(at) = text.find("[mem ") {
            let inside = &text[at + 1..];
            return Some(inside[..inside.find(']')?].to_owned());
        }
        if let Some(at) = text.find("CPU").filter(|_| matches!(self.what, CpuOnline | CpuOffline)) {
            let number = text[at + 3..].trim_start_matches([' ', '#']);
            let digits = number.bytes().take_while(u8::is_ascii_digit).count();
            return (digits > 0).then(|| format!("CPU {}", &number[..digits]));
        }
        let before = text[..text.find(self.words[0])?].trim_end_matches([':', ' ']);
        let device = before.rsplit(' ').next().filter(|name| name.contains(|c: char| c.is_ascii_digit()))?;
        (!before.starts_with("Block size")).then(|| device.to_owned())
    }
}

/// The flags of a dumped page: `flags: 0x17ffffc0000200(slab|node=0|zone=2)`, also after `anon ` and
/// the like.
pub(super) fn page_flags(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("flags: 0x")?;
    let (_, inside) = rest.split_once('(')?;
    let inside = &inside[..inside.find(')')?];
    let flags = inside.split('|').take_while(|flag| !flag.contains('='));
    Some(flags.collect::<Vec<_>>().join("|"))
}

/// `page_type: f5(slab)`, or a bare number.
pub(super) fn page_type(text: &str) -> Option<String> {
    let (_, inside) = text.strip_prefix("page_type: ")?.split_once('(')?;
    Some(inside[..inside.find(')')?].to_owned())
}

/// The task of `page last allocated via order 0, ..., pid 311, tgid 311 (cryptsetup), ts ...`.
pub(super) fn page_owner(text: &str) -> Option<String> {
    let rest = text.strip_prefix("page last allocated via order ")?;
    let (_, rest) = rest.split_once(" pid ")?;
    let pid = rest.split(',').next()?;
    let comm = rest.split_once('(').and_then(|(_, rest)| rest.split_once("), ts")).map(|(comm, _)| comm);
    pid.parse::<u32>().ok()?;
    Some(comm.map_or_else(|| format!("pid {pid}"), |comm| format!("pid {pid} {comm}")))
}
