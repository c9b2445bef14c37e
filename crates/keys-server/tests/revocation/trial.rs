//! Observations of one revoked key, and their evaluation.

use std::time::Duration;

use crate::Times;

/// Verdict of a server on a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    Refused,
    /// The server answered 503.
    Unavailable,
}

/// One verification.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Just before the request was written.
    pub(crate) sent: Duration,
    /// Just after the whole answer was read.
    pub(crate) answered: Duration,
    pub(crate) verdict: Verdict,
}

/// One key, verified on every server before, while and after it was revoked on one of them.
#[derive(Debug)]
pub(crate) struct Trial {
    /// The server that revoked it.
    pub(crate) revoked_on: usize,
    pub(crate) sent: Duration,
    pub(crate) answered: Duration,
    /// For each server, in order.
    pub(crate) samples: Vec<Vec<Sample>>,
}

/// Sums over all trials.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) revokes: usize,
    pub(crate) verifications: usize,
    /// Acceptances while the revocation had not been answered.
    pub(crate) accepted_before: usize,
    /// Acceptances of requests sent after the answer, which other servers may give for a while.
    pub(crate) accepted_after: usize,
    pub(crate) refused: usize,
    pub(crate) unavailable: usize,
    /// Observations that broke the promise.
    pub(crate) broken: Vec<String>,
    /// From the answer to the send time of the last request that another server accepted. Zero if
    /// there was none.
    pub(crate) lateness: Times,
    /// The same to the answer of that request. The server decided in between.
    pub(crate) lateness_answered: Times,
    /// Duration of each revocation.
    pub(crate) took: Times,
    /// Interval between requests about a key to the same server, just after its revocation. It
    /// bounds the precision of all measurements.
    pub(crate) resolution: Times,
}

impl Trial {
    /// Returns violations of the promise: acceptances of requests that were sent when no server may
    /// accept any more. `elsewhere` is the time after the answer in which the other servers may.
    fn broken(&self, elsewhere: Duration) -> Vec<String> {
        let mut broken = Vec::new();
        for (server, samples) in self.samples.iter().enumerate() {
            let bound = if server == self.revoked_on {
                self.answered
            } else {
                self.answered + elsewhere
            };
            let mut refused = None;
            for sample in samples {
                match sample.verdict {
                    Verdict::Accepted if sample.sent >= bound => broken.push(format!(
                        "server {server} accepted {:?} after the bound; server {} revoked",
                        sample.sent.saturating_sub(bound),
                        self.revoked_on
                    )),
                    // A server that has once refused never accepts again.
                    Verdict::Accepted if refused.is_some_and(|at| sample.sent >= at) => {
                        broken.push(format!("server {server} accepted after it had refused"));
                    }
                    Verdict::Refused => {
                        refused.get_or_insert(sample.answered);
                    }
                    Verdict::Accepted | Verdict::Unavailable => {}
                }
            }
        }
        broken
    }

    /// Returns whether the trial could have failed: each server must have accepted the key before,
    /// and have been asked after the bound.
    fn is_telling(&self, elsewhere: Duration) -> bool {
        self.samples.iter().all(|samples| {
            let accepted = |one: &Sample| one.verdict == Verdict::Accepted;
            let was_known = samples
                .iter()
                .any(|one| accepted(one) && one.answered <= self.sent);
            let is_asked = samples
                .iter()
                .any(|one| one.sent >= self.answered + elsewhere);
            was_known && is_asked
        })
    }

    /// Returns the time from the answer to this moment of the last request that another server
    /// accepted.
    fn lateness(&self, moment: impl Fn(&Sample) -> Duration) -> Duration {
        let elsewhere = self.samples.iter().enumerate();
        elsewhere
            .filter(|(server, _)| *server != self.revoked_on)
            .flat_map(|(_, samples)| samples)
            .filter(|one| one.verdict == Verdict::Accepted)
            .map(|one| moment(one).saturating_sub(self.answered))
            .max()
            .unwrap_or_default()
    }
}

