//! A series of patches, judged patch by patch.

mod result;
mod run;

pub use result::{Brought, Changed, Judged, SeriesResult, State, Step};
pub use run::{Judging, SeriesSpec, judge};
