use std::time::Duration;

use super::*;
use crate::bytes::Bytes;
use crate::kernel::{Prune, list, prune, sizes};

fn record(id: &KernelId) -> Record {
    Record {
        arch: crate::arch::Architecture::X86,
        id: id.clone(),
        release: "6.1.192".into(),
        source: "linux-source-6.1".into(),
        content: "tar-0".into(),
        patches: vec![PatchRecord { file: "a.patch".into(), subject: Some("mm: a".into()) }],
        compiler: "gcc 12".into(),
        linker: "ld 2.40".into(),
        left_out: Vec::new(),
        basis: None,
        lacks: Vec::new(),
        built_at: jiff::Timestamp::UNIX_EPOCH,
        seconds: 171.2,
        incremental: false,
        compiled: 1184,
        image_hash: "00".into(),
    }
}

fn installed(cache: &Cache, name: &str) -> KernelId {
    let id = KernelId::new(blake3::hash(name.as_bytes()));
    let new = cache.root().join("new");
    fs_err::create_dir_all(&new).unwrap();
    for file in ["bzImage", "vmlinux", "System.map", "config"] {
        fs_err::write(new.join(file), name).unwrap();
    }
    install(cache, &new, &record(&id)).unwrap();
    id
}

#[test]
fn installs_once_loads_and_lists() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let id = installed(&cache, "one");
    assert_eq!(installed(&cache, "one"), id, "a second time is no error");
    let kernel = load(&cache, &id, Built::Cached).unwrap().unwrap();
    assert_eq!((kernel.release.as_str(), kernel.built), ("6.1.192", Built::Cached));
    let listing = list(&cache).unwrap();
    assert_eq!(listing.kernels.len(), 1);
    assert_eq!(listing.kernels[0].record, record(&id));
}

#[test]
fn a_damaged_kernel_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let id = installed(&cache, "one");
    fs_err::write(cache.kernel(&id).join(RECORD), "{").unwrap();
    assert!(load(&cache, &id, Built::Cached).unwrap().is_none());
    assert!(!cache.kernel(&id).exists());
}

#[test]
fn prunes_by_age_and_never_one_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let (one, two) = (installed(&cache, "one"), installed(&cache, "two"));
    let held = load(&cache, &one, Built::Cached).unwrap();
    let hour = Prune::Unused(Duration::from_secs(3600));
    assert!(prune(folder.path(), hour).unwrap().removed.is_empty());
    let pruned = prune(folder.path(), Prune::All).unwrap();
    assert_eq!((pruned.removed, pruned.in_use), (vec![cache.kernel(&two)], vec![cache.kernel(&one)]));
    drop(held);
    assert_eq!(prune(folder.path(), Prune::All).unwrap().removed.len(), 1);
}

#[test]
fn prunes_to_a_size_what_was_not_used_for_longest() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let (one, two) = (installed(&cache, "one"), installed(&cache, "two"));
    let long_ago = SystemTime::now() - Duration::from_secs(100_000);
    let file = std::fs::File::options().write(true).open(cache.kernel(&two).join(RECORD)).unwrap();
    file.set_modified(long_ago).unwrap();
    let whole: u64 = sizes(folder.path()).iter().map(|(_, bytes)| bytes).sum();
    assert!(prune(folder.path(), Prune::To(Bytes(whole + 1000))).unwrap().removed.is_empty());
    let pruned = prune(folder.path(), Prune::To(Bytes(whole - 1))).unwrap();
    assert_eq!(pruned.removed, [cache.kernel(&two)]);
    assert!(cache.kernel(&one).exists());
}

#[test]
fn prune_all_works_on_a_cache_of_another_version() {
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("format"), "old\n").unwrap();
    fs_err::create_dir_all(folder.path().join("trees/t")).unwrap();
    let age = Prune::Unused(Duration::ZERO);
    assert_eq!(prune(folder.path(), age).unwrap_err().exit_status(), 2);
    prune(folder.path(), Prune::All).unwrap();
    Cache::open(folder.path()).unwrap();
}

#[test]
fn says_how_long_it_took() {
    let now = |seconds| Built::Now { seconds, incremental: false }.to_string();
    assert_eq!(now(8.2), "built in 8 s");
    assert_eq!(now(171.4), "built in 2 m 51 s");
    assert_eq!(now(59.7), "built in 1 m 00 s");
}

#[test]
fn options_that_a_kernel_lacks_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    fs_err::write(&file, "CONFIG_KSM=y\n# CONFIG_ZRAM is not set\nCONFIG_9P_FS=m\nCONFIG_PERF_EVENTS=m\n")
        .unwrap();
    let mut kernel = Kernel::with_config(&file);
    let needed = BTreeSet::from(["9P_FS", "KSM", "PERF_EVENTS", "SWAP", "ZRAM"]);
    assert_eq!(kernel.missing_options(&needed).unwrap(), ["9P_FS", "PERF_EVENTS", "SWAP", "ZRAM"]);
    // A packaged kernel has modules, of which the guest loads some.
    kernel.modules = Some(folder.path().join("modules.cpio"));
    assert_eq!(kernel.missing_options(&needed).unwrap(), ["PERF_EVENTS", "SWAP", "ZRAM"]);
}
