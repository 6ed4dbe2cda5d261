//! Memory that is written by hand, and memory of random bytes.

use proptest::prelude::*;

use super::*;
use crate::layout::{Array, ClassMembers, EdgeMembers, Maps, Symbol, TraceMembers};

const BASE: u64 = 0xffff_ffff_8100_0000;

/// Classes of 48 bytes, entries of 40, two variables, one function, and some strings.
fn layout() -> Layout {
    let array = |offset: u64, bytes: u64, stride: u64| Array { address: BASE + offset, bytes, stride };
    let symbol = |name: &str, address: u64, bytes: u64| Symbol {
        name: name.into(),
        file: Some("a.c".into()),
        address: BASE + address,
        bytes,
    };
    Layout {
        maps: Maps::X86,
        byte_order: object::Endianness::Little,
        classes: array(0x1000, 48 * 16, 48),
        entries: array(0x2000, 40 * 32, 40),
        traces: array(0x3000, 8 * 64, 8),
        classes_in_use: array(0x4000, 8, 8),
        entries_in_use: array(0x4100, 8, 8),
        traces_used: BASE + 0x4200,
        page_offset_base: None,
        banner: array(0x5000, 6, 1),
        class: ClassMembers { locks_after: 0, key: 16, subclass: 24, usage_mask: 32, name: 40 },
        edge: EdgeMembers { class: 16, trace: 24, distance: 32, dep: 34 },
        trace: TraceMembers { nr_entries: 4, entries: 8 },
        data: vec![symbol("first", 0x6000, 16), symbol("second", 0x6010, 16)],
        text: vec![symbol("taker", 0x100, 64)],
        image: vec![(BASE + 0x5000..BASE + 0x5020, b"Linux\0first\0second\0\x1b[31m\0\0\0\0\0\0".to_vec())],
    }
}

fn put(into: &mut [u8], at: usize, word: u64) {
    into[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

/// `second` was taken under `first`, by `taker`.
fn dump() -> Dump {
    let mut classes = vec![0; 48 * 2];
    let (head, entry) = (BASE + 0x1000, BASE + 0x2000);
    put(&mut classes, 0, entry);
    put(&mut classes, 16, BASE + 0x6000);
    put(&mut classes, 32, 1 << 2);
    put(&mut classes, 40, BASE + 0x5006);
    put(&mut classes, 48, head + 48);
    // Subclass 1: its key is one byte higher.
    put(&mut classes, 48 + 16, BASE + 0x6011);
    put(&mut classes, 48 + 24, 1);
    put(&mut classes, 48 + 40, BASE + 0x500c);
    let mut entries = vec![0; 40];
    put(&mut entries, 0, head);
    put(&mut entries, 16, head + 48);
    put(&mut entries, 24, BASE + 0x3000);
    put(&mut entries, 32, 1 | 8 << 16);
    let mut traces = vec![0; 8 * 3];
    put(&mut traces, 0, 2 << 32);
    put(&mut traces, 8, BASE + 0x110);
    put(&mut traces, 16, 0x1234);
    Dump { classes_in_use: vec![3, 0], classes, entries, traces, names: HashMap::new() }
}

#[test]
fn a_dependency_is_read_with_its_names_and_its_call_path() {
    let order = dump().decode(&layout()).unwrap();
    let names: Vec<String> = order.classes.iter().map(|node| node.class.to_string()).collect();
    assert_eq!(names, ["first", "second/1"]);
    assert_eq!(order.classes[1].class.key.as_deref(), Some("second"));
    assert_eq!(order.classes[0].usage, Usage(4));
    assert_eq!(order.edges.len(), 1);
    let edge = order.edges[0];
    assert_eq!((edge.from, edge.to, edge.how, edge.distance), (0, 1, How::EN, 1));
    assert_eq!(order.path(&edge), ["taker+0x10/0x40", "0x1234"]);
    assert!(order.is_sound());
}

#[test]
fn a_class_that_is_not_in_use_is_left_out() {
    let mut dump = dump();
    dump.classes_in_use = vec![1];
    let order = dump.decode(&layout()).unwrap();
    assert_eq!((order.classes.len(), order.edges.len()), (1, 0));
}

#[test]
fn a_list_that_never_ends_is_odd() {
    let mut dump = dump();
    put(&mut dump.entries, 0, BASE + 0x2000);
    assert!(dump.decode(&layout()).unwrap_err().0.contains("first is broken"));
}

#[test]
fn a_name_cannot_steer_a_terminal() {
    let mut dump = dump();
    put(&mut dump.classes, 40, BASE + 0x5013);
    assert_eq!(dump.decode(&layout()).unwrap().classes[0].class.name, "?[31m");
    dump.names.insert(1, b"\xff\n".to_vec());
    put(&mut dump.classes, 40, 1);
    assert_eq!(dump.decode(&layout()).unwrap().classes[0].class.name, "??");
}

#[test]
fn classes_that_agree_in_all_else_are_numbered_by_their_keys() {
    let mut dump = dump();
    // Both have the second's name, no known variable, and keys in the other order.
    for (class, key) in [(0, 0x9000), (48, 0x8000)] {
        put(&mut dump.classes, class + 16, key);
        put(&mut dump.classes, class + 24, 0);
        put(&mut dump.classes, class + 40, BASE + 0x500c);
    }
    let order = dump.decode(&layout()).unwrap();
    let names: Vec<String> = order.classes.iter().map(|node| node.class.to_string()).collect();
    assert_eq!(names, ["second#2", "second"]);
}

#[tokio::test]
async fn another_kernels_memory_is_odd() {
    let memory = async |_: u64, bytes: u64| Ok::<_, MalformedDump>(vec![0; usize::try_from(bytes).unwrap()]);
    let odd = read(&layout(), memory).await.unwrap_err();
    assert!(odd.0.contains("does not hold the kernel"), "{odd}");
    let short = async |_: u64, _: u64| Ok::<_, MalformedDump>(vec![1]);
    assert!(read(&layout(), short).await.is_err());
}

#[test]
fn the_highest_bit_says_how_much_is_used() {
    assert_eq!(highest(&[0, 0]), 0);
    assert_eq!(highest(&[1, 0]), 1);
    assert_eq!(highest(&[0xff, 0x80, 0]), 16);
}

proptest! {
    /// For any bytes in a guest's memory, reading them ends, and the result is sound.
    #[test]
    fn any_bytes_are_read_or_odd(
        in_use in any::<[u8; 2]>(),
        mut classes in prop::collection::vec(any::<u8>(), 48 * 16),
        mut entries in prop::collection::vec(any::<u8>(), 40 * 32),
        traces in prop::collection::vec(any::<u8>(), 8 * 64),
        links in prop::collection::vec((0_usize..16, 0_usize..32, 0_usize..32), 0..60),
    ) {
        // Random bytes never make a list, so some words are set to addresses of entries.
        for (class, from, to) in links {
            put(&mut classes, class * 48, BASE + 0x2000 + from as u64 * 40);
            put(&mut entries, from * 40, BASE + 0x2000 + to as u64 * 40);
            put(&mut entries, from * 40 + 16, BASE + 0x1000 + (to % 16) as u64 * 48);
            put(&mut entries, to * 40, BASE + 0x1000 + class as u64 * 48);
            put(&mut entries, to * 40 + 24, BASE + 0x3000 + from as u64 * 8);
        }
        let dump = Dump { classes_in_use: in_use.to_vec(), classes, entries, traces, names: HashMap::new() };
        if let Ok(order) = dump.decode(&layout()) {
            prop_assert!(order.is_sound());
            prop_assert!(order.beyond(&order).edges.is_empty());
        }
    }
}
