//! The statistics behind a verdict. Everything here is exact or uses resampling; nothing assumes a
//! distribution of the measured values.

mod exact;
mod groups;
mod sequential;

pub use exact::{
    Table, always_against_never, clean_trials, detectable_rate, fisher_two_sided, interval,
    probability_of_at_most, stratified_two_sided,
};
pub use groups::{ALPHA, Groups, coefficient_of_variation, fewest_boots, holm, mean, median, quantile};
pub use sequential::AnyTimeTest;
