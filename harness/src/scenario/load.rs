//! The `load` tables of a scenario, and their checks beyond the syntax.

use hotplug_protocol::{Load, LoadKind};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::timing::Victim;
use super::{Expect, program};
use crate::bytes::Bytes;

/// One table as the file has it: its size has a unit.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadTable {
    kind: LoadKind,
    /// A key of a victim.
    name: Option<String>,
    workers: Option<u32>,
    rate: Option<u32>,
    #[serde(default)]
    cpus: Vec<u32>,
    path: Option<String>,
    #[serde(default)]
    data: Vec<String>,
    bytes: Option<Bytes>,
    program: Option<String>,
    expect: Option<Expect>,
}

/// The most that is typed at once. A terminal's own buffer takes 64 KiB
/// (`drivers/tty/tty_buffer.c`).
const MOST_TYPED: Bytes = Bytes(Bytes::MIB);

/// Reads how much is typed at once.
pub(super) fn typing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    let bytes = Bytes::deserialize(deserializer)?;
    if bytes.0 == 0 || bytes > MOST_TYPED {
        return Err(D::Error::custom(format!(
            "`{bytes}` cannot be typed at once: give 1 byte to {MOST_TYPED}"
        )));
    }
    Ok(Some(bytes))
}

/// Reads loads that can be started. The parser points at a faulty one, as at an error of syntax.
pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Load>, D::Error> {
    let tables = Vec::<LoadTable>::deserialize(deserializer)?;
    let check = |table: LoadTable| match (&table.name, table.workers) {
        (Some(_), _) => Err("only a victim has a name"),
        (None, None) => Err("a load needs the number of its `workers`"),
        (None, Some(_)) => table.check(),
    };
    tables.into_iter().map(|table| check(table).map_err(D::Error::custom)).collect()
}

/// Reads victims: loads of one worker each, whose loops are timed.
pub(super) fn victims<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Victim>, D::Error> {
    let tables = Vec::<LoadTable>::deserialize(deserializer)?;
    let check = |mut table: LoadTable| {
        if table.workers.is_some_and(|workers| workers != 1) {
            return Err("a victim has one worker");
        }
        let name = table.name.take();
        if name
            .as_ref()
            .is_some_and(|name| name.is_empty() || name.chars().any(|c| c == ':' || c.is_control()))
        {
            return Err("a victim's name is not empty, and has no colon or control character");
        }
        let load = table.check()?;
        // The kind as the file has it.
        let kind = serde_json::to_value(load.kind).ok();
        let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default();
        Ok(Victim { name: name.unwrap_or_else(|| kind.to_owned()), load: Load { timed: true, ..load } })
    };
    tables.into_iter().map(|table| check(table).map_err(D::Error::custom)).collect()
}

impl LoadTable {
    fn check(self) -> Result<Load, &'static str> {
        let Self { kind, name: _, workers, rate, cpus, path, data, bytes, program, expect } = self;
        let (program, must_succeed) = program::of_load(kind, program, expect)?;
        let workers = workers.unwrap_or(1);
        let has_path = matches!(kind, LoadKind::Read | LoadKind::Write | LoadKind::BlockIo);
        if workers == 0 {
            return Err("a load has at least one worker");
        }
        if rate == Some(0) {
            return Err("a load's rate is at least 1 loop a second; leave it out for as many as possible");
        }
        match &path {
            None if has_path => return Err("a load that reads or writes needs a path"),
            Some(_) if !has_path => return Err("only a load that reads or writes has a path"),
            Some(path) if !path.starts_with('/') => return Err("a load's path is absolute"),
            _ => {}
        }
        if (kind == LoadKind::Write) == data.is_empty() {
            return Err("a load that writes needs data, and no other load has data");
        }
        match bytes {
            Some(_) if !is_memory(kind) => {
                return Err("only a load of memory has bytes");
            }
            Some(Bytes(0)) => return Err("a load of memory has at least 1 byte"),
            _ => {}
        }
        Ok(Load {
            kind,
            workers,
            rate,
            cpus,
            path,
            data,
            bytes: bytes.map(|Bytes(bytes)| bytes),
            program,
            must_succeed,
            timed: false,
        })
    }
}

fn is_memory(kind: LoadKind) -> bool {
    use LoadKind::{AnonymousMemory, HugeMemory, HugetlbMemory, MergedMemory, ResidentMemory, SwappedMemory};
    matches!(
        kind,
        AnonymousMemory | ResidentMemory | MergedMemory | SwappedMemory | HugeMemory | HugetlbMemory
    )
}