impl Tally {
    /// Adds a trial. The other servers may accept for `elsewhere` after the answer.
    pub(crate) fn add(&mut self, trial: &Trial, elsewhere: Duration) {
        const CLOSELY: Duration = Duration::from_millis(50);
        assert!(trial.is_telling(elsewhere), "{trial:#?}");
        self.revokes += 1;
        self.took.0.push(trial.answered.saturating_sub(trial.sent));
        self.lateness.0.push(trial.lateness(|one| one.sent));
        let answered = trial.lateness(|one| one.answered);
        self.lateness_answered.0.push(answered);
        self.broken.extend(trial.broken(elsewhere));
        for samples in &trial.samples {
            self.verifications += samples.len();
            for sample in samples {
                *match sample.verdict {
                    Verdict::Accepted if sample.sent < trial.answered => &mut self.accepted_before,
                    Verdict::Accepted => &mut self.accepted_after,
                    Verdict::Refused => &mut self.refused,
                    Verdict::Unavailable => &mut self.unavailable,
                } += 1;
            }
            let soon = samples.windows(2).filter(|two| {
                two[0].sent >= trial.answered && two[1].sent < trial.answered + CLOSELY
            });
            let steps = soon.map(|two| two[1].sent.saturating_sub(two[0].sent));
            self.resolution.0.extend(steps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BOUND, millis};

    /// Returns a trial with a revocation on the first server at 1,000 ms, and these verdicts at
    /// these times, each within a millisecond.
    fn trial(samples: [&[(u64, Verdict)]; 2]) -> Trial {
        let samples = samples.map(|samples| {
            let samples = samples.iter().map(|(at, verdict)| Sample {
                sent: millis(*at),
                answered: millis(*at + 1),
                verdict: *verdict,
            });
            samples.collect()
        });
        Trial {
            revoked_on: 0,
            sent: millis(990),
            answered: millis(1_000),
            samples: samples.into(),
        }
    }

    use Verdict::{Accepted, Refused, Unavailable};

    const REFUSES: &[(u64, Verdict)] = &[(900, Accepted), (1_000, Refused), (3_001, Refused)];

    #[test]
    fn kept_promise_is_no_offence() {
        let late = &[(900, Accepted), (2_999, Accepted), (3_000, Refused)];
        let kept = trial([REFUSES, late]);
        assert!(kept.is_telling(BOUND));
        assert!(kept.broken(BOUND).is_empty());
        assert_eq!(kept.lateness(|one| one.sent), millis(1_999));
        assert_eq!(kept.lateness(|one| one.answered), millis(2_000));
        let mut tally = Tally::default();
        tally.add(&kept, BOUND);
        let counts = (tally.accepted_before, tally.accepted_after, tally.refused);
        assert_eq!((tally.verifications, counts), (6, (2, 1, 3)));
    }

    #[test]
    fn acceptance_after_the_bound_is_seen() {
        // On the server that answered, from the exact moment of the answer; on the others, a bound
        // later.
        let here = trial([&[(900, Accepted), (1_000, Accepted)], REFUSES]);
        assert_eq!(here.broken(BOUND).len(), 1);
        let elsewhere = trial([REFUSES, &[(900, Accepted), (3_000, Accepted)]]);
        assert_eq!(elsewhere.broken(BOUND).len(), 1);
        assert_eq!(elsewhere.broken(BOUND * 2).len(), 0);
        // With `wait=global`, the other servers have no extra time.
        let waited = trial([REFUSES, &[(900, Accepted), (1_000, Accepted)]]);
        assert_eq!(waited.broken(Duration::ZERO).len(), 1);
    }

    #[test]
    fn acceptance_after_a_refusal_is_seen_within_the_bound_too() {
        let again = [(900, Accepted), (1_500, Refused), (1_600, Accepted)];
        assert_eq!(trial([REFUSES, &again]).broken(BOUND).len(), 1);
    }

    #[test]
    fn trial_that_could_not_fail_is_no_proof() {
        let never_accepted = &[(900, Unavailable), (3_001, Refused)];
        assert!(!trial([REFUSES, never_accepted]).is_telling(BOUND));
        let not_asked_after = &[(900, Accepted), (2_900, Refused)];
        assert!(!trial([REFUSES, not_asked_after]).is_telling(BOUND));
    }
}
