//! Whole commands on the toy, a small kernel source and a fake QEMU: their arithmetic, locking and
//! order. Other tests show what a verdict is worth on real kernels.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

#[path = "toy/again.rs"]
mod again;
#[expect(dead_code, reason = "other tests use the helpers for real kernels and patches")]
mod common;
#[path = "toy/culprits.rs"]
mod culprits;
#[path = "toy/early.rs"]
mod early;
#[path = "toy/emulator.rs"]
mod emulator;
#[path = "common/fake.rs"]
mod fake;
#[path = "toy/fleet.rs"]
mod fleet;
#[path = "toy/hand_over.rs"]
mod hand_over;
#[path = "common/kept.rs"]
#[expect(dead_code, reason = "only copy() is used here")]
mod kept;
#[path = "toy/portfolio.rs"]
mod portfolio;
#[path = "toy/rounds.rs"]
mod rounds;
#[path = "toy/settled.rs"]
mod settled;
#[path = "toy/shrink.rs"]
mod shrink;
#[path = "common/toy.rs"]
mod world;

use std::path::Path;

use serde_json::Value;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .unwrap()
}

/// The only subfolder of a folder.
fn only(folder: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}
