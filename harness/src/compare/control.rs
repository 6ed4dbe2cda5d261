//! The control: whether bugs that are planted in the before kernel are found in this setup. Without
//! that, trials without a finding mean nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::weight::Weight;
use crate::unavailable::Unavailable;

/// The result of the control of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// There was no control.
    None {
        /// The reason.
        why: Unavailable,
    },
    /// The before kernel with these planted bugs was compared with itself without them.
    Ran {
        /// The names of the bugs that were found.
        found: Vec<String>,
        /// The names of the bugs that were not found.
        missed: Vec<String>,
        /// Trials with the bugs.
        trials: u32,
        /// The folder of that comparison, below the run's folder.
        run: String,
    },
}

impl Control {
    /// If the trials miss a planted bug, the absence of a report is no evidence that there is no
    /// bug.
    pub fn weight(&self) -> Weight {
        match self {
            Self::Ran { missed, .. } if !missed.is_empty() => {
                Weight::Blind(format!("the control was not found: {}", missed.join(", ")))
            }
            _ => Weight::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Judgement, Verdict};

    #[test]
    fn who_misses_the_control_cannot_say_that_nothing_is_there() {
        let judged =
            |verdict| Judgement { verdict: Some(verdict), reason: "0 new".into(), ..Judgement::default() };
        let ran = |missed: &[&str]| Control::Ran {
            found: vec!["inversion".into()],
            missed: missed.iter().map(|name| (*name).to_owned()).collect(),
            trials: 1,
            run: "control/x".into(),
        };
        let weighed = |control: &Control, verdict| {
            let mut judgement = judged(verdict);
            judgement.weigh(control.weight());
            (judgement.verdict.unwrap(), judgement.reason)
        };
        let kept = |verdict| (verdict, "0 new".to_owned());
        assert_eq!(weighed(&ran(&[]), Verdict::Unchanged), kept(Verdict::Unchanged));
        assert_eq!(weighed(&ran(&["memtotal"]), Verdict::Regressed), kept(Verdict::Regressed));
        let none = Control::None { why: Unavailable::because("given as an image") };
        assert_eq!(weighed(&none, Verdict::Unchanged), kept(Verdict::Unchanged));
        for verdict in [Verdict::Unchanged, Verdict::Fixed] {
            let lost = (Verdict::Inconclusive, "the control was not found: memtotal".to_owned());
            assert_eq!(weighed(&ran(&["memtotal"]), verdict), lost);
        }
    }
}
