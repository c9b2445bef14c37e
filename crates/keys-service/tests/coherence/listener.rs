//! The listener: connect, listen, poll the change log, apply it, extend the lease.

use crate::model::Coherence;
use crate::state::{
    Age, Cursor, Entry, FIRST_POSITION, Instance, Listener, Poll, State, TRANSACTIONS_MAX,
};
use crate::variant::Variant;

impl Coherence {
    /// Returns whether a poll may begin. If wake-ups are modelled it needs a reason: `LISTEN` or a
    /// wake-up before it. (The timer polls as well; this checks the behavior without it.)
    pub(crate) fn may_poll(&self, instance: &Instance) -> bool {
        instance.poll.is_none()
            && (!self.bounds.wakeups
                || match instance.listener {
                    Listener::Down => self.variant == Variant::PollBeforeListen,
                    Listener::Listening => self.variant != Variant::PollBeforeListen,
                    Listener::Live => instance.wake,
                })
    }

    /// Takes the time and, at once, the snapshot. With a later snapshot, the lease would only be
    /// shorter than possible.
    pub(crate) fn poll(&self, state: &mut State, at: usize) {
        let next = if self.variant == Variant::SequenceCursor {
            state.highest_committed(at)
        } else {
            state.oldest_open()
        };
        let instance = &mut state.instances[at];
        let from = instance.cursor.unwrap_or(next);
        let mut changes = [false; TRANSACTIONS_MAX];
        for (id, change) in changes.iter_mut().enumerate().skip(state.pruned) {
            *change = state.transactions[id].is_some_and(|transaction| {
                transaction.committed && !transaction.lost && transaction.position >= from.position
            });
        }
        let first = instance.cursor.is_none() && self.variant != Variant::FirstPollKeepsCache;
        let of_another_log = from.log != state.log.identity && self.variant.knows_logs();
        let pruned_past = state.pruned > 0 && from.position < FIRST_POSITION + state.pruned;
        instance.wake = false;
        instance.poll = Some(Poll {
            begun: Age::NOW,
            changes,
            next,
            flush: first || of_another_log || pruned_past,
        });
    }

    /// Applies every change, and only then moves the cursor and the lease.
    pub(crate) fn apply_poll(&self, state: &mut State, at: usize) {
        let instance = &mut state.instances[at];
        let poll = instance.poll.take().expect("a poll is under way");
        if poll.flush {
            for entry in &mut instance.cache {
                // A key that is known to be revoked stays so, whatever the database says from now
                // on.
                if *entry != Entry::Tombstone || self.variant == Variant::ResetForgetsRevoked {
                    *entry = Entry::Absent;
                }
            }
            instance.bump_generation(self.variant.guards_copies());
        }
        for (id, _) in poll
            .changes
            .iter()
            .enumerate()
            .filter(|(_, change)| **change)
        {
            let key = state.transactions[id].expect("it was returned").key;
            self.forget(instance, key);
        }
        instance.cursor = Some(poll.next);
        let begun = if self.variant == Variant::LeaseFromPollReturn {
            Age::NOW
        } else {
            poll.begun
        };
        instance.synced = instance.synced.min(begun);
        if self.bounds.wakeups {
            for (id, applied) in instance.applied.iter_mut().enumerate() {
                *applied |= poll.changes[id] || FIRST_POSITION + id < poll.next.position;
            }
            instance.listener = match (self.variant, instance.listener) {
                (Variant::PollBeforeListen, Listener::Down) => Listener::Listening,
                _ => Listener::Live,
            };
        }
    }

    /// The connection is up, or, after [`Variant::PollBeforeListen`], the rest of that step.
    pub(crate) fn listen(&self, instance: &mut Instance) {
        instance.listener = match self.variant {
            Variant::PollBeforeListen => Listener::Live,
            _ => Listener::Listening,
        };
    }

    pub(crate) fn may_listen(&self, instance: &Instance) -> bool {
        let before = match self.variant {
            Variant::PollBeforeListen => Listener::Listening,
            _ => Listener::Down,
        };
        instance.listener == before
    }

    /// Returns whether a notification sent now is received.
    pub(crate) fn hears(&self, instance: &Instance) -> bool {
        match self.variant {
            Variant::PollBeforeListen => instance.listener == Listener::Live,
            _ => instance.listener != Listener::Down,
        }
    }
}

impl State {
    /// Returns the position after the highest transaction that has committed, for
    /// [`Variant::SequenceCursor`].
    fn highest_committed(&self, at: usize) -> Cursor {
        let committed = self.transactions.iter().flatten();
        let committed = committed.filter(|transaction| transaction.committed);
        let highest = committed.map(|transaction| transaction.position + 1).max();
        let before = self.instances[at].cursor.map(|cursor| cursor.position);
        Cursor {
            log: self.log.identity,
            position: highest.max(before).unwrap_or(FIRST_POSITION),
        }
    }
}

impl Instance {
    /// Loses the connection, with everything under way on it.
    pub(crate) fn lose_connection(&mut self) {
        self.listener = Listener::Down;
        self.poll = None;
        self.wake = false;
    }
}
