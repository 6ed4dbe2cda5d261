//! Source, config and patch series -> a built, content-addressed kernel pair.
//!
//! The source is never touched: a build happens in a copy of ours, a *tree*, which the two sides of a pair share one
//! after the other, so that the second side costs an incremental build only.

mod apply;
mod build;
mod cache;
mod config;
mod counted;
mod diagnose;
mod image;
mod kconfig;
mod make;
mod manifest;
mod objects;
mod patch;
mod progress;
mod prune;
mod request;
mod revisions;
mod source;
mod spec;
mod stamps;
mod store;
mod sync;
mod tool;
mod tree;

pub use build::{build_counted, build_pair, still_asks_for};
pub use cache::Cache;
pub use config::Config;
#[cfg(test)]
pub(crate) use counted::OPTIONS as COUNTING_OPTIONS;
pub use counted::{Counting, Touched};
pub use patch::{Single, files as patch_files, split};
pub use progress::{BuildEvent, Events, Quiet};
pub use prune::{Listed, ListedTree, Listing, Prune, Pruned, list, prune};
pub use request::{Change, PairRequest, Wanted};
pub use revisions::{Revisions, resolve};
pub use source::Source;
pub(crate) use source::blocking;
pub use spec::PairSpec;
pub use store::{Built, Kernel, KernelId, KernelPair, PatchRecord, Record, recall};
pub(crate) use tool::{Tool, capture};
pub(crate) use tree::try_lock;
