//! Revocations that this instance has acknowledged.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use keys_core::{KeyId, RevocationReason};
use parking_lot::Mutex;

use super::lease::{Nanos, nanos};

/// Maximum age of a revocation that is applied again, when the old primary is lost, and maximum
/// time since that loss. Beyond it, the state of the new primary may be a later decision.
const REPLAYED_MAX: Duration = Duration::from_mins(1);

/// Maximum number of remembered revocations: 8,300 a second for two minutes. The oldest are dropped
/// first.
const REMEMBERED_MAX: usize = 1_000_000;

/// Recently acknowledged revocations.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first, with the reason. Notes are not kept.
    in_order: VecDeque<(Nanos, KeyId, Option<RevocationReason>)>,
    /// The same keys. A key is noted twice if its first revocation was lost.
    times: HashMap<KeyId, u32>,
}

impl Acknowledged {
    /// Remembers that a revocation is about to be acknowledged.
    pub(crate) fn note(&self, now: Nanos, id: KeyId, reason: Option<RevocationReason>) {
        let mut kept = self.0.lock();
        kept.forget_old(now);
        if kept.in_order.len() >= REMEMBERED_MAX {
            kept.forget_oldest();
        }
        kept.in_order.push_back((now, id, reason));
        *kept.times.entry(id).or_default() += 1;
    }

    /// Returns whether the revocation of this key is remembered.
    pub(crate) fn contains(&self, id: KeyId) -> bool {
        self.0.lock().times.contains_key(&id)
    }

    pub(crate) fn len(&self, now: Nanos) -> usize {
        let mut kept = self.0.lock();
        kept.forget_old(now);
        kept.in_order.len()
    }

    /// Returns the revocations to apply again now, after the loss of a server that was last reached
    /// at `heard_at`.
    pub(crate) fn to_replay(
        &self,
        heard_at: Nanos,
        now: Nanos,
    ) -> Vec<(KeyId, Option<RevocationReason>)> {
        if now.saturating_sub(heard_at) >= nanos(REPLAYED_MAX) {
            return Vec::new();
        }
        let since = heard_at.saturating_sub(nanos(REPLAYED_MAX));
        let kept = self.0.lock();
        kept.in_order
            .iter()
            .filter(|(at, ..)| *at >= since)
            .map(|(_, id, reason)| (*id, *reason))
            .collect()
    }
}

impl Kept {
    /// Forgets revocations older than both limits together, which are never applied again.
    fn forget_old(&mut self, now: Nanos) {
        let kept_for = nanos(2 * REPLAYED_MAX);
        while self
            .in_order
            .front()
            .is_some_and(|(at, ..)| now.saturating_sub(*at) > kept_for)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id, _)) = self.in_order.pop_front()
            && let Entry::Occupied(mut times) = self.times.entry(id)
        {
            *times.get_mut() -= 1;
            if *times.get() == 0 {
                times.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u128) -> KeyId {
        KeyId::from_uuid(uuid::Uuid::from_u128(number))
    }

    fn second(seconds: u64) -> Nanos {
        nanos(Duration::from_secs(seconds))
    }

    #[test]
    fn revocations_of_the_last_minute_before_the_loss_are_replayed() {
        let acknowledged = Acknowledged::default();
        for at in [100, 139, 140, 199, 200] {
            acknowledged.note(second(at), key(at.into()), None);
        }
        // The server was last reached at 200 s.
        let replayed = acknowledged.to_replay(second(200), second(205));
        assert_eq!(replayed, [140, 199, 200].map(|number| (key(number), None)));
        // Includes one that was acknowledged after the last poll.
        let reason = Some(RevocationReason::Leaked);
        acknowledged.note(second(201), key(201), reason);
        let replayed = acknowledged.to_replay(second(200), second(205));
        assert_eq!(
            (replayed.len(), replayed.last()),
            (4, Some(&(key(201), reason)))
        );
    }

    #[test]
    fn nothing_is_replayed_a_minute_after_the_loss() {
        let acknowledged = Acknowledged::default();
        acknowledged.note(second(199), key(1), None);
        assert_eq!(acknowledged.to_replay(second(200), second(259)).len(), 1);
        assert_eq!(acknowledged.to_replay(second(200), second(260)).len(), 0);
    }

    #[test]
    fn what_is_remembered_is_bounded_in_time_and_number() {
        let acknowledged = Acknowledged::default();
        acknowledged.note(second(1), key(1), None);
        assert_eq!(acknowledged.len(second(121)), 1);
        assert!(acknowledged.contains(key(1)));
        assert_eq!(acknowledged.len(second(122)), 0);
        assert!(!acknowledged.contains(key(1)));
        for number in 0..=REMEMBERED_MAX {
            acknowledged.note(second(122), key(number as u128), None);
        }
        assert_eq!(acknowledged.len(second(122)), REMEMBERED_MAX);
        let replayed = acknowledged.to_replay(second(122), second(122));
        assert_eq!(replayed.first(), Some(&(key(1), None)));
        assert!(acknowledged.contains(key(1)) && !acknowledged.contains(key(0)));
    }

    #[test]
    fn key_that_was_revoked_twice_is_remembered_from_the_second_time() {
        let acknowledged = Acknowledged::default();
        for at in [1, 60] {
            acknowledged.note(second(at), key(1), None);
        }
        assert_eq!(acknowledged.len(second(150)), 1);
        assert!(acknowledged.contains(key(1)));
        assert_eq!(acknowledged.len(second(181)), 0);
        assert!(!acknowledged.contains(key(1)));
    }
}
