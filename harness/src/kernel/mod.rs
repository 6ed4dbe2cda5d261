//! Builds a pair of kernels from a source, a config and a patch series. Built kernels are
//! content-addressed.
//!
//! The user's source is never modified. Each build runs in the harness's own copy of it, a *tree*.
//! The two sides of a pair use one tree in turn, so the second side costs only an incremental
//! build.

mod apply;
mod artifacts;
mod asked;
mod base;
mod build;
mod cache;
mod checkout;
mod command;
mod config;
mod deb;
mod diagnose;
mod gcov;
mod image;
mod kconfig;
mod make;
mod manifest;
mod mbox;
mod modules;
mod objects;
mod odd;
mod package;
mod patch;
mod progress;
mod prune;
mod reply;
mod request;
mod revisions;
mod series_note;
mod source;
mod spec;
mod stamps;
mod thread;
mod toolchain;
mod trailers;
mod worktree;

pub use artifacts::{Built, Kernel, KernelId, KernelPair, PatchRecord, Record, recall};
pub use asked::{Wish, understood};
pub use base::Basis;
pub use build::{build_counted, build_pair, still_asks_for};
pub use cache::Cache;
pub(crate) use checkout::SourceCopy;
pub(crate) use command::{Tool, capture};
pub use config::Config;
#[cfg(test)]
pub(crate) use gcov::OPTIONS as COUNTING_OPTIONS;
pub use gcov::{Counting, Touched};
pub use package::Package;
pub(crate) use patch::parse as parse_patch;
pub use patch::{Single, files as patch_files, split};
pub(crate) use patch::{changed_files, diffs};
pub use progress::{BuildEvent, BuildListener, IgnoreBuild};
pub use prune::{Listed, ListedTree, Listing, Prune, Pruned, list, prune, sizes};
pub use reply::ReplyTo;
pub use request::{Change, PairRequest, Wanted};
pub use revisions::{Revisions, resolve};
pub use series_note::SeriesNote;
pub use source::Source;
pub(crate) use source::blocking;
pub use spec::PairSpec;
pub(crate) use worktree::try_lock;