/// The options of the kernel without which a load cannot run, by name without `CONFIG_`.
pub(super) fn options(kind: LoadKind) -> &'static [&'static str] {
    match kind {
        LoadKind::AnonymousMemory
        | LoadKind::PageCache
        | LoadKind::Fork
        | LoadKind::Read
        | LoadKind::Write
        | LoadKind::Mmap
        | LoadKind::ResidentMemory
        | LoadKind::Files
        | LoadKind::Timers
        | LoadKind::Program
        | LoadKind::Deadline => &[],
        LoadKind::KmemCache => &["9P_FS"],
        LoadKind::Cgroup => &["CGROUPS"],
        LoadKind::MergedMemory => &["KSM"],
        LoadKind::SwappedMemory => &["SWAP", "ZRAM"],
        LoadKind::HugeMemory => &["TRANSPARENT_HUGEPAGE"],
        LoadKind::HugetlbMemory => &["HUGETLBFS"],
        LoadKind::Throttled => &["CFS_BANDWIDTH"],
        LoadKind::Partition => &["CPUSETS"],
        LoadKind::PerfEvents => &["PERF_EVENTS"],
        LoadKind::VirtualMachine => &["KVM"],
        LoadKind::BlockIo => &["BLOCK"],
        LoadKind::IoUring => &["IO_URING"],
    }
}

#[cfg(test)]
mod tests {
    use hotplug_protocol::{Load, LoadKind};

    use crate::scenario::Guest;

    fn loads(table: &str) -> Result<Vec<Load>, String> {
        let guest: Result<Guest, _> = toml::from_str(&format!("load = [{{ {table} }}]"));
        guest.map(|guest| guest.load).map_err(|error| error.to_string())
    }

    #[test]
    fn a_load_says_how_fast_where_and_on_what() {
        let write =
            r#"kind = "write", workers = 2, rate = 50, cpus = [0, 1], path = "/sys/a*/b", data = ["0", "1"]"#;
        let [load] = loads(write).unwrap().try_into().unwrap();
        assert_eq!((load.kind, load.rate, load.cpus), (LoadKind::Write, Some(50), vec![0, 1]));
        assert_eq!((load.path.as_deref(), load.data), (Some("/sys/a*/b"), vec!["0".into(), "1".into()]));
        let [load] =
            loads(r#"kind = "resident-memory", workers = 1, bytes = "64M""#).unwrap().try_into().unwrap();
        assert_eq!(load.bytes, Some(64 << 20));
    }

    #[test]
    fn what_no_worker_could_do_is_refused() {
        for (table, fault) in [
            (r#"kind = "fork", workers = 0"#, "at least one worker"),
            (r#"kind = "fork", workers = 1, rate = 0"#, "at least 1 loop"),
            (r#"kind = "fork", workers = 1, path = "/proc""#, "only a load that reads or writes"),
            (r#"kind = "fork", workers = 1, bytes = "1M""#, "only a load of memory"),
            (r#"kind = "fork", workers = 1, data = ["1"]"#, "needs data, and no other"),
            (r#"kind = "read", workers = 1"#, "needs a path"),
            (r#"kind = "read", workers = 1, path = "sys""#, "is absolute"),
            (r#"kind = "write", workers = 1, path = "/sys""#, "needs data"),
            (r#"kind = "resident-memory", workers = 1, bytes = "0""#, "at least 1 byte"),
            (r#"kind = "fork""#, "number of its `workers`"),
            (r#"kind = "program", workers = 1"#, "names its `program`"),
            (r#"kind = "program", workers = 1, program = "a", expect = "refused""#, "`done` or `any`"),
            (r#"kind = "fork", workers = 1, program = "a""#, "only a load of kind `program`"),
            (r#"kind = "fork", workers = 1, expect = "done""#, "only a load of kind `program`"),
            (r#"kind = "fork", workers = 1, name = "a""#, "only a victim"),
            (r#"kind = "resident-memory", workers = 1, bytes = 64"#, "expected a string"),
            (r#"kind = "fork", workers = 1, nice = 1"#, "unknown field"),
        ] {
            let error = loads(table).unwrap_err();
            assert!(error.contains(fault), "{error}");
            assert!(error.contains("line 1"), "{error}");
        }
    }
}
