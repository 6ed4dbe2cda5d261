//! Tests of matrices, of plans, and of the shards that a merge refuses.

use std::path::{Path, PathBuf};

use hotplug_kreport::KnownIssues;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::Result;
use crate::compare::Judge;
use crate::kernel::Cache;
use crate::record::Run;

const SCENARIO: &str = include_str!("../../../scenarios/dimm-and-cpu.toml");

/// Writes a matrix into a folder, with its scenario and its patch.
fn matrix(folder: &Path, text: &str) -> PathBuf {
    fs_err::write(folder.join("dimm-and-cpu.toml"), SCENARIO).unwrap();
    fs_err::write(folder.join("a.patch"), "--- a/Makefile\n+++ b/Makefile\n@@ -1 +1 @@\n-a\n+b\n").unwrap();
    let file = folder.join("nightly.toml");
    fs_err::write(&file, text).unwrap();
    file
}

/// A source of kernels that is always there.
macro_rules! toy {
    () => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/cli/tests/common/toy_kernel")
    };
}

const PLAIN: &str = concat!(
    r#"
name = "nightly"
trials = 250
shard = 100
seeds = [1, 2]
scenarios = ["dimm-and-cpu.toml"]

[[kernel]]
name = "a"
source = ""#,
    toy!(),
    r#""
patches = ["a.patch"]

[[kernel]]
name = "b"
source = ""#,
    toy!(),
    r#""
"#
);

/// Makes the plan of a matrix file, in the file's folder.
async fn planned(file: &Path) -> Result<(Plan, PathBuf)> {
    let folder = file.parent().unwrap();
    let cache = Cache::open(folder.join("cache"))?;
    Plan::make(&Matrix::read(file)?, &folder.join("fleet"), &cache, &CancellationToken::new()).await
}

async fn made(text: &str) -> (tempfile::TempDir, Plan, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (plan, place) = planned(&matrix(folder.path(), text)).await.unwrap();
    (folder, plan, place)
}

fn wrong(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    Matrix::read(&matrix(folder.path(), text)).unwrap_err().to_string()
}

#[tokio::test]
async fn a_matrix_is_expanded_to_pieces_that_are_named_by_what_they_are_made_of() {
    let (_folder, plan, place) = made(PLAIN).await;
    assert_eq!(plan.cells.len(), 4);
    let pieces: Vec<(u32, u32)> = plan.cells[0].pieces.iter().map(|piece| (piece.first, piece.end)).collect();
    assert_eq!(pieces, [(0, 100), (100, 200), (200, 250)]);
    let ids: std::collections::BTreeSet<&String> = plan.pieces().map(|(_, piece)| &piece.id).collect();
    assert_eq!(ids.len(), 12);
    assert_eq!(plan.kernels().len(), 2);
    // The plan can be read from its folder, which has all that it needs.
    let (read, _) = Plan::read(&place).unwrap();
    assert_eq!(read, plan);
    assert!(
        place.join(&plan.cells[0].kernel.patches[0]).is_file()
            && place.join(&plan.cells[0].scenario).is_file()
    );
    // The same matrix in another folder gives the same plan. A different text of the scenario gives
    // no piece of it.
    assert_eq!(made(PLAIN).await.1, plan);
    let folder = tempfile::tempdir().unwrap();
    let file = matrix(folder.path(), PLAIN);
    fs_err::write(folder.path().join("dimm-and-cpu.toml"), format!("{SCENARIO}\n# once more\n")).unwrap();
    let (other, _) = planned(&file).await.unwrap();
    assert!(other.pieces().all(|(_, piece)| !ids.contains(&piece.id)));
}

