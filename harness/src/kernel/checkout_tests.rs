use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use super::*;
use crate::kernel::source::locate;
use crate::kernel::{Cache, Source};

struct Place {
    _folder: tempfile::TempDir,
    cache: Cache,
    source: PathBuf,
}

/// A cache, and a source of text files. The tests check which files are copied, not that the source
/// builds.
fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("linux");
    fs_err::create_dir_all(source.join("mm")).unwrap();
    let files = [
        ("Makefile", "VERSION = 6\nPATCHLEVEL = 1\n"),
        ("Kconfig", "\n"),
        ("mm/a.c", "a\n"),
        ("mm/b.c", "b\n"),
    ];
    for (name, text) in files {
        fs_err::write(source.join(name), text).unwrap();
    }
    symlink("a.c", source.join("mm/link.c")).unwrap();
    Place { cache: Cache::open(folder.path().join("cache")).unwrap(), source, _folder: folder }
}

/// Text and modification time of each file in the copy.
type Copy = BTreeMap<String, (String, SystemTime)>;

async fn synced(place: &Place, source: &Source) -> Result<(String, Copy)> {
    let cancel = CancellationToken::new();
    let located = locate(source, &place.cache, &cancel).await?;
    let tree = Tree::acquire(&place.cache, &located.tree, |_| (), &cancel).await?;
    sync(&tree, &located, &|_| (), &cancel).await?;
    let mut files = Copy::new();
    for entry in walkdir::WalkDir::new(tree.source()) {
        let entry = entry.unwrap();
        if !entry.file_type().is_dir() {
            let name = entry.path().strip_prefix(tree.source()).unwrap().display().to_string();
            let text = fs_err::read_to_string(entry.path()).unwrap();
            files.insert(name, (text, entry.metadata().unwrap().modified().unwrap()));
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    Ok((located.content, files))
}

/// The files that the cache's only tree records as varied.
fn varied(place: &Place) -> Vec<String> {
    let tree = fs_err::read_dir(place.cache.trees()).unwrap().next().unwrap().unwrap().path();
    let text = fs_err::read(tree.join("varied.json")).unwrap();
    let varied: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
    varied.into_keys().collect()
}

fn git(place: &Place, args: &[&str]) {
    let run = std::process::Command::new("git")
        .current_dir(&place.source)
        .args(["-c", "user.name=a", "-c", "user.email=a@example.org"])
        .args(args)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[tokio::test]
async fn a_folder_is_followed_file_by_file() {
    let place = place();
    let source = Source::Directory(place.source.clone());
    fs_err::write(place.source.join("mm/a.o"), "object").unwrap();
    let (first, before) = synced(&place, &source).await.unwrap();
    assert_eq!(before.len(), 5, "{before:?}");
    assert!(fs_err::symlink_metadata(place.cache.trees()).is_ok());

    fs_err::write(place.source.join("mm/b.c"), "changed\n").unwrap();
    fs_err::remove_file(place.source.join("mm/link.c")).unwrap();
    let (second, after) = synced(&place, &source).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(varied(&place), ["mm/b.c", "mm/link.c"]);
    assert_eq!(after["mm/a.c"], before["mm/a.c"], "an unchanged file keeps its time");
    assert_eq!(after["mm/b.c"].0, "changed\n");
    assert!(after["mm/b.c"].1 > before["mm/b.c"].1 && !after.contains_key("mm/link.c"));

    fs_err::write(place.source.join("mm/b.c"), "b\n").unwrap();
    symlink("a.c", place.source.join("mm/link.c")).unwrap();
    let (third, back) = synced(&place, &source).await.unwrap();
    assert_eq!(first, third);
    assert!(back["mm/b.c"].1 > after["mm/b.c"].1, "a restored file gets a new time");
}

#[tokio::test]
async fn a_work_tree_gives_what_is_tracked_or_new_but_not_ignored() {
    let place = place();
    git(&place, &["init", "-q"]);
    fs_err::write(place.source.join(".gitignore"), "*.log\n").unwrap();
    fs_err::write(place.source.join("x.log"), "ignored").unwrap();
    let (_, files) = synced(&place, &Source::Directory(place.source.clone())).await.unwrap();
    assert!(files.contains_key("mm/a.c") && !files.contains_key("x.log") && files.contains_key(".gitignore"));
    assert!(!files.keys().any(|name| name.starts_with(".git/")));
}

#[tokio::test]
async fn two_revisions_differ_by_their_files_only_and_the_repository_is_left_alone() {
    let place = place();
    git(&place, &["init", "-q"]);
    git(&place, &["add", "."]);
    git(&place, &["commit", "-qm", "one"]);
    fs_err::write(place.source.join("mm/b.c"), "two\n").unwrap();
    git(&place, &["commit", "-qam", "two"]);
    fs_err::write(place.source.join("mm/b.c"), "not committed\n").unwrap();
    let index = fs_err::read(place.source.join(".git/index")).unwrap();

    let revision = |name: &str| Source::Git { repo: place.source.clone(), revision: name.to_owned() };
    let (one, before) = synced(&place, &revision("HEAD~1")).await.unwrap();
    let (two, after) = synced(&place, &revision("HEAD")).await.unwrap();
    assert_ne!(one, two);
    assert_eq!(varied(&place), ["mm/b.c"]);
    assert_eq!((before["mm/b.c"].0.as_str(), after["mm/b.c"].0.as_str()), ("b\n", "two\n"));
    assert_eq!(after["mm/a.c"], before["mm/a.c"]);
    assert_eq!(fs_err::read(place.source.join(".git/index")).unwrap(), index);
    assert_eq!(fs_err::read_to_string(place.source.join("mm/b.c")).unwrap(), "not committed\n");

    let error = synced(&place, &revision("nonsense")).await.unwrap_err();
    assert_eq!(error.exit_status(), 2);
    assert!(error.to_string().contains("has no revision nonsense"), "{error}");
}

#[tokio::test]
async fn a_killed_sync_is_done_again_from_nothing() {
    let place = place();
    let source = Source::Directory(place.source.clone());
    synced(&place, &source).await.unwrap();
    let cancel = CancellationToken::new();
    let located = locate(&source, &place.cache, &cancel).await.unwrap();
    let tree = Tree::acquire(&place.cache, &located.tree, |_| (), &cancel).await.unwrap();
    tree.set_content(None).unwrap();
    fs_err::write(tree.source().join("mm/a.c"), "half").unwrap();
    drop(tree);
    let (_, files) = synced(&place, &source).await.unwrap();
    assert_eq!(files["mm/a.c"].0, "a\n");
}

#[tokio::test]
async fn a_tarball_is_unpacked_once_and_one_that_is_none_is_named() {
    let place = place();
    let tarball = place.source.with_extension("tar");
    let folder = place.source.parent().unwrap();
    let made =
        std::process::Command::new("tar").current_dir(folder).args(["-cf", "linux.tar", "linux"]).status();
    assert!(made.unwrap().success());
    let (_, first) = synced(&place, &Source::Tarball(tarball.clone())).await.unwrap();
    assert_eq!(first["mm/a.c"].0, "a\n");
    let (_, second) = synced(&place, &Source::Tarball(tarball.clone())).await.unwrap();
    assert_eq!(first, second);

    fs_err::write(&tarball, "no tarball").unwrap();
    let error = synced(&place, &Source::Tarball(tarball)).await.unwrap_err();
    assert_eq!(error.exit_status(), 2);
    assert!(error.to_string().contains("linux.tar is not a tarball"), "{error}");
}
