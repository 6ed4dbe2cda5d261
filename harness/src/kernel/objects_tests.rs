use std::os::unix::net::UnixListener;

use proptest::prelude::*;

use super::*;
use crate::kernel::apply::{Change, Contents, Overlay};
use crate::kernel::cache::Cache;

/// Two objects that include one header. If the header is deleted, make compiles both, as kbuild
/// does. An object contains the text from which it was compiled, and make prints the name of each
/// object that it compiles. The pause is longer than a tick of the file system's clock, as the run
/// time of every compiler is.
const MAKEFILE: &str = "\
vmlinux: a.o b.o
	@cat $^ > $@
%.o: $(S)/%.c $(S)/h.h
	@! grep -q nonsense $(wildcard $^)
	@sleep 0.02; cat $(wildcard $^) > $@; echo $*
$(S)/h.h: ;
";

const CONFIG: &str = "0123456789abcdef";

/// A tree with that source and without objects.
struct Place {
    tree: Tree,
    folder: tempfile::TempDir,
}

/// The effects of one make.
#[derive(Debug, PartialEq, Eq)]
struct Built {
    compiled: Vec<String>,
    copied: bool,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Self { tree: Self::acquire(&folder).await, folder };
        fs_err::create_dir_all(place.tree.source()).unwrap();
        for (name, text) in [("Makefile", MAKEFILE), ("a.c", "a\n"), ("b.c", "b\n"), ("h.h", "h\n")] {
            fs_err::write(place.tree.source().join(name), text).unwrap();
        }
        place
    }

    async fn acquire(folder: &tempfile::TempDir) -> Tree {
        let cache = Cache::open(folder.path()).unwrap();
        Tree::acquire(&cache, "t", |_| (), &CancellationToken::new()).await.unwrap()
    }

    /// Drops and reacquires the tree, as the next run would.
    async fn again(self) -> Self {
        let Self { tree, folder } = self;
        drop(tree);
        Self { tree: Self::acquire(&folder).await, folder }
    }

    /// Prepares a folder for the source with these files changed. The changes stay in place.
    async fn readied(&self, files: &[(&str, Option<&str>)]) -> Result<(Objects, bool)> {
        let change = |(path, text): &(&str, Option<&str>)| Change {
            path: (*path).to_owned(),
            now: text.map(|text| Contents { bytes: text.into(), executable: false }),
        };
        self.tree.apply(&Overlay { changes: files.iter().map(change).collect() }).unwrap();
        let mut copied = false;
        let objects = ready(&self.tree, CONFIG, || copied = true, &CancellationToken::new()).await?;
        Ok((objects, copied))
    }

    fn make(&self, objects: &Objects) -> std::process::Output {
        let mut command = std::process::Command::new("make");
        command.env_remove("MAKEFLAGS").arg("-sC").arg(&objects.folder).arg("-f");
        command.arg(self.tree.source().join("Makefile"));
        command.arg(format!("S={}", self.tree.source().display())).output().unwrap()
    }

    /// Builds the source with these files changed, checks that the result matches the source, and
    /// reverts the changes.
    async fn build(&self, files: &[(&str, Option<&str>)]) -> Built {
        let (objects, copied) = self.readied(files).await.unwrap();
        let made = self.make(&objects);
        assert!(made.status.success(), "{made:?}");
        let text = |name: &str| fs_err::read_to_string(self.tree.source().join(name)).unwrap_or_default();
        let header = text("h.h");
        let wanted = format!("{}{header}{}{header}", text("a.c"), text("b.c"));
        assert_eq!(fs_err::read_to_string(objects.folder.join("vmlinux")).unwrap(), wanted, "{files:?}");
        self.tree.undo().unwrap();
        let compiled = String::from_utf8(made.stdout).unwrap();
        Built { compiled: compiled.lines().map(str::to_owned).collect(), copied }
    }

    fn folders(&self) -> Vec<String> {
        let name = |folder: PathBuf| folder.file_name().unwrap().to_string_lossy().into_owned();
        let mut names: Vec<String> = folders(self.tree.dir()).unwrap().into_iter().map(name).collect();
        names.sort();
        names
    }

    fn folder(&self) -> PathBuf {
        self.tree.dir().join(ALL).join(CONFIG)
    }
}

const HEADER: &[(&str, Option<&str>)] = &[("h.h", Some("new h\n"))];
const C_FILE: &[(&str, Option<&str>)] = &[("a.c", Some("new a\n"))];

