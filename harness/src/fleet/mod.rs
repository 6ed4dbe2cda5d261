//! Runs on many machines: a matrix is expanded to shards that are independent of each other, and
//! their judgements are merged.
//!
//! ```text
//! matrix.toml -> Plan (fleet/<plan>/plan.json, inputs/)
//!             -> Shard (shards/<id>/shard.json), each on any machine -> Merged
//! ```
//!
//! The name of a shard is a hash of all that determines its trials, so it stands for the same
//! trials on every machine.

mod built;
mod join;
mod matrix;
mod merge;
mod plan;
mod shard;
mod slurm;
#[cfg(test)]
mod tests;
mod work;

pub use built::BuiltPair;
pub use join::{Joined, join};
pub use matrix::{Matrix, MatrixConfig, MatrixKernel};
pub use merge::{Left, MergedCell, Merger};
pub use plan::{Combination, Piece, Plan, PlannedPair};
pub use shard::Shard;
pub use slurm::{SlurmSpec, submit_to_slurm};
pub use work::{Worked, build_kernels, work};
