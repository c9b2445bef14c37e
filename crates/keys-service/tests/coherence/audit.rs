//! The invariants that each verdict is checked against.

use crate::model::{Coherence, Look};
use crate::state::{Broken, Listener, Phase, State, Status, T, Verification};

/// The result of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted {
        identity: usize,
        /// Whether it was within the grace, and marked as such.
        stale: bool,
    },
    Refused(Status),
    /// 503: says nothing about the key.
    Unavailable,
}

/// Error of a verification that does not end.
struct Endless;

impl Coherence {
    /// Gives the verdict and checks it against I1 to I5.
    pub(crate) fn pronounce(
        &self,
        state: &mut State,
        at: usize,
        verification: Verification,
        verdict: Verdict,
    ) -> Verdict {
        let row = state.rows[verification.key];
        let acknowledged_for = |ticks: u8| row.acknowledged.is_some_and(|age| !age.is_under(ticks));
        let broken = match verdict {
            Verdict::Accepted { identity, .. } if identity != verification.key => Some(Broken::I5),
            Verdict::Accepted { .. } if verification.after_revoked => Some(Broken::I3),
            Verdict::Accepted { stale, .. } if row.status != Status::Active => {
                let limit = if stale { self.longest_trust() } else { T };
                if verification.bound && state.instances[at].acknowledged[verification.key] {
                    Some(Broken::I1)
                } else if verification.bound {
                    Some(Broken::Global)
                } else if acknowledged_for(limit) {
                    Some(Broken::I2)
                } else {
                    None
                }
            }
            Verdict::Refused(Status::Revoked) => {
                state.instances[at].said_revoked[verification.key] = true;
                // Nothing reverses this, so a false "revoked" would refuse a key for ever.
                (row.status != Status::Revoked && !row.revocation_lost).then_some(Broken::I6)
            }
            Verdict::Refused(_) if row.status == Status::Active => {
                (verification.bound || acknowledged_for(T)).then_some(Broken::I4)
            }
            Verdict::Accepted { .. } | Verdict::Refused(_) | Verdict::Unavailable => None,
        };
        state.broken = state.broken.or(broken);
        verdict
    }

    /// I6 as a bounded promise: from here, once the database answers and writers are quiet,
    /// everything under way at an instance ends, and a valid key is accepted there within T.
    ///
    /// Stateright's own `eventually` has no fairness (time may pass for ever while a read never
    /// returns), and misses counterexamples in graphs that join. So this is checked in every state
    /// instead.
    pub(crate) fn accepts_in_the_end(&self, state: &State) -> bool {
        let valid = (0..self.bounds.rows.len())
            .filter(|&key| {
                let row = state.rows[key];
                row.status == Status::Active && !row.revocation_lost
            })
            .collect::<Vec<_>>();
        valid.is_empty()
            || (0..self.bounds.instances).all(|at| {
                let mut quiet = state.clone();
                quiet.broken = None;
                let ends = (0..quiet.instances[at].slots.len())
                    .all(|slot| self.run_alone(&mut quiet, at, slot).is_ok());
                ends && valid.iter().all(|&key| {
                    let mut quiet = quiet.clone();
                    (0..=T).any(|_| {
                        let accepted = self.verify_alone(&mut quiet, at, key);
                        quiet.tick(self.longest_trust());
                        accepted
                    })
                })
            })
    }

    fn verify_alone(&self, state: &mut State, at: usize, key: usize) -> bool {
        let verdict = self
            .verify(state, at, 0, key, Look::InCache)
            .or_else(|| self.run_alone(state, at, 0).ok().flatten());
        matches!(verdict, Some(Verdict::Accepted { stale: false, .. }))
    }

    /// Runs the verification in a slot to its end, with no other step between and no error. Returns
    /// its verdict, if it gives one.
    fn run_alone(
        &self,
        state: &mut State,
        at: usize,
        slot: usize,
    ) -> Result<Option<Verdict>, Endless> {
        // Leading: overtaken as often as allowed, delivered, out of lease once, read again, judged.
        const STEPS_MAX: u8 = 8;
        let mut verdict = None;
        for _ in 0..STEPS_MAX {
            let Some(verification) = state.instances[at].slots[slot] else {
                return Ok(verdict);
            };
            match verification.phase {
                Phase::Waiting { .. } => {
                    self.deliver(state, at, 1 - slot);
                }
                Phase::Loading(_) => verdict = self.deliver(state, at, slot),
                Phase::Working { .. } => verdict = self.judge(state, at, slot),
            }
        }
        Err(Endless)
    }
}

impl State {
    /// A wake-up that was sent is not lost between `LISTEN` and the first poll, nor during a poll:
    /// an idle instance with a live connection has applied every change that was announced.
    pub(crate) fn hears_every_announcement(&self) -> bool {
        self.instances.iter().all(|instance| {
            instance.listener != Listener::Live
                || instance.wake
                || instance.poll.is_some()
                || self
                    .transactions
                    .iter()
                    .zip(instance.applied)
                    .all(|(transaction, applied)| {
                        applied || transaction.is_none_or(|transaction| !transaction.announced)
                    })
        })
    }
}
