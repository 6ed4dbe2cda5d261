//! Matrices, plans, and what is refused at a merge.

use std::path::{Path, PathBuf};

use super::*;

const SCENARIO: &str = include_str!("../../../scenarios/dimm-and-cpu.toml");

/// A matrix of two kernels that differ in a patch, in a folder.
fn matrix(folder: &Path, text: &str) -> PathBuf {
    fs_err::write(folder.join("dimm-and-cpu.toml"), SCENARIO).unwrap();
    fs_err::write(folder.join("a.patch"), "--- a/Makefile\n+++ b/Makefile\n@@ -1 +1 @@\n-a\n+b\n").unwrap();
    let file = folder.join("nightly.toml");
    fs_err::write(&file, text).unwrap();
    file
}

const PLAIN: &str = r#"
name = "nightly"
trials = 250
shard = 100
seeds = [1, 2]
scenarios = ["dimm-and-cpu.toml"]

[[kernel]]
name = "a"
source = "linux-source-6.1"
patches = ["a.patch"]

[[kernel]]
name = "b"
source = "linux-source-6.1"
"#;

fn made(text: &str) -> (tempfile::TempDir, Plan, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let matrix = Matrix::read(&matrix(folder.path(), text)).unwrap();
    let (plan, place) = Plan::make(&matrix, &folder.path().join("fleet")).unwrap();
    (folder, plan, place)
}

fn wrong(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    Matrix::read(&matrix(folder.path(), text)).unwrap_err().to_string()
}

#[test]
fn a_matrix_is_expanded_to_pieces_that_are_named_by_what_they_are_made_of() {
    let (_folder, plan, place) = made(PLAIN);
    assert_eq!(plan.cells.len(), 4);
    let pieces: Vec<(u32, u32)> = plan.cells[0].pieces.iter().map(|piece| (piece.first, piece.end)).collect();
    assert_eq!(pieces, [(0, 100), (100, 200), (200, 250)]);
    let ids: std::collections::BTreeSet<&String> = plan.pieces().map(|(_, piece)| &piece.id).collect();
    assert_eq!(ids.len(), 12);
    assert_eq!(plan.kernels().len(), 2);
    // It is read back from its folder, which has all that it needs.
    let (read, _) = Plan::read(&place).unwrap();
    assert_eq!(read, plan);
    assert!(
        place.join(&plan.cells[0].kernel.patches[0]).is_file()
            && place.join(&plan.cells[0].scenario).is_file()
    );
    // Made elsewhere of the same it is the same; of another scenario's text none of its pieces is.
    assert_eq!(made(PLAIN).1, plan);
    let folder = tempfile::tempdir().unwrap();
    let file = matrix(folder.path(), PLAIN);
    fs_err::write(folder.path().join("dimm-and-cpu.toml"), format!("{SCENARIO}\n# once more\n")).unwrap();
    let (other, _) = Plan::make(&Matrix::read(&file).unwrap(), &folder.path().join("fleet")).unwrap();
    assert!(other.pieces().all(|(_, piece)| !ids.contains(&piece.id)));
}

#[test]
fn a_piece_is_asked_for_by_its_number_or_its_id() {
    let (_folder, plan, _) = made(PLAIN);
    let (_, fourth) = plan.pieces().nth(3).unwrap();
    assert_eq!(plan.piece("3").unwrap().1, fourth);
    assert_eq!(plan.piece(&fourth.id[..8]).unwrap(), (1, fourth));
    for none in ["12", "-1", "", "zzzzzzzz"] {
        let error = plan.piece(none).unwrap_err().to_string();
        assert!(error.contains("from 0 to 11"), "{error}");
    }
}

#[test]
fn what_is_wrong_with_a_matrix_is_named() {
    for (old, new, said) in [
        ("trials = 250", "trials = 0", "trials = 0"),
        ("name = \"b\"", "name = \"a\"", "two of [[kernel]] are called \"a\""),
        ("seeds = [1, 2]", "seeds = []", "seeds is empty"),
        ("shard = 100", "shards = 100", "unknown field `shards`"),
    ] {
        let error = wrong(&PLAIN.replace(old, new));
        assert!(error.contains(said), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = matrix(folder.path(), &PLAIN.replace("a.patch", "nowhere.patch"));
    let error = Plan::make(&Matrix::read(&file).unwrap(), &folder.path().join("fleet")).unwrap_err();
    assert!(error.to_string().contains("nowhere.patch"), "{error}");
    assert!(!folder.path().join("fleet").exists());
}

#[test]
fn a_name_is_only_a_name() {
    let text = PLAIN.replace("name = \"nightly\"", "name = \"a; rm -rf ~\"");
    let (folder, plan, place) = made(&text);
    assert_eq!(plan.name, "a; rm -rf ~");
    let name = place.file_name().unwrap().to_str().unwrap();
    assert_eq!(name, format!("a--rm--rf---{}", plan.id));
    assert!(place.starts_with(folder.path()));
    let up = PLAIN.replace("name = \"nightly\"", "name = \"../../etc\"");
    let (folder, _, place) = made(&up);
    assert!(place.starts_with(folder.path().join("fleet")) && !place.to_str().unwrap().contains("/../"));
}