fn compiled(names: &[&str]) -> Built {
    Built { compiled: names.iter().map(|&name| name.to_owned()).collect(), copied: false }
}

#[tokio::test]
async fn a_header_that_changes_back_and_forth_is_compiled_once_a_side() {
    let place = Place::new().await;
    assert_eq!(place.build(&[]).await, compiled(&["a", "b"]));
    assert_eq!(place.build(HEADER).await, Built { copied: true, ..compiled(&["a", "b"]) });
    for _ in 0..2 {
        assert_eq!(place.build(&[]).await, compiled(&[]));
        assert_eq!(place.build(HEADER).await, compiled(&[]));
    }
    // Variants of a side build on that side's objects.
    assert_eq!(place.build(C_FILE).await, compiled(&["a"]));
    assert_eq!(place.build(&[("h.h", Some("new h\n")), ("b.c", Some("new b\n"))]).await, compiled(&["b"]));
    assert_eq!(place.build(&[]).await, compiled(&["a"]));
    assert_eq!(place.build(HEADER).await, compiled(&["b"]));
    let place = place.again().await;
    assert_eq!(place.build(HEADER).await, compiled(&[]));
    assert_eq!(place.build(&[]).await, compiled(&[]));
}

#[tokio::test]
async fn a_c_file_that_changes_back_and_forth_compiles_itself_in_the_one_folder() {
    let place = Place::new().await;
    place.build(&[]).await;
    for _ in 0..2 {
        assert_eq!(place.build(C_FILE).await, compiled(&["a"]));
        assert_eq!(place.build(C_FILE).await, compiled(&[]));
        assert_eq!(place.build(&[]).await, compiled(&["a"]));
    }
    assert_eq!(place.folders(), [CONFIG]);
}

#[tokio::test]
async fn a_run_that_ends_between_the_record_and_make_misleads_nobody() {
    let place = Place::new().await;
    place.build(&[]).await;
    let first = place.readied(C_FILE).await.unwrap();
    assert_eq!(first.0.folder, place.folder());
    let place = place.again().await;
    assert_eq!(place.build(&[]).await, compiled(&["a"]), "what a.o was made from is not known any more");
    place.readied(C_FILE).await.unwrap();
    let place = place.again().await;
    assert_eq!(place.build(C_FILE).await, compiled(&["a"]));
    // The copy exists, and nothing was compiled in it.
    assert!(place.readied(HEADER).await.unwrap().1);
    let place = place.again().await;
    assert_eq!(place.build(HEADER).await, compiled(&["a", "b"]));
    assert_eq!(place.build(C_FILE).await, compiled(&[]));
}

#[tokio::test]
async fn a_make_that_failed_half_way_goes_on_from_what_it_left() {
    let place = Place::new().await;
    place.build(&[]).await;
    let (objects, _) = place.readied(&[("a.c", Some("new a\n")), ("b.c", Some("nonsense"))]).await.unwrap();
    assert!(!place.make(&objects).status.success());
    place.tree.undo().unwrap();
    assert_eq!(place.build(C_FILE).await, compiled(&["b"]), "a was compiled before b failed");
    assert_eq!(place.build(&[]).await, compiled(&["a"]));
}

#[tokio::test]
async fn a_folder_without_a_record_compiles_all_that_varies() {
    let place = Place::new().await;
    place.build(&[]).await;
    place.build(C_FILE).await;
    fs_err::remove_file(place.folder().join(SEEN)).unwrap();
    assert_eq!(place.build(C_FILE).await, compiled(&["a"]));
    assert_eq!(place.build(C_FILE).await, compiled(&[]));
    // A version of hotplug without records built here and left the object of the patched file.
    fs_err::write(place.folder().join(COMPILED_UNRECORDED), "7").unwrap();
    fs_err::write(place.folder().join("a.o"), "another a\n").unwrap();
    let (objects, _) = place.readied(&[]).await.unwrap();
    assert_eq!((objects.compiled, objects.is_whole), (7, true));
    place.tree.undo().unwrap();
    fs_err::write(place.folder().join(COMPILED_UNRECORDED), "7").unwrap();
    assert_eq!(place.build(C_FILE).await, compiled(&["a"]));
    assert!(!place.folder().join(COMPILED_UNRECORDED).exists());
}

