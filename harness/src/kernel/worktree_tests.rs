use super::*;
use crate::kernel::apply::Change;

async fn acquire(cache: &Cache) -> Tree {
    Tree::acquire(cache, "t", |_| (), &CancellationToken::new()).await.unwrap()
}

fn overlay() -> Overlay {
    let new = |text: &str| Some(Contents { bytes: text.into(), executable: false });
    let change = |path: &str, now| Change { path: path.to_owned(), now };
    Overlay {
        changes: vec![change("a", new("patched")), change("sub/new", new("new")), change("gone", None)],
    }
}

fn source(tree: &Tree) -> [Option<String>; 3] {
    ["a", "sub/new", "gone"].map(|name| fs_err::read_to_string(tree.source().join(name)).ok())
}

#[tokio::test]
async fn a_patch_goes_on_and_comes_off_with_new_times_even_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let tree = acquire(&cache).await;
    fs_err::create_dir_all(tree.source()).unwrap();
    for name in ["a", "gone"] {
        fs_err::write(tree.source().join(name), "old").unwrap();
    }
    let time = || fs_err::metadata(folder.path().join("trees/t/src/a")).unwrap().modified().unwrap();
    let first = time();
    tree.apply(&overlay()).unwrap();
    assert_eq!(source(&tree), [Some("patched".into()), Some("new".into()), None]);
    // The run dies here. The next run restores the tree.
    drop(tree);
    std::thread::sleep(Duration::from_millis(20));
    let tree = acquire(&cache).await;
    assert_eq!(source(&tree), [Some("old".into()), None, Some("old".into())]);
    assert!(time() > first);
    tree.undo().unwrap();
}

#[tokio::test]
async fn a_file_that_varied_is_known_as_it_was_before_the_first_time() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let tree = acquire(&cache).await;
    fs_err::create_dir_all(tree.source()).unwrap();
    for name in ["a", "gone"] {
        fs_err::write(tree.source().join(name), "old").unwrap();
    }
    let before = ["a", "gone"].map(|name| FileState::read(&tree.source().join(name)).unwrap());
    tree.set_content(Some("c".into())).unwrap();
    for _ in 0..2 {
        tree.apply(&overlay()).unwrap();
        tree.undo().unwrap();
        let varied = tree.varied().unwrap();
        assert_eq!([&varied["a"], &varied["gone"]], [&before[0], &before[1]]);
        assert_eq!(varied["sub/new"], None);
    }
    drop(tree);
    assert_eq!(acquire(&cache).await.content().as_deref(), Some("c"));
}

#[tokio::test]
async fn a_second_run_waits_and_can_be_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let held = acquire(&cache).await;
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let error = Tree::acquire(&cache, "t", move |_| stop.cancel(), &cancel).await.unwrap_err();
    assert_eq!(error.exit_status(), 130);
    drop(held);
    acquire(&cache).await;
}
