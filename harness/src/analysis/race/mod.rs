//! The race analysis: the results of the holds. The judge has already counted them, over the judged
//! trials.

mod page;
mod section;

pub use section::full;

use super::{Analysis, Kernels, Prepared};
use crate::Result;
use crate::compare::Judgement;
use crate::conclusion::Conclusions;
use crate::environment::Env;
use crate::rendezvous::Race;
use crate::unavailable::Unavailable;

pub(crate) struct RaceAnalysis;

impl Analysis for RaceAnalysis {
    type Conclusion = Race;

    const NAME: &'static str = "race";

    fn kernels(_: &Prepared) -> Vec<Kernels> {
        Vec::new()
    }

    async fn conclude(
        _: &Prepared,
        judgement: &mut Judgement,
        _: &Conclusions,
        _: &Env<'_>,
    ) -> Result<Option<Race>> {
        Ok(judgement.race.clone())
    }

    fn unavailable(_: &Prepared, _: Unavailable) -> Option<Race> {
        None
    }
}
