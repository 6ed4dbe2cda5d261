//! What follows the trials of a comparison and refines their verdict: the control, further boots for the lock order, the
//! kernels that count, that trace and that are timed.
//!
//! The trials' own verdict is told first. What follows may take `unchanged` away from it, and is told as it comes.

use tokio_util::sync::CancellationToken;

use super::compare::{Asked, Planting};
use super::control::control;
use super::counted::coverage;
use super::lock_order::lock_order;
use super::overlapped::overlap;
use super::ready::{Audience, Ready};
use super::timed::{self, latency};
use crate::compare::{Control, Coverage, Judgement, Verdict};
use crate::kernel::Cache;
use crate::latency::Latency;
use crate::overlap::Overlap;
use crate::present::{self, stream, terminal};
use crate::record::{Beside, RunResult};
use crate::scenario::Racing;
use crate::{Error, Result};

/// One question that the judged trials do not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Control,
    LockOrder,
    Coverage,
    Overlap,
    Latency,
}

/// In the order in which they are asked: first what a verdict of `unchanged` stands on.
const PARTS: [Part; 5] = [Part::Control, Part::LockOrder, Part::Coverage, Part::Overlap, Part::Latency];

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::LockOrder => "lock order",
            Self::Coverage => "coverage",
            Self::Overlap => "overlap",
            Self::Latency => "latency",
        }
    }

    /// Whether it takes kernels, boots or trials of its own.
    fn takes_time(self, ready: &Ready) -> bool {
        let Asked { control, whole, count, trace, untraced, time, .. } = ready.asked;
        let (before, after) = (&ready.kernels.before, &ready.kernels.after);
        let built = before.record.is_some() && after.record.is_some();
        let scenario = &ready.setting.scenario;
        match self {
            Self::Control => control == Planting::Wanted && before.record.is_some(),
            Self::LockOrder => whole && before.image_hash != after.image_hash,
            Self::Coverage => whole && count && built && before.id != after.id,
            Self::Overlap => whole && !untraced && (trace || scenario.overlap.is_some()),
            Self::Latency => time && scenario.latency.is_some(),
        }
    }

    /// Asks. An error is an interruption, or our own disk's.
    async fn ask(
        self,
        ready: &mut Ready,
        judgement: &mut Judgement,
        beside: &mut Beside,
        cache: &Cache,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let Asked { control: planting, whole, count, trace, untraced, time, .. } = ready.asked;
        match self {
            Self::Control => {
                beside.control = match planting {
                    Planting::Unasked => None,
                    Planting::Refused => Some(Control::None { why: "--no-control".into() }),
                    // Boxed: a comparison within a comparison is a large future.
                    Planting::Wanted => Some(Box::pin(control(ready, cache, cancel)).await?),
                };
            }
            Self::LockOrder if whole => {
                beside.lock_order = Some(lock_order(ready, judgement, cache, cancel).await?);
            }
            Self::Coverage if whole => {
                let none = || Some(Coverage::none("--no-coverage"));
                beside.coverage = if count { coverage(ready, cache, cancel).await? } else { none() };
            }
            Self::Overlap if whole => {
                let usual = Racing::default();
                let wanted = ready.setting.scenario.overlap.as_ref().or(trace.then_some(&usual));
                beside.overlap = match wanted {
                    Some(_) if untraced => Some(Overlap::none("--no-overlap")),
                    Some(racing) => Some(overlap(ready, racing, cache, cancel).await?),
                    None => None,
                };
            }
            Self::Latency => {
                beside.latency = match &ready.setting.scenario.latency {
                    Some(timing) if time => Some(latency(ready, timing, judgement, cache, cancel).await?),
                    None if time && whole => Some(timed::unnamed(ready, judgement)),
                    _ if whole => Some(Latency::none("--no-latency")),
                    _ => None,
                };
            }
            Self::LockOrder | Self::Coverage | Self::Overlap => {}
        }
        Ok(())
    }

    /// What came of it, as the whole screen will have it.
    fn lines(self, beside: &Beside) -> Vec<String> {
        match self {
            Self::Control => beside.control.iter().map(terminal::control).collect(),
            Self::LockOrder => beside.lock_order.iter().flat_map(present::locks::short).collect(),
            Self::Coverage => beside.coverage.iter().flat_map(present::coverage::short).collect(),
            Self::Overlap => beside.overlap.iter().flat_map(present::overlap::short).collect(),
            Self::Latency => beside.latency.iter().flat_map(present::latency::short).collect(),
        }
    }
}

/// Tells what the trials themselves showed, and what is asked next.
pub(super) fn tell_first(ready: &Ready, result: &RunResult) {
    let following = PARTS.iter().filter(|part| part.takes_time(ready));
    let following: Vec<&str> = following.map(|part| part.name()).collect();
    if following.is_empty() {
        // The whole screen comes at once.
        return;
    }
    match ready.audience {
        Audience::Nobody => {}
        Audience::Terminal => {
            for line in terminal::first_verdict(result, &following) {
                anstream::eprintln!("{line}");
            }
        }
        Audience::Program => {
            if let Err(error) = stream::verdict(&mut std::io::stdout(), result, &following) {
                tracing::warn!(%error, "nobody reads the verdict");
            }
        }
    }
}

/// Asks everything that was asked for. An error is an interruption, or our own disk's, and leaves no silence in the judgement
/// that what was not asked could have taken away.
pub(super) async fn refine(
    ready: &mut Ready,
    judgement: &mut Judgement,
    beside: &mut Beside,
    cache: &Cache,
    cancel: &CancellationToken,
) -> Result<()> {
    for part in PARTS {
        let took_time = part.takes_time(ready);
        if let Err(error) = part.ask(ready, judgement, beside, cache, cancel).await {
            cut_short(judgement, part, &error);
            return Err(error);
        }
        if ready.audience == Audience::Terminal && took_time {
            for line in part.lines(beside) {
                anstream::eprintln!("{line}");
            }
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
