//! The control and the analyses of a comparison, which follow its trials and refine their verdict.

use super::control::control;
use crate::analysis::{Prepared, coverage, latency, lock_order, overlap};
use crate::compare::{Control, Coverage, Judgement, Verdict};
use crate::environment::Env;
use crate::events::{Event, Part};
use crate::latency::Latency;
use crate::overlap::Overlap;
use crate::record::Beside;
use crate::scenario::Racing;
use crate::spec::Request;
use crate::{Error, Result};

/// In the order in which they run: first those that a verdict of `unchanged` depends on.
const PARTS: [Part; 5] = [Part::Control, Part::LockOrder, Part::Coverage, Part::Overlap, Part::Latency];

/// Whether a part takes kernels, boots or trials of its own.
fn takes_time(part: Part, prepared: &Prepared) -> bool {
    let asked = &prepared.analyses;
    let (before, after) = (&prepared.kernels.before, &prepared.kernels.after);
    let is_built = before.record.is_some() && after.record.is_some();
    let scenario = &prepared.setting.scenario;
    match part {
        Part::Control => !asked.control.is_off() && before.record.is_some(),
        Part::LockOrder => !asked.lock_order.is_off() && before.image_hash != after.image_hash,
        Part::Coverage => !asked.coverage.is_off() && is_built && before.id != after.id,
        Part::Overlap => {
            asked.overlap == Request::Always || asked.overlap == Request::Usual && scenario.overlap.is_some()
        }
        Part::Latency => !asked.latency.is_off() && scenario.latency.is_some(),
    }
}

/// Runs a part. An error is an interruption, or the disk's.
async fn run_part(
    part: Part,
    prepared: &mut Prepared,
    judgement: &mut Judgement,
    beside: &mut Beside,
    env: &Env<'_>,
) -> Result<()> {
    let asked = prepared.analyses.clone();
    match part {
        Part::Control => {
            beside.control = match asked.control {
                Request::Omitted => None,
                Request::Refused => Some(Control::None { why: "--no-control".into() }),
                // Boxed: a comparison within a comparison is a large future.
                Request::Usual | Request::Always => Some(Box::pin(control(prepared, env)).await?),
            };
        }
        Part::LockOrder => {
            if !asked.lock_order.is_off() {
                beside.lock_order = Some(lock_order::lock_order(prepared, judgement, env).await?);
            }
        }
        Part::Coverage => {
            beside.coverage = match asked.coverage {
                Request::Omitted => None,
                Request::Refused => Some(Coverage::none("--no-coverage")),
                Request::Usual | Request::Always => coverage::coverage(prepared, env).await?,
            };
        }
        Part::Overlap => {
            let usual = Racing::default();
            let wanted = prepared.setting.scenario.overlap.as_ref();
            beside.overlap = match (asked.overlap, wanted) {
                (Request::Omitted, _) | (Request::Usual | Request::Refused, None) => None,
                (Request::Refused, Some(_)) => Some(Overlap::none("--no-overlap")),
                (Request::Usual | Request::Always, racing) => {
                    Some(overlap::overlap(prepared, racing.unwrap_or(&usual), env).await?)
                }
            };
        }
        Part::Latency => {
            beside.latency = match (asked.latency, &prepared.setting.scenario.latency) {
                (Request::Omitted, _) => None,
                (Request::Refused, _) => Some(Latency::none("--no-latency")),
                (Request::Usual | Request::Always, None) => Some(latency::unnamed(prepared, judgement)),
                (Request::Usual | Request::Always, Some(timing)) => {
                    Some(latency::latency(prepared, timing, judgement, env).await?)
                }
            };
        }
    }
    Ok(())
}

/// The names of the parts that follow the trials and take time.
pub(super) fn following(prepared: &Prepared) -> Vec<&'static str> {
    PARTS.iter().filter(|part| takes_time(**part, prepared)).map(|part| part.name()).collect()
}

/// Runs the control and every analysis that was asked for. An error is an interruption, or the disk's. It leaves no
/// `unchanged` or `fixed` in the judgement that a part which did not run could have taken away.
pub(super) async fn refine(
    prepared: &mut Prepared,
    judgement: &mut Judgement,
    beside: &mut Beside,
    env: &Env<'_>,
) -> Result<()> {
    for part in PARTS {
        let took_time = takes_time(part, prepared);
        if let Err(error) = run_part(part, prepared, judgement, beside, env).await {
            cut_short(judgement, part, &error);
            return Err(error);
        }
        if took_time {
            env.events.event(&Event::Concluded { part, beside });
        }
    }
    Ok(())
}

/// Silence stands on what follows the trials: without it there is none.
fn cut_short(judgement: &mut Judgement, part: Part, error: &Error) {
    if matches!(judgement.verdict, Some(Verdict::Unchanged | Verdict::Fixed)) {
        judgement.verdict = Some(Verdict::Inconclusive);
        judgement.reason = format!("{error} before the {} was known", part.name());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_takes_silence_away_and_leaves_what_was_seen() {
        let judged = |verdict| {
            let mut judgement =
                Judgement { verdict: Some(verdict), reason: "1 new".into(), ..Judgement::default() };
            cut_short(&mut judgement, Part::Control, &Error::interrupted());
            (judgement.verdict.unwrap(), judgement.reason)
        };
        let cut = (Verdict::Inconclusive, "interrupted before the control was known".to_owned());
        assert_eq!(judged(Verdict::Unchanged), cut);
        assert_eq!(judged(Verdict::Fixed), cut);
        assert_eq!(judged(Verdict::Regressed), (Verdict::Regressed, "1 new".to_owned()));
    }
}
