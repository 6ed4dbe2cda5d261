//! Delays: a vCPU that comes to a place is held there for a fixed time.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Arrival, Holder, Spot, Woke, micros};
use crate::rendezvous::{Hold, HoldOutcome};
use crate::scenario::{Delay, Point};
use crate::vmm::gdb::{GdbError, Vcpu};

/// The most holds of one trial. Each is in the trial's record, and each stops the machine several
/// times.
const MOST: usize = 500;

/// A vCPU that is held.
struct Late {
    who: Arrival,
    left: Duration,
    whole: Duration,
    place: usize,
    hold: Hold,
}

impl<'a> Holder<'a> {
    /// Runs all delays, at the same time.
    pub(super) async fn delay(&mut self, plans: &'a [Delay]) -> Result<(), GdbError> {
        let mut spots: Vec<Spot<'a>> = Vec::new();
        let mut visits: Vec<u32> = Vec::new();
        for plan in plans {
            if !spots.iter().any(|spot| spot.point == &plan.at) {
                spots.push(self.spot(&plan.at).await?);
                visits.push(0);
            }
        }
        let mut late: VecDeque<Late> = VecDeque::new();
        let mut done = 0;
        // The last visit of a place that is delayed. After the last one of every place, no vCPU is
        // stopped again.
        let most = |at: &Point| {
            plans.iter().filter(|plan| plan.at == *at).map(|plan| plan.visit.unwrap_or(u32::MAX)).max()
        };
        loop {
            let passed = spots.iter().zip(&visits).all(|(spot, visit)| most(spot.point) <= Some(*visit));
            if late.is_empty() && (passed || done >= MOST) {
                break;
            }
            let standing: Vec<Vcpu> = late.iter().map(|one| one.who.vcpu).collect();
            let nobody_left = self.others(&standing).await?.is_empty();
            let mut left = late.iter().map(|one| one.left).min();
            let before = left;
            let woke = if nobody_left { Woke::Time } else { self.run(&standing, &mut left).await? };
            let ran = before.zip(left).map(|(before, left)| before.saturating_sub(left)).unwrap_or_default();
            for one in &mut late {
                one.left = one.left.saturating_sub(ran);
            }
            match woke {
                Woke::Trapped(vcpu) => {
                    let mut arrived = None;
                    for (spot, visit) in spots.iter_mut().zip(&mut visits) {
                        if let Some(arrival) = self.look(spot, vcpu).await? {
                            *visit += 1;
                            arrived = Some((spot.point, *visit, arrival));
                            break;
                        }
                    }
                    let plan = arrived.as_ref().and_then(|(point, visit, _)| {
                        plans
                            .iter()
                            .find(|plan| plan.at == **point && plan.visit.is_none_or(|one| one == *visit))
                    });
                    let known = late.iter().any(|one| one.who.vcpu == vcpu);
                    match (plan, arrived) {
                        (Some(plan), Some((_, _, who))) if !known && done < MOST => {
                            done += 1;
                            let mut hold = Hold::of(&plan.at, None);
                            let place = self.begin(&mut hold, &who);
                            let whole = Duration::from_micros(plan.us.into());
                            late.push_back(Late { who, left: whole, whole, place, hold });
                        }
                        _ => self.gdb.step(vcpu).await?,
                    }
                }
                Woke::Time | Woke::Over => {
                    let over = matches!(woke, Woke::Over);
                    let soonest = late.iter().map(|one| one.left).min();
                    let ends =
                        |one: &Late| over || Some(one.left) == soonest && (one.left.is_zero() || nobody_left);
                    while let Some(at) = late.iter().position(ends) {
                        let Some(mut one) = late.remove(at) else { break };
                        one.hold.held_us = micros(one.whole.saturating_sub(one.left));
                        one.hold.outcome =
                            if one.left.is_zero() { HoldOutcome::Delayed } else { HoldOutcome::CutOff };
                        if nobody_left {
                            one.hold.outcome = HoldOutcome::BlockedAll;
                        }
                        self.end(one.place, &one.hold);
                        self.gdb.step(one.who.vcpu).await?;
                    }
                    if over {
                        break;
                    }
                }
            }
        }
        for spot in spots {
            self.close(spot).await?;
        }
        Ok(())
    }
}
