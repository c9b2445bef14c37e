//! Events that must occur, so that the invariants do not hold trivially.

use stateright::Property;

use crate::model::Coherence;
use crate::state::{
    Age, Entry, FIRST_POSITION, Instance, Phase, Record, State, Status, T, Verification,
};

/// An event that occurs in at least one state.
#[derive(Clone, Copy)]
pub(crate) struct Witness {
    name: &'static str,
    condition: fn(&Coherence, &State) -> bool,
}

impl Witness {
    pub(crate) fn property(self) -> Property<Coherence> {
        Property::sometimes(self.name, self.condition)
    }
}

pub(crate) const ACCEPTED_UNDER_LEASE: Witness = Witness {
    name: "a key is accepted under lease",
    condition: |_, state| {
        copies(state).any(|(_, verification, record, trusted)| {
            is_accepted(record, trusted) && state.rows[verification.key].status == Status::Active
        })
    },
};

pub(crate) const ACCEPTED_ELSEWHERE_AFTER_ANSWER: Witness = Witness {
    name: "a key is accepted elsewhere after its revocation was answered",
    condition: |_, state| {
        copies(state).any(|(instance, verification, record, trusted)| {
            let row = state.rows[verification.key];
            is_accepted(record, trusted)
                && row.status != Status::Active
                && row.acknowledged.is_some()
                && !instance.acknowledged[verification.key]
        })
    },
};

/// Both are under way at once, so their order is undefined; I3 is about those that begin later.
pub(crate) const ACCEPTED_BESIDE_REVOKED: Witness = Witness {
    name: "a verification is accepted after another that was under way with it was told \"revoked\"",
    condition: |_, state| {
        copies(state).any(|(instance, verification, record, trusted)| {
            is_accepted(record, trusted)
                && instance.said_revoked[verification.key]
                && !verification.after_revoked
        })
    },
};

pub(crate) const WAITER_TAKES_LOAD: Witness = Witness {
    name: "a waiter takes the load of another",
    condition: |_, state| waits_for(state, |fresh, overtaken| !fresh && !overtaken),
};

pub(crate) const WAITER_MUST_NOT_TAKE_LOAD: Witness = Witness {
    name: "a waiter must not take the load of another",
    condition: |_, state| waits_for(state, |fresh, overtaken| !fresh && overtaken),
};

pub(crate) const TOMBSTONE_AGAINST_OLDER_LOAD: Witness = Witness {
    name: "a tombstone stands when a load that read \"active\" arrives",
    condition: |_, state| {
        loads(state).any(|(instance, verification, status)| {
            status == Status::Active && instance.cache[verification.key] == Entry::Tombstone
        })
    },
};

pub(crate) const OLDER_LOAD_AFTER_REVOKED: Witness = Witness {
    name: "\"revoked\" has been answered while an older load is under way",
    condition: |_, state| {
        loads(state).any(|(instance, verification, status)| {
            status == Status::Active && instance.said_revoked[verification.key]
        })
    },
};

pub(crate) const ACCEPTED_WITHIN_GRACE: Witness = Witness {
    name: "a revoked key is accepted within the grace and past the lease",
    condition: |model, state| {
        loads(state).any(|(instance, verification, _)| {
            let row = state.rows[verification.key];
            row.acknowledged.is_some_and(|age| !age.is_under(T))
                && matches!(instance.cache[verification.key], Entry::Record(record)
                    if record.status == Status::Active
                        && !instance.trusted(record).is_under(T)
                        && instance.trusted(record).is_under(model.longest_trust()))
        })
    },
};

pub(crate) const UNKNOWN_AFTER_CREATE: Witness = Witness {
    name: "a created key is still unknown elsewhere",
    condition: |_, state| is_refused_late(state, Status::Absent),
};

pub(crate) const DISABLED_AFTER_ENABLE: Witness = Witness {
    name: "an enabled key is still refused elsewhere",
    condition: |_, state| is_refused_late(state, Status::Disabled),
};

pub(crate) const YOUNGER_COMMITS_FIRST: Witness = Witness {
    name: "a poll returns a change and stays behind it for an older transaction",
    condition: |_, state| {
        let mut polls = state.instances.iter().filter_map(|instance| instance.poll);
        polls.any(|poll| poll.changes[1] && poll.next.position == FIRST_POSITION)
    },
};

pub(crate) const FLUSH_AFTER_PRUNE: Witness = Witness {
    name: "an instance finds that the log has been pruned past its cursor",
    condition: |_, state| {
        state.instances.iter().any(|instance| {
            instance.cursor.is_some() && instance.poll.is_some_and(|poll| poll.flush)
        })
    },
};

pub(crate) const TWO_KEYS_LOAD_TOGETHER: Witness = Witness {
    name: "two keys of a shard are loaded at once",
    condition: |_, state| {
        loads(state).any(|(instance, verification, _)| {
            let mut others = instance.slots.iter().flatten();
            others.any(|other| {
                other.key != verification.key && matches!(other.phase, Phase::Loading(_))
            })
        })
    },
};