#[tokio::test]
async fn a_piece_is_asked_for_by_its_number_or_its_id() {
    let (_folder, plan, _) = made(PLAIN).await;
    let (_, fourth) = plan.pieces().nth(3).unwrap();
    assert_eq!(plan.piece("3").unwrap().1, fourth);
    assert_eq!(plan.piece(&fourth.id[..8]).unwrap(), (1, fourth));
    for none in ["12", "-1", "", "zzzzzzzz"] {
        let error = plan.piece(none).unwrap_err().to_string();
        assert!(error.contains("from 0 to 11"), "{error}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_matrix_is_named() {
    for (old, new, said) in [
        ("trials = 250", "trials = 0", "trials = 0"),
        ("name = \"b\"", "name = \"a\"", "two of [[kernel]] are called \"a\""),
        ("seeds = [1, 2]", "seeds = []", "seeds is empty"),
        ("shard = 100", "shards = 100", "unknown field `shards`"),
        ("patches =", "before = \"v1\"\npatches =", "\"a\" has `before`, but no `after`"),
        ("name = \"b\"", "name = \"b\"\nafter = \"v2\"", "\"b\" has `after`, but no `before`"),
        ("patches =", "before = \"v1\"\nafter = \"v2\"\npatches =", "\"a\" has both patches and revisions"),
    ] {
        let error = wrong(&PLAIN.replace(old, new));
        assert!(error.contains(said), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = matrix(folder.path(), &PLAIN.replace("a.patch", "nowhere.patch"));
    let error = planned(&file).await.unwrap_err();
    assert!(error.to_string().contains("nowhere.patch"), "{error}");
    assert!(!folder.path().join("fleet").exists());
}

#[tokio::test]
async fn a_name_is_only_a_name() {
    let text = PLAIN.replace("name = \"nightly\"", "name = \"a; rm -rf ~\"");
    let (folder, plan, place) = made(&text).await;
    assert_eq!(plan.name, "a; rm -rf ~");
    let name = place.file_name().unwrap().to_str().unwrap();
    assert_eq!(name, format!("a--rm--rf---{}", plan.id));
    assert!(place.starts_with(folder.path()));
    let up = PLAIN.replace("name = \"nightly\"", "name = \"../../etc\"");
    let (folder, _, place) = made(&up).await;
    assert!(place.starts_with(folder.path().join("fleet")) && !place.to_str().unwrap().contains("/../"));
}

/// Adds a revision to a repository that looks like Linux.
fn commit(repo: &Path, text: &str) {
    fs_err::create_dir_all(repo).unwrap();
    fs_err::write(repo.join("Makefile"), format!("VERSION = 6\nPATCHLEVEL = 1\n# {text}\n")).unwrap();
    fs_err::write(repo.join("Kconfig"), "").unwrap();
    let script = "git init -q && git add . && git -c user.name=t -c user.email=t@example.org commit -qm more";
    let status = std::process::Command::new("sh").args(["-ec", script]).current_dir(repo).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_branch_that_moves_on_makes_another_plan_and_a_source_that_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let repo = folder.path().join("linux");
    commit(&repo, "one");
    commit(&repo, "two");
    let revisions = "source = \"linux\"\nbefore = \"HEAD~1\"\nafter = \"HEAD\"";
    let patched = concat!("source = \"", toy!(), "\"\npatches = [\"a.patch\"]");
    let text = PLAIN.replace(patched, revisions).replace(toy!(), "linux");
    let file = matrix(folder.path(), &text);
    let (first, _) = planned(&file).await.unwrap();
    let cache = Cache::open(folder.path().join("cache")).unwrap();
    let check = async |kernel: &PlannedPair| kernel.check_contents(&cache, &CancellationToken::new()).await;
    let [named, as_it_is] = first.kernels()[..] else { panic!("{first:?}") };
    // The names are full and absolute, so the plan does not depend on the current folder.
    assert!(Path::new(&named.source).is_absolute() && named.after.as_ref().unwrap().len() == 40, "{named:?}");
    check(named).await.unwrap();
    check(as_it_is).await.unwrap();

    commit(&repo, "three");
    let (second, _) = planned(&file).await.unwrap();
    let ids: Vec<_> = first.pieces().map(|(_, piece)| &piece.id).collect();
    assert!(second.pieces().all(|(_, piece)| !ids.contains(&&piece.id)));
    // The revisions of the first plan still exist. The content of the folder has changed.
    check(named).await.unwrap();
    let error = check(as_it_is).await.unwrap_err();
    assert!(error.to_string().contains("does not match the plan"), "{error}");
    assert_eq!(error.exit_status(), 2);
}

/// The run of every shard: that of the reference run.
fn run() -> Run {
    serde_json::from_str(include_str!("../../../results/reference/run.json")).unwrap()
}

/// A shard of that piece, with one judged trial a side: the first ones of the reference run.
fn shard(plan: &Plan, piece: &Piece, run: Run) -> Shard {
    let mut judge = Judge::default();
    for text in [
        include_str!("../../../results/reference/trials/dimm-and-cpu-before-000/trial.json"),
        include_str!("../../../results/reference/trials/dimm-and-cpu-after-000/trial.json"),
    ] {
        judge.add(&serde_json::from_str(text).unwrap(), 1.0);
    }
    Shard { plan: plan.id.clone(), id: piece.id.clone(), run, judge, repeated: Vec::new(), seconds: 1.0 }
}

/// A difference that another machine makes to a run.
type Edit = fn(&mut Run);

#[tokio::test]
async fn who_is_not_like_most_is_left_out_by_name_also_where_it_comes_first() {
    let (_folder, plan, _) = made(PLAIN).await;
    let cell = &plan.cells[0];
    let others: [(&str, Edit); 6] = [
        ("its QEMU is 9.9.9, most others' 10.", |run| run.host.qemu = "9.9.9".into()),
        ("its accelerator is kvm, most others' TCG", |run| run.host.accelerator = "kvm".into()),
        ("its version of hotplug is 9.0.0, most others' 0.", |run| run.hotplug = "9.0.0".into()),
        ("its kernel after is 0000", |run| run.kernels.after.image_hash = "0".repeat(64)),
        ("its scenario is 0000", |run| run.scenario_hash = "0".repeat(64)),
        ("its seed is 77, most others' 1", |run| run.seed.0 = 77),
    ];
    for (said, change) in others {
        let mut runs = [run(), run(), run()];
        change(&mut runs[0]);
        let mut merger = Merger::new(&plan, cell, KnownIssues::default(), runs.iter());
        let added: Vec<_> = cell
            .pieces
            .iter()
            .zip(runs.clone())
            .map(|(piece, run)| merger.add(shard(&plan, piece, run)))
            .collect();
        let why = added[0].as_ref().unwrap_err();
        assert!(why.starts_with(said), "{why}");
        assert_eq!(added[1..], [Ok(()), Ok(())]);
        let joined = merger.finish();
        assert_eq!(joined.shards, (2, 3));
        assert!(joined.result.unwrap().reason.starts_with("partial, 4 of 500 trials: "));
    }
    // A shard of another plan, and one of another combination.
    let mut merger = Merger::new(&plan, cell, KnownIssues::default(), [run()].iter());
    let stranger = Shard { plan: "feedfeedfeed".into(), ..shard(&plan, &cell.pieces[0], run()) };
    assert_eq!(merger.add(stranger).unwrap_err(), "it belongs to another plan, feedfeedfeed");
    let other = shard(&plan, &plan.cells[1].pieces[0], run());
    assert_eq!(merger.add(other).unwrap_err(), "it belongs to another combination");
    assert!(merger.finish().result.is_none());
}

#[tokio::test]
async fn known_issues_are_told_of_over_all_shards() {
    let (_folder, plan, _) = made(PLAIN).await;
    let cell = &plan.cells[0];
    let text = "[[known]]\nreason = \"ours\"\ntitle = 'flush_all_cpus_locked'\n\n[[known]]\nreason = \"gone\"\ntitle = 'no such'\n";
    let known = KnownIssues::parse("known.toml", text, jiff::civil::date(2026, 1, 1)).unwrap();
    let runs = [run(), run(), run()];
    let mut merger = Merger::new(&plan, cell, known, runs.iter());
    for (piece, run) in cell.pieces.iter().zip(runs.clone()) {
        merger.add(shard(&plan, piece, run)).unwrap();
    }
    let remarks = merger.finish().result.unwrap().remarks;
    assert!(remarks.len() == 1 && remarks[0].contains("matched nothing: gone"), "{remarks:?}");
}