#[tokio::test]
async fn a_copy_that_fails_leaves_nothing_and_the_next_call_goes_on() {
    let place = Place::new().await;
    place.build(&[]).await;
    // A socket cannot be copied.
    let socket = place.folder().join("z");
    let listener = UnixListener::bind(&socket).unwrap();
    place.readied(HEADER).await.unwrap_err();
    place.tree.undo().unwrap();
    assert_eq!(place.folders(), [CONFIG]);
    assert!(!place.tree.dir().join("work/objects").exists());
    assert_eq!(place.build(&[]).await, compiled(&[]));
    drop(listener);
    fs_err::remove_file(socket).unwrap();
    assert_eq!(place.build(HEADER).await, Built { copied: true, ..compiled(&["a", "b"]) });
}

#[tokio::test]
async fn a_kill_between_two_renames_loses_no_objects() {
    let place = Place::new().await;
    place.build(&[]).await;
    place.build(HEADER).await;
    let aside = place.folder().with_file_name(format!("{CONFIG}-2"));
    fs_err::rename(place.folder(), aside).unwrap();
    let place = place.again().await;
    assert_eq!(place.build(HEADER).await, compiled(&[]));
    assert_eq!(place.build(&[]).await, compiled(&[]));
}

#[tokio::test]
async fn objects_of_a_killed_make_are_dropped_wherever_they_are() {
    let place = Place::new().await;
    place.build(&[]).await;
    place.build(HEADER).await;
    making(&place.folder()).unwrap();
    let place = place.again().await;
    assert_eq!(place.folders(), [format!("{CONFIG}-1")]);
    assert_eq!(place.build(&[]).await, compiled(&[]));
    making(&place.folder()).unwrap();
    made(&place.folder()).unwrap();
    let place = place.again().await;
    assert_eq!(place.folders(), [CONFIG]);
}

#[tokio::test]
async fn what_was_used_least_lately_goes() {
    let place = Place::new().await;
    let header = |text: &'static str| [("h.h", Some(text))];
    place.build(&[]).await;
    for text in ["1", "2", "3"] {
        assert!(place.build(&header(text)).await.copied);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(place.folders().len(), MOST);
    for text in ["2", "3"] {
        assert_eq!(place.build(&header(text)).await, compiled(&[]));
    }
    assert!(place.build(&[]).await.copied, "the first one went");
    // Another config has its own folders.
    let objects = ready(&place.tree, "other", || (), &CancellationToken::new()).await.unwrap();
    assert!(!objects.is_whole);
    assert_eq!(place.folders().len(), MOST + 1);
}

#[test]
fn what_is_linked_anew_is_not_copied() {
    for path in [
        "vmlinux",
        "vmlinux.o",
        ".tmp_vmlinux.kallsyms1",
        "arch/x86/boot/bzImage",
        "arch/x86/boot/compressed/vmlinux.bin.gz",
    ] {
        assert!(is_linked_anew(Path::new(path)), "{path}");
    }
    for path in
        ["vmlinux.a", "arch/x86/kernel/vmlinux.lds", "arch/x86/boot/header.o", "tools/objtool/objtool"]
    {
        assert!(!is_linked_anew(Path::new(path)), "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// In every sequence of builds, completed or interrupted, the result matches the source
    /// ([`Place::build`]).
    #[test]
    fn every_build_is_of_its_source(steps in prop::collection::vec((0..3_usize, 0..3_usize, 0..4_usize, 0..5_u8), 1..12)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let mut place = Place::new().await;
            for (a, b, h, end) in steps {
                let files = [
                    ("a.c", [None, Some("a1\n"), Some("a2\n")][a]),
                    ("b.c", [None, Some("b1\n"), Some("nonsense")][b]),
                    ("h.h", [None, Some("h1\n"), Some("h2\n"), Some("")][h]),
                ];
                // A header may be deleted. A C file without new text stays unchanged.
                let files: Vec<_> =
                    files.into_iter().filter(|(path, text)| text.is_some() || *path == "h.h" && a == 1).collect();
                if end < 3 && b != 2 {
                    place.build(&files).await;
                    continue;
                }
                let (objects, _) = place.readied(&files).await.unwrap();
                match end {
                    // The run dies before make (3), during make (4) or after make (all others).
                    3 => {}
                    4 => making(&objects.folder).unwrap(),
                    _ => drop(place.make(&objects)),
                }
                place = place.again().await;
            }
        });
    }
}
