//! Runs the analyses of a comparison, which follow its trials and refine their verdict.

use super::control::ControlAnalysis;
use super::forecasts::ForecastAnalysis;
use crate::analysis::{
    Analysis, CoverageAnalysis, LatencyAnalysis, LockOrderAnalysis, OverlapAnalysis, Prepared, RaceAnalysis,
    ReachAnalysis,
};
use crate::compare::Judgement;
use crate::conclusion::{Conclusions, analyses};
use crate::environment::Env;
use crate::error::ErrorKind;
use crate::events::RunEvent;
use crate::spec::AnalysisRequest;
use crate::unavailable::Unavailable;
use crate::{Error, Result};

/// Whether an analysis with this request needs kernels, boots or trials of its own.
fn takes_time<A: Analysis>(request: AnalysisRequest, prepared: &Prepared) -> bool {
    !request.is_off() && A::takes_time(prepared)
}

/// Runs an analysis. Fails only on an interruption; any other failure is recorded as "not
/// available".
async fn run<A: Analysis>(
    request: AnalysisRequest,
    prepared: &Prepared,
    judgement: &mut Judgement,
    so_far: &Conclusions,
    env: &Env<'_>,
) -> Result<Option<A::Conclusion>> {
    let unavailable = |why: String| A::unavailable(prepared, Unavailable::because(why));
    let conclusion = match request {
        AnalysisRequest::Omitted => None,
        AnalysisRequest::Refused => unavailable(format!("--no-{}", A::NAME.replace(' ', "-"))),
        // Boxed: an analysis is a large future, and the caller would hold those of all analyses.
        AnalysisRequest::Usual | AnalysisRequest::Always => {
            match Box::pin(A::conclude(prepared, judgement, so_far, env)).await {
                Ok(conclusion) => conclusion,
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    cut_short(judgement, A::NAME, &error);
                    return Err(error);
                }
                Err(error) => unavailable(error.to_string()),
            }
        }
    };
    if takes_time::<A>(request, prepared)
        && let Some(conclusion) = &conclusion
    {
        env.events.event(&RunEvent::Concluded(conclusion));
    }
    Ok(conclusion)
}

macro_rules! run_each {
    ($($(#[$_doc:meta])* $name:ident: $analysis:ident => $_type:ty,)*) => {
        /// The names of the analyses that follow the trials and take time.
        pub(super) fn following(prepared: &Prepared) -> Vec<&'static str> {
            let asked = &prepared.analyses;
            [$(takes_time::<$analysis>(asked.$name, prepared).then_some($analysis::NAME),)*]
                .into_iter()
                .flatten()
                .collect()
        }

        /// Runs every requested analysis. Fails only on an interruption. The judgement then keeps
        /// no `unchanged` or `fixed` that a missing analysis could have revoked.
        pub(super) async fn refine(
            prepared: &Prepared,
            judgement: &mut Judgement,
            conclusions: &mut Conclusions,
            env: &Env<'_>,
        ) -> Result<()> {
            $(
                // The judged trials themselves may have concluded it.
                if conclusions.$name.is_none() {
                    let request = prepared.analyses.$name;
                    conclusions.$name = run::<$analysis>(request, prepared, judgement, conclusions, env).await?;
                }
            )*
            Ok(())
        }
    };
}
analyses!(run_each);

/// An unchanged or fixed verdict needs every analysis that could revoke it.
fn cut_short(judgement: &mut Judgement, name: &str, error: &Error) {
    judgement.without_silence(|_| format!("{error} before the {name} was known"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Verdict;

    #[test]
    fn an_interruption_takes_silence_away_and_leaves_what_was_seen() {
        let judged = |verdict| {
            let mut judgement =
                Judgement { verdict: Some(verdict), reason: "1 new".into(), ..Judgement::default() };
            cut_short(&mut judgement, ControlAnalysis::NAME, &Error::interrupted());
            (judgement.verdict.unwrap(), judgement.reason)
        };
        let cut = (Verdict::Inconclusive, "interrupted before the control was known".to_owned());
        assert_eq!(judged(Verdict::Unchanged), cut);
        assert_eq!(judged(Verdict::Fixed), cut);
        assert_eq!(judged(Verdict::Regressed), (Verdict::Regressed, "1 new".to_owned()));
    }
}
