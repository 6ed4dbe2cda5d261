use std::process::Command;

use super::*;

/// A repository that passes for a kernel source, with two commits and a branch of one more.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        fs_err::create_dir_all(tree.path().join("mm")).unwrap();
        tree.write("Makefile", "VERSION = 6\nPATCHLEVEL = 1\n");
        tree.write("Kconfig", "\n");
        tree.write("mm/a.c", "one\n");
        tree.git(&["init", "--quiet", "--initial-branch", "main"]);
        tree.commit("first");
        tree.write("mm/a.c", "two\n");
        tree.commit("second");
        tree
    }

    fn path(&self) -> PathBuf {
        fs_err::canonicalize(self.0.path()).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs_err::write(self.0.path().join(name), text).unwrap();
    }

    fn git(&self, words: &[&str]) -> String {
        let names = ["-c", "user.name=A", "-c", "user.email=a@example.org"];
        let said = Command::new("git").arg("-C").arg(self.0.path()).args(names).args(words).output().unwrap();
        assert!(said.status.success(), "{words:?}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self, subject: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", subject]);
        self.git(&["rev-parse", "HEAD"])
    }

    async fn asked(&self, spec: PairSpec) -> Result<PairSpec> {
        let here = self.path().join("mm");
        let (spec, files) = understood(spec, Wish::Compare, &here, &CancellationToken::new()).await?;
        // The files must outlive this call.
        files.map(TempDir::keep);
        Ok(spec)
    }
}

fn patches(names: &[&str]) -> PairSpec {
    PairSpec { patches: names.iter().map(PathBuf::from).collect(), ..PairSpec::default() }
}

#[tokio::test]
async fn in_a_kernel_tree_that_tree_is_the_source() {
    let tree = Tree::new();
    let source = Some(tree.path().display().to_string());
    let spec = tree.asked(patches(&["main~1..main"])).await.unwrap();
    assert_eq!(
        (spec.source.clone(), spec.before.as_deref(), spec.after.as_deref()),
        (source, Some("main~1"), Some("main"))
    );
    assert!(spec.patches.is_empty() && spec.notes[0].starts_with("source: "), "{spec:?}");
    let other = PairSpec { source: Some("linux-source-6.1".into()), ..patches(&["x.patch"]) };
    assert_eq!(
        tree.asked(other.clone()).await.unwrap_err().to_string().lines().next().unwrap(),
        "no such patch: x.patch"
    );
    tree.git(&["branch", "--quiet", "a/branch", "main~1"]);
    let spec = tree.asked(patches(&["a/branch..main"])).await.unwrap();
    assert_eq!(spec.before.as_deref(), Some("a/branch"));
    let error = tree.asked(patches(&["../none.patch"])).await.unwrap_err();
    assert!(error.to_string().starts_with("no such patch"), "{error}");
    let spec = tree.asked(patches(&["main~1.."])).await.unwrap();
    assert_eq!(spec.after.as_deref(), Some("HEAD"));
}

#[tokio::test]
async fn a_revision_alone_is_compared_with_its_merge_base_or_its_parent() {
    let tree = Tree::new();
    let second = tree.git(&["rev-parse", "HEAD"]);
    tree.git(&["checkout", "--quiet", "-b", "topic"]);
    tree.write("mm/a.c", "three\n");
    tree.commit("third");
    tree.write("mm/a.c", "four\n");
    tree.commit("fourth");
    tree.git(&["checkout", "--quiet", "main"]);
    let after = |name: &str| PairSpec { after: Some(name.into()), ..PairSpec::default() };
    let spec = tree.asked(after("topic")).await.unwrap();
    assert_eq!(spec.before.as_deref(), Some(second.as_str()));
    assert!(spec.notes[1].contains("the merge base of topic and HEAD"), "{:?}", spec.notes);
    let spec = tree.asked(after("main")).await.unwrap();
    assert_eq!(spec.before, Some(tree.git(&["rev-parse", "main~1"])));
    assert!(spec.notes[1].contains("the parent of main"), "{:?}", spec.notes);
    let spec = tree.asked(patches(&["topic...main"])).await.unwrap();
    assert_eq!(spec.before, Some(second));
    assert!(tree.asked(after("main~1")).await.unwrap_err().to_string().contains("no parent"));
    assert!(tree.asked(after("none")).await.unwrap_err().to_string().contains("has no revision none"));
}

