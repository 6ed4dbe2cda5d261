//! From one machine to many: a matrix is expanded to shards that know nothing of each other, and what they judged is joined.
//!
//! ```text
//! matrix.toml -> Plan (fleet/<plan>/plan.json, inputs/) -> Shard (shards/<id>/shard.json), each anywhere -> Merged
//! ```
//!
//! A shard is named by what it is made of, so that whoever has run it, wherever, has run the same trials.

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
pub use plan::{Cell, Kernel, Piece, Plan};
pub use shard::Shard;
pub use slurm::{SlurmSpec, submit_to_slurm};
pub use work::{Worked, build_kernels, work};