pub(crate) const GLOBAL_ANSWER_BY_REPORTS: Witness = Witness {
    name: "wait=global is over because every instance has reported",
    condition: |model, state| is_answered(model, state, true),
};

pub(crate) const GLOBAL_ANSWER_BY_TIME: Witness = Witness {
    name: "wait=global is over because the time is up",
    condition: |model, state| {
        let mut cursors = state.instances.iter().map(|instance| instance.cursor);
        is_answered(model, state, false)
            && cursors
                .any(|cursor| cursor.is_none_or(|cursor| cursor.position != FIRST_POSITION + 1))
    },
};

pub(crate) const ANNOUNCED_DURING_POLL: Witness = Witness {
    name: "a change is announced while a poll that misses it is under way",
    condition: |_, state| {
        let polls = state
            .instances
            .iter()
            .filter(|instance| instance.wake)
            .filter_map(|instance| instance.poll);
        polls.into_iter().any(|poll| {
            let mut changes = state.transactions.iter().zip(poll.changes);
            changes.any(|(transaction, returned)| {
                !returned && transaction.is_some_and(|change| change.announced)
            })
        })
    },
};

pub(crate) const CURSOR_OF_ANOTHER_LOG: Witness = Witness {
    name: "an instance finds that its cursor is of another log",
    condition: |_, state| {
        state.instances.iter().any(|instance| {
            instance
                .cursor
                .zip(instance.poll)
                .is_some_and(|(cursor, poll)| cursor.log != poll.next.log && poll.flush)
        })
    },
};

pub(crate) const CHANGE_BELOW_CURSOR: Witness = Witness {
    name: "a change has a position that the cursor of an instance is past, and the instance has not seen it",
    condition: |_, state| {
        let changes = state.transactions.iter().flatten();
        let mut changes = changes.filter(|transaction| transaction.committed);
        changes.any(|transaction| {
            let mut cursors = state
                .instances
                .iter()
                .filter_map(|instance| instance.cursor);
            cursors.any(|cursor| {
                cursor.log < transaction.log && cursor.position > transaction.position
            })
        })
    },
};

pub(crate) const REFUSED_THOUGH_LOST: Witness = Witness {
    name: "an instance that follows the new log refuses a key whose revocation the database has lost",
    condition: |_, state| {
        state.rows[0].revocation_lost
            && state.instances.iter().any(|instance| {
                let cursor = instance.cursor;
                cursor.is_some_and(|cursor| cursor.log == state.log.identity)
                    && instance.said_revoked[0]
                    && instance.cache[0] == Entry::Tombstone
            })
    },
};

fn under_way(state: &State) -> impl Iterator<Item = (&Instance, &Verification)> {
    state.instances.iter().flat_map(|instance| {
        let slots = instance.slots.iter().flatten();
        slots.map(move |verification| (instance, verification))
    })
}

fn copies(state: &State) -> impl Iterator<Item = (&Instance, &Verification, Record, Age)> {
    under_way(state).filter_map(|(instance, verification)| match verification.phase {
        Phase::Working {
            record, trusted, ..
        } => Some((instance, verification, record, trusted)),
        Phase::Loading(_) | Phase::Waiting { .. } => None,
    })
}

fn loads(state: &State) -> impl Iterator<Item = (&Instance, &Verification, Status)> {
    under_way(state).filter_map(|(instance, verification)| match verification.phase {
        Phase::Loading(load) => Some((instance, verification, load.record.status)),
        Phase::Working { .. } | Phase::Waiting { .. } => None,
    })
}

fn is_accepted(record: Record, trusted: Age) -> bool {
    record.status == Status::Active && trusted.is_under(T)
}

/// Returns whether a verification waits, classified by whether the load began after it came and
/// whether it was overtaken.
fn waits_for(state: &State, is_it: fn(bool, bool) -> bool) -> bool {
    state.instances.iter().any(|instance| {
        let [a, b] = instance
            .slots
            .map(|slot| slot.map(|verification| verification.phase));
        match (a, b) {
            (Some(Phase::Waiting { fresh }), Some(Phase::Loading(load)))
            | (Some(Phase::Loading(load)), Some(Phase::Waiting { fresh })) => {
                is_it(fresh, load.overtaken)
            }
            _ => false,
        }
    })
}

/// Returns whether a verification is about to be refused for a status that the row had before the
/// answer that it is valid now.
fn is_refused_late(state: &State, status: Status) -> bool {
    copies(state).any(|(_, verification, record, trusted)| {
        let row = state.rows[verification.key];
        record.status == status
            && trusted.is_under(T)
            && row.status == Status::Active
            && row.acknowledged.is_some()
    })
}

/// Returns whether an answer that waits for all instances may be sent, before or after its time
/// limit.
fn is_answered(model: &Coherence, state: &State, in_time: bool) -> bool {
    state.transactions.iter().enumerate().any(|(id, change)| {
        let request = change.and_then(|change| change.request);
        request.is_some_and(|request| {
            model.may_answer(state, id, request)
                && request.committed.is_under(model.longest_trust()) == in_time
        })
    })
}
