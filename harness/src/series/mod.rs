//! Judges a series of patches, patch by patch.

mod result;
mod run;

pub use result::{Brought, DependencyCounts, Judged, SeriesResult, SeriesStep, State};
pub use run::{Judging, SeriesSpec, judge};
