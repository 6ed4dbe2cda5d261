//! Atlases in a cache of their own.

use hotplug_lockorder::{Edge, How, LockClass, Node, Usage};

use super::*;

fn order(edges: &[(&str, &str)]) -> LockOrder {
    let mut order = LockOrder::default();
    let mut place = |name: &str| {
        let class = LockClass { name: name.into(), key: None, file: None, subclass: 0, ordinal: 0 };
        order.classes.push(Node { class, usage: Usage(0) });
        u32::try_from(order.classes.len()).unwrap() - 1
    };
    let edges: Vec<(u32, u32)> = edges.iter().map(|(from, to)| (place(from), place(to))).collect();
    order.edges = edges
        .into_iter()
        .map(|(from, to)| Edge { from, to, how: How::EN, distance: 1, path: None })
        .collect();
    order
}

fn kernel(hash: &str) -> KernelNote {
    KernelNote { image_hash: hash.into(), release: "6.1.0".into(), ..KernelNote::default() }
}

fn cache() -> (tempfile::TempDir, Cache) {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path().join("cache")).unwrap();
    (folder, cache)
}

fn add(cache: &Cache, hash: &str, name: &str, edges: &[(&str, &str)]) {
    let mut open = Open::new(cache, &kernel(hash)).unwrap();
    open.add(name.into(), &order(edges), || Ok(Work::default())).unwrap();
    open.close().unwrap();
}

fn names(atlas: &Atlas) -> Vec<&str> {
    atlas.guests.iter().map(|guest| guest.name.as_str()).collect()
}

#[test]
fn a_guest_is_kept_if_it_adds_something() {
    let (_folder, cache) = cache();
    assert_eq!(Atlas::load(&cache, "aa").unwrap(), Ok(None));
    add(&cache, "aa", "one/before-000", &[("a", "b"), ("b", "c")]);
    add(&cache, "aa", "one/before-001", &[("b", "c")]);
    add(&cache, "aa", "two/before-000", &[("b", "c"), ("c", "d")]);
    let atlas = Atlas::load(&cache, "aa").unwrap().unwrap().unwrap();
    assert_eq!(names(&atlas), ["one/before-000", "two/before-000"]);
    assert_eq!((atlas.guests[1].order.edges.len(), atlas.edges()), (1, 3));
    assert_eq!(atlas.guests_beside("one").count(), 1);
    assert_eq!(atlas.guest("atlas/two/before-000"), Some(&atlas.guests[1]));
    assert_eq!(atlas.guest("trials/two/before-000"), None);
    assert_eq!(Atlas::named(&cache, "a").unwrap(), atlas);
}

#[test]
fn an_atlas_of_another_machine_is_merged() {
    let (_folder, here) = cache();
    let (_other, there) = cache();
    add(&here, "aa", "one/before-000", &[("a", "b")]);
    add(&there, "aa", "two/before-000", &[("a", "b")]);
    add(&there, "aa", "two/before-001", &[("b", "a")]);
    let other = Atlas::load(&there, "aa").unwrap().unwrap().unwrap();
    merge(&here, &other).unwrap();
    let merged = Atlas::load(&here, "aa").unwrap().unwrap().unwrap();
    assert_eq!(names(&merged), ["one/before-000", "two/before-001"]);
}

#[test]
fn an_atlas_that_cannot_be_used_is_told_and_begun_anew() {
    let (_folder, cache) = cache();
    add(&cache, "aa", "one/before-000", &[("a", "b")]);
    let path = folder(&cache, "aa").join(FILE);
    let whole = fs_err::read_to_string(&path).unwrap();
    let why = |text: &str| {
        fs_err::write(&path, text).unwrap();
        let why = Atlas::load(&cache, "aa").unwrap().unwrap_err();
        why.rsplit_once("atlas.json ").unwrap().1.to_owned()
    };
    assert_eq!(why(&whole[..whole.len() / 2]), "is no whole atlas");
    assert_eq!(why(&whole.replace("\"format\":1", "\"format\":2")), "is of another version of hotplug");
    assert_eq!(why(&whole.replace("\"to\":1", "\"to\":9")), "is damaged");
    fs_err::create_dir(folder(&cache, "bb")).unwrap();
    fs_err::write(folder(&cache, "bb").join(FILE), &whole).unwrap();
    let other = Atlas::load(&cache, "bb").unwrap().unwrap_err();
    assert!(other.ends_with("is of another kernel"), "{other}");
    add(&cache, "aa", "two/before-000", &[("a", "b")]);
    assert_eq!(names(&Atlas::load(&cache, "aa").unwrap().unwrap().unwrap()), ["two/before-000"]);
    // The hash of a run's record is no path.
    assert!(Open::new(&cache, &kernel("../aa")).is_err());
}

#[test]
fn a_full_atlas_keeps_what_shows_most() {
    let (_folder, cache) = cache();
    let mut open = Open::new(&cache, &kernel("aa")).unwrap();
    let mut add = |name: &str, scenario: &str, edges: &[(&str, &str)]| {
        let work = Work { scenario: scenario.to_owned(), trials: Vec::new() };
        open.add(name.to_owned(), &order(edges), || Ok(work)).unwrap();
        let names = names(&open.atlas);
        (names.len(), names[0].to_owned(), names.last().copied().unwrap().to_owned(), open.atlas.left_out)
    };
    add("boot", "", &[("boot", "a")]);
    for guest in 1..MOST {
        add(&format!("soup/{guest}"), "soup", &[(&guest.to_string(), "a")]);
    }
    let told = |last: &str, left_out| (MOST, "boot".to_owned(), last.to_owned(), left_out);
    // One more chance dependency is left out. What shows more, or is of another scenario, is not.
    let last = format!("soup/{}", MOST - 1);
    assert_eq!(add("soup/more", "soup", &[("more", "a")]), told(&last, 1));
    assert_eq!(add("soup/two", "soup", &[("b", "c"), ("c", "d")]), told("soup/two", 2));
    assert_eq!(add("suspend/1", "suspend", &[("e", "f")]), told("suspend/1", 3));
    assert_eq!(add("suspend/2", "suspend", &[("f", "g")]), told("suspend/1", 4));
    // What only the dropped guests showed is new again.
    assert_eq!(add("soup/again", "soup", &[("1", "a"), ("2", "a")]), told("soup/again", 5));
    open.close().unwrap();
    let atlas = Atlas::load(&cache, "aa").unwrap().unwrap().unwrap();
    assert_eq!((atlas.guests.len(), atlas.left_out), (MOST, 5));
    assert_eq!(names(&atlas)[..2], ["boot", "soup/4"]);
    assert_eq!(atlas.guests.last().unwrap().order.edges.len(), 2);
}
