use super::*;

const GIT: &str = "\
diff --git a/mm/one.c b/mm/one.c
index 111..222 100644
--- a/mm/one.c
+++ b/mm/one.c
@@ -10,3 +10,3 @@ void f(void)
 same
--- not a header
+++ nor this
 same
@@ -20 +20,2 @@
 x
+y
diff --git a/old b/new
similarity index 100%
rename from old
rename to new
";

fn parsed(text: &str) -> Option<Patch> {
    parse("p", None, text).unwrap()
}

async fn read_one(path: &Path) -> Result<Vec<Patch>> {
    read(&[path.to_owned()], &CancellationToken::new()).await
}

#[test]
fn knows_headers_from_lines_that_look_like_them() {
    let patch = parsed(GIT).unwrap();
    assert_eq!(patch.files.len(), 2);
    assert_eq!(patch.files[0].paths, ["mm/one.c"]);
    assert_eq!(patch.files[0].hunks.len(), 2);
    assert_eq!(patch.files[0].hunks[1].line, 20);
    assert_eq!(patch.files[1].paths, ["old", "new"]);
}

#[test]
fn reads_plain_diffs_with_times() {
    let text = "words\n--- old/a.c\t2020-01-01\n+++ new/a.c\t2020-01-02\n@@ -1 +1 @@\n-a\n+b\n";
    let patch = parsed(text).unwrap();
    assert_eq!(patch.files[0].paths, ["a.c"]);
    assert!(patch.diff.starts_with("--- old/a.c"));
}

#[test]
fn new_and_deleted_files_have_one_path() {
    let text = "diff --git a/n b/n\nnew file mode 100644\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+b\n";
    assert_eq!(parsed(text).unwrap().files[0].paths, ["n"]);
}

#[test]
fn no_diff_is_none() {
    assert_eq!(parsed("a cover letter\n--\n2.30\n"), None);
}

#[test]
fn a_wrapped_hunk_is_named() {
    let error = parse("p", None, "--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n a\n-b\n+c\n").unwrap_err();
    assert!(error.to_string().contains("`@@ -1,3 +1,3 @@` is cut short"), "{error}");
}

#[test]
fn a_path_outside_the_source_is_refused() {
    let error = parse("p", None, "--- a/../../etc/x\n+++ b/../../etc/x\n@@ -1 +1 @@\n-b\n+c\n").unwrap_err();
    assert_eq!(error.exit_status(), 2);
}

#[tokio::test]
async fn an_mbox_gives_its_mails_in_order_without_the_cover_letter() {
    let folder = tempfile::tempdir().unwrap();
    let mail = |n: u32, body: &str| {
        format!(
            "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n\
             From: A <a@example.org>\nDate: Mon, 17 Sep 2001 00:00:00 +0000\nSubject: [PATCH {n}/2] s{n}\n\n\
             text\n---\n{body}\n-- \n2.30\n\n"
        )
    };
    let diff =
        |name: &str| format!("diff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-a\n+b");
    let mbox = folder.path().join("series.mbox");
    fs_err::write(&mbox, [mail(0, "cover"), mail(1, &diff("x")), mail(2, &diff("y"))].concat()).unwrap();
    let patches = read_one(&mbox).await.unwrap();
    assert_eq!(patches.len(), 2);
    assert_eq!(patches[0].subject.as_deref(), Some("[PATCH 1/2] s1"));
    assert_eq!(patches[1].files[0].paths, ["y"]);
    assert!(patches[1].name.ends_with("series.mbox (mail 3: [PATCH 2/2] s2)"));
    // A folder gives the same patches.
    fs_err::rename(&mbox, folder.path().join("0001-a.patch")).unwrap();
    fs_err::write(folder.path().join("0000-z.diff"), diff("z") + "\n").unwrap();
    fs_err::write(folder.path().join("README"), "no patch").unwrap();
    let patches = read_one(folder.path()).await.unwrap();
    assert_eq!(
        patches.iter().map(|patch| patch.files[0].paths[0].as_str()).collect::<Vec<_>>(),
        ["z", "x", "y"]
    );
}

#[tokio::test]
async fn what_is_missing_or_no_diff_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = read_one(&folder.path().join("none.patch")).await.unwrap_err();
    assert_eq!(error.exit_status(), 2);
    assert!(error.to_string().starts_with("no such patch: "), "{error}");
    let file = folder.path().join("text.patch");
    fs_err::write(&file, "hello\n").unwrap();
    assert!(read_one(&file).await.unwrap_err().to_string().starts_with("no diff in "));
    let empty = tempfile::tempdir().unwrap();
    assert!(read_one(empty.path()).await.unwrap_err().to_string().starts_with("no diff in "));
}
