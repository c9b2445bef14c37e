//! The limit of a plan and the key's own limit of the same name, judged together.

use std::num::NonZeroU32;

use keys_core::{KeyId, LimitName, Quota};

use crate::ports::{Bucket, Decision, LimiterError, Subject};
use crate::service::KeyService;

impl KeyService {
    /// Takes from the bucket of the plan's limit, and then from that of the key's own limit, as far
    /// as they exist. Returns the stricter decision: the refusal, or else the one with less left.
    /// `None` if neither exists.
    ///
    /// A request that one limit refuses takes nothing from the other. For the limit of the plan
    /// that holds only with a limiter that can [give back](crate::ports::RateLimiter::give_back).
    pub(crate) async fn take(
        &self,
        limit: &LimitName,
        of_plan: Option<(Subject, Quota)>,
        of_key: Option<(KeyId, Quota)>,
        cost: NonZeroU32,
    ) -> Result<Option<Decision>, LimiterError> {
        let limiter = &*self.inner.limiter;
        let bucket = |subject| Bucket {
            subject,
            limit: limit.clone(),
        };
        let mut taken = None;
        if let Some((subject, quota)) = of_plan {
            let bucket = bucket(subject);
            let decision = limiter.take(&bucket, quota, cost).await?;
            if !decision.allowed || of_key.is_none() {
                return Ok(Some(decision));
            }
            taken = Some((bucket, decision));
        }
        let Some((key_id, quota)) = of_key else {
            return Ok(None);
        };
        let own_bucket = bucket(Subject::OwnLimit(key_id));
        let own = limiter.take(&own_bucket, quota, cost).await;
        let Some((bucket, decision)) = taken else {
            return own.map(Some);
        };
        if !own.as_ref().is_ok_and(|own| own.allowed) {
            limiter.give_back(&bucket, decision.quota, cost).await;
        }
        own.map(|own| Some(stricter(decision, own)))
    }
}

/// Returns the stricter of the decision of a plan's limit, which allowed the request, and that of
/// the key's own limit.
fn stricter(of_plan: Decision, own: Decision) -> Decision {
    let rest = |decision: &Decision| (decision.remaining, std::cmp::Reverse(decision.reset));
    if own.allowed && rest(&of_plan) < rest(&own) {
        of_plan
    } else {
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn stricter_decision_is_the_refusal_or_the_one_with_less_left() {
        let decision = |requests, remaining, reset| {
            let quota = Quota::per_minute(requests).unwrap();
            let mut decision = Decision::allowed("calls".parse().unwrap(), quota);
            decision.remaining = remaining;
            decision.reset = Duration::from_secs(reset);
            decision
        };
        let of_plan = decision(100, 3, 10);
        for (own, is_own) in [
            (decision(10, 2, 1), true),
            (decision(10, 4, 60), false),
            (decision(10, 3, 11), true),
            (decision(10, 3, 9), false),
        ] {
            let quota = if is_own { own.quota } else { of_plan.quota };
            assert_eq!(stricter(of_plan.clone(), own).quota, quota);
        }
        let mut refused = decision(10, 9, 1);
        refused.allowed = false;
        assert!(!stricter(of_plan, refused).allowed);
    }
}