#[tokio::test]
async fn changes_that_are_not_committed_are_a_patch_on_head() {
    let tree = Tree::new();
    let error = tree.asked(PairSpec::default()).await.unwrap_err();
    assert!(error.to_string().contains("all changes in") && error.exit_status() == 2, "{error}");
    tree.git(&["config", "diff.noprefix", "true"]);
    tree.write("mm/a.c", "changed\n");
    tree.write("mm/new.c", "new\n");
    let spec = tree.asked(PairSpec::default()).await.unwrap();
    assert_eq!(spec.source, Some(format!("{}@{}", tree.path().display(), tree.git(&["rev-parse", "HEAD"]))));
    let diff = fs_err::read_to_string(&spec.patches[0]).unwrap();
    assert!(diff.contains("--- a/mm/a.c\n") && !diff.contains("new.c"), "{diff}");
    assert!(spec.notes.iter().any(|note| note.starts_with("1 untracked files")), "{:?}", spec.notes);
    // Elsewhere there is nothing to compare.
    let away = tempfile::tempdir().unwrap();
    let cancel = CancellationToken::new();
    let none = understood(PairSpec::default(), Wish::Compare, away.path(), &cancel);
    assert!(none.await.unwrap_err().to_string().starts_with("there is nothing to compare: no patch"));
    let same = PairSpec { before: Some("main".into()), after: Some("main".into()), ..PairSpec::default() };
    assert!(tree.asked(same).await.unwrap_err().to_string().starts_with("both sides are main"));
}

#[tokio::test]
async fn the_base_commit_of_a_series_is_taken_where_the_source_has_it() {
    let tree = Tree::new();
    let first = tree.git(&["rev-parse", "main~1"]);
    let series = |base: &str| {
        let text = format!(
            "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\nFrom: A <a@example.org>\n\
             Subject: [PATCH] x\n\ntext\n---\n--- a/mm/a.c\n+++ b/mm/a.c\n@@ -1 +1 @@\n-one\n+1\n\n\
             base-commit: {base}\nprerequisite-patch-id: {base}\n-- \n2.30\n"
        );
        let file = tempfile::NamedTempFile::with_suffix(".patch").unwrap().into_temp_path().keep().unwrap();
        fs_err::write(&file, text).unwrap();
        PairSpec { patches: vec![file], ..PairSpec::default() }
    };
    let spec = tree.asked(series(&first)).await.unwrap();
    assert_eq!(spec.source, Some(format!("{}@{first}", tree.path().display())));
    assert!(spec.notes[1].contains("the base-commit of the series"), "{:?}", spec.notes);
    assert!(spec.notes[2].starts_with("1 of 1 prerequisite patches"), "{:?}", spec.notes);
    let unknown = "0123456789012345678901234567890123456789";
    let spec = tree.asked(series(unknown)).await.unwrap();
    assert_eq!(spec.source, Some(tree.path().display().to_string()));
    assert!(spec.notes[1].contains("lacks the base-commit"), "{:?}", spec.notes);
    let package = PairSpec { source: Some("linux-source-6.1".into()), ..series(unknown) };
    assert!(tree.asked(package).await.unwrap().notes[0].contains("this source has no revisions"));
    let other = PairSpec { source: Some(format!("{}@main", tree.path().display())), ..series(&first) };
    assert!(tree.asked(other).await.unwrap().notes[0].ends_with("not main"));
}

#[test]
fn a_message_is_told_from_a_file() {
    for message in ["20260101123456.1-2-a@example.org", "<x@y>", "https://lore.kernel.org/linux-mm/x@y/"] {
        assert!(is_message(message), "{message}");
    }
    for file in ["my.patch", "series/", "a/b@c.patch", "@", "x@", "a b@c"] {
        assert!(!is_message(file), "{file}");
    }
}
