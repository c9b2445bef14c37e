//! The writer: begin, commit, apply to the own cache, wake the others, answer.

use crate::model::Coherence;
use crate::state::{
    Age, Entry, Instance, LastCommit, Progress, Request, State, Status, T, Transaction, Write,
};
use crate::variant::Variant;

impl Coherence {
    /// Row and change log become visible together.
    pub(crate) fn commit(&self, state: &mut State, id: usize) {
        let transaction = state.transactions[id].as_mut().expect("it is under way");
        let request = transaction.request.as_mut().expect("it is under way");
        transaction.committed = true;
        request.progress = Progress::Committed;
        if self.bounds.wait_global {
            request.committed = Age::NOW;
        }
        let key = transaction.key;
        // The condition is checked under the row's lock: a transaction that waited sees the result
        // of the other one.
        let before = state.rows[key].status;
        let after = request.write.effect_on(before).unwrap_or(before);
        if state.log.identity == 0 && self.bounds.moves.iter().any(|how| how.loses()) {
            let before = state.rows[key];
            state.last_commit = Some(LastCommit { id, before });
        }
        if after != before {
            state.rows[key].status = after;
            state.rows[key].acknowledged = None;
            for instance in &mut state.instances {
                instance.acknowledged[key] = false;
                for verification in instance.slots.iter_mut().flatten() {
                    // It overlaps this change, so both the old and the new status are right.
                    verification.bound &= verification.key != key;
                }
            }
        }
    }

    /// Applies the change to the cache of the instance that made it.
    pub(crate) fn apply(&self, state: &mut State, id: usize) {
        let transaction = state.transactions[id].as_mut().expect("it is under way");
        let request = transaction.request.as_mut().expect("it is under way");
        let instance = &mut state.instances[request.instance];
        if request.write == Write::Revoke && self.variant != Variant::DeleteWithoutGuard {
            instance.cache[transaction.key] = Entry::Tombstone;
            instance.bump_generation(self.variant.guards_copies());
        } else {
            self.forget(instance, transaction.key);
        }
        if request.progress == Progress::AnsweredUnapplied {
            transaction.request = None;
        } else {
            request.progress = Progress::Applied;
        }
    }

    /// Returns whether the answer may be sent: with `wait=global` when every instance has reported
    /// a cursor past the transaction, or when every lease and every grace from before the commit
    /// has ended.
    pub(crate) fn may_answer(&self, state: &State, id: usize, request: Request) -> bool {
        let in_order = match request.progress {
            Progress::Applied => true,
            Progress::Committed => self.variant == Variant::AnswerBeforeApply,
            Progress::Open | Progress::AnsweredUnapplied => false,
        };
        let limit = if self.variant == Variant::GlobalWaitIgnoresGrace {
            T
        } else {
            self.longest_trust()
        };
        in_order
            && (!self.bounds.wait_global
                || !request.committed.is_under(limit)
                || self.is_seen_everywhere(state, id))
    }

    /// Returns whether every instance has reported a cursor past the transaction. A cursor of
    /// another log does not count.
    fn is_seen_everywhere(&self, state: &State, id: usize) -> bool {
        let transaction = state.transactions[id].expect("it is under way");
        let mut cursors = state.instances.iter().map(|instance| instance.cursor);
        cursors.all(|cursor| {
            cursor.is_some_and(|cursor| {
                cursor.position > transaction.position
                    && (cursor.log == transaction.log || !self.variant.knows_logs())
            })
        })
    }

    /// Sends the `NOTIFY`: only current listeners receive it.
    pub(crate) fn announce(&self, state: &mut State, id: usize) {
        state.transactions[id]
            .as_mut()
            .expect("it is committed")
            .announced = true;
        for instance in &mut state.instances {
            instance.wake |= self.hears(instance);
        }
    }

    /// Removes the entry of a key. A tombstone stays, because no change restores a revoked key.
    pub(crate) fn forget(&self, instance: &mut Instance, key: usize) {
        let kept = match instance.cache[key] {
            Entry::Tombstone => true,
            Entry::Record(record) => {
                self.variant == Variant::UnknownForEver && record.status == Status::Absent
            }
            Entry::Absent => false,
        };
        if !kept {
            instance.cache[key] = Entry::Absent;
        }
        instance.bump_generation(self.variant.guards_copies());
    }
}

impl State {
    /// The transaction takes its id. Its change is not visible yet.
    pub(crate) fn begin(&mut self, at: usize, key: usize, write: Write) {
        let (log, position) = (self.log.identity, self.log.next);
        self.log.next += 1;
        let place = self
            .transactions
            .iter_mut()
            .find(|transaction| transaction.is_none())
            .expect("actions keep to the bounds");
        *place = Some(Transaction {
            key,
            log,
            position,
            lost: false,
            committed: false,
            announced: false,
            request: Some(Request {
                instance: at,
                write,
                progress: Progress::Open,
                committed: Age::LONG_AGO,
            }),
        });
    }

    pub(crate) fn answer(&mut self, id: usize) {
        let transaction = self.transactions[id].as_mut().expect("it is under way");
        let request = transaction.request.as_mut().expect("it is under way");
        let row = &mut self.rows[transaction.key];
        if request.write.outcome() == Some(row.status) {
            row.acknowledged.get_or_insert(Age::NOW);
            self.instances[request.instance].acknowledged[transaction.key] = true;
        }
        if request.progress == Progress::Committed {
            request.progress = Progress::AnsweredUnapplied;
        } else {
            transaction.request = None;
        }
    }
}
