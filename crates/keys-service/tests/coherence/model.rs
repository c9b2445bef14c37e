//! The model for the checker: the initial state, the steps, the properties.

use stateright::{Model, Property};

use crate::bounds::Bounds;
use crate::state::{
    Age, Broken, Entry, FIRST_POSITION, Instance, KEYS_MAX, Listener, Log, Move, Phase, Progress,
    Row, State, Status, T, TRANSACTIONS_MAX, Write,
};
use crate::variant::Variant;
use crate::witness::Witness;

pub(crate) struct Coherence {
    pub(crate) variant: Variant,
    pub(crate) bounds: Bounds,
    /// Events that must occur.
    pub(crate) witnesses: &'static [Witness],
}

/// Way in which a verification looks up its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    InCache,
    /// `no-cache`: a load of its own, whatever is cached or under way.
    PastCache,
    /// In the cache, and if it is not there it waits for the load in the other slot.
    Join,
}

/// One step. Instances, keys, slots and transactions are named by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Tick,

    Begin {
        at: usize,
        key: usize,
        write: Write,
    },
    Commit {
        id: usize,
    },
    Apply {
        id: usize,
    },
    Announce {
        id: usize,
    },
    Answer {
        id: usize,
    },

    Verify {
        at: usize,
        slot: usize,
        key: usize,
        look: Look,
    },
    Deliver {
        at: usize,
        slot: usize,
    },
    TryAgain {
        at: usize,
        slot: usize,
    },
    FailLoad {
        at: usize,
        slot: usize,
    },
    Judge {
        at: usize,
        slot: usize,
    },

    Poll {
        at: usize,
    },
    ApplyPoll {
        at: usize,
    },
    FailPoll {
        at: usize,
    },
    Ping {
        at: usize,
    },
    Listen {
        at: usize,
    },
    LoseConnection {
        at: usize,
    },

    Evict {
        at: usize,
        key: usize,
    },
    Restart {
        at: usize,
    },
    Prune,
    Move(Move),
}

impl Coherence {
    /// Returns the time after the last sign of validity in which anything may still be accepted.
    pub(crate) fn longest_trust(&self) -> u8 {
        self.bounds.grace.max(T)
    }

    /// Returns whether the last transaction has ended: the rows do not change any more.
    fn is_over(&self, state: &State) -> bool {
        !self.bounds.wakeups
            && self.bounds.moves.is_empty()
            && state.transactions[..self.bounds.transactions]
                .iter()
                .all(|transaction| transaction.is_some_and(|transaction| !transaction.is_open()))
    }

    fn first_listener(&self) -> Listener {
        if self.bounds.wakeups {
            Listener::Down
        } else {
            Listener::Live
        }
    }

    fn writer_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let begun = state.transactions.iter().flatten().count();
        if begun < self.bounds.transactions {
            for at in 0..self.bounds.instances {
                for (key, row) in state.rows[..self.bounds.rows.len()].iter().enumerate() {
                    for &write in self.bounds.writes {
                        if write.effect_on(row.status).is_some() {
                            actions.push(Action::Begin { at, key, write });
                        }
                    }
                }
            }
        }
        for (id, transaction) in state.transactions.iter().enumerate() {
            let Some(transaction) = transaction else {
                continue;
            };
            if let Some(request) = transaction.request {
                match request.progress {
                    Progress::Open => actions.push(Action::Commit { id }),
                    Progress::Committed | Progress::AnsweredUnapplied => {
                        actions.push(Action::Apply { id });
                    }
                    Progress::Applied => {}
                }
                if self.may_answer(state, id, request) {
                    actions.push(Action::Answer { id });
                }
            }
            if self.bounds.wakeups && transaction.committed && !transaction.announced {
                actions.push(Action::Announce { id });
            }
        }
    }

    fn reader_actions(&self, state: &State, at: usize, room: bool, actions: &mut Vec<Action>) {
        let instance = &state.instances[at];
        if room && let Some(slot) = instance.slots.iter().position(Option::is_none) {
            for key in 0..self.bounds.rows.len() {
                let look = Look::InCache;
                actions.push(Action::Verify {
                    at,
                    slot,
                    key,
                    look,
                });
                if self.bounds.direct_reads {
                    let look = Look::PastCache;
                    actions.push(Action::Verify {
                        at,
                        slot,
                        key,
                        look,
                    });
                }
                if self.may_join(state, at, 1 - slot, key) {
                    let look = Look::Join;
                    actions.push(Action::Verify {
                        at,
                        slot,
                        key,
                        look,
                    });
                }
            }
        }
        for (slot, verification) in instance.slots.iter().enumerate() {
            match verification.map(|verification| verification.phase) {
                Some(Phase::Loading(load)) => {
                    actions.push(Action::Deliver { at, slot });
                    if load.overtaken {
                        actions.push(Action::TryAgain { at, slot });
                    }
                    actions.push(Action::FailLoad { at, slot });
                }
                Some(Phase::Working { .. }) => actions.push(Action::Judge { at, slot }),
                Some(Phase::Waiting { .. }) | None => {}
            }
        }
        if self.bounds.evictions {
            for key in 0..self.bounds.rows.len() {
                if instance.may_evict(key) {
                    actions.push(Action::Evict { at, key });
                }
            }
        }
        if self.bounds.restarts {
            actions.push(Action::Restart { at });
        }
    }

    fn listener_actions(&self, state: &State, at: usize, room: bool, actions: &mut Vec<Action>) {
        let instance = &state.instances[at];
        if room && self.may_poll(instance) {
            actions.push(Action::Poll { at });
        }
        if instance.poll.is_some() {
            actions.push(Action::ApplyPoll { at });
            if !self.bounds.wakeups {
                actions.push(Action::FailPoll { at });
            }
        }
        if self.variant == Variant::LeaseExtendedByPing {
            actions.push(Action::Ping { at });
        }
        if self.bounds.wakeups {
            if self.may_listen(instance) && instance.poll.is_none() {
                actions.push(Action::Listen { at });
            }
            if instance.listener != Listener::Down {
                actions.push(Action::LoseConnection { at });
            }
        }
    }

    fn restart(&self, state: &mut State, at: usize) {
        let before = &state.instances[at];
        let started = Instance {
            acknowledged: before.acknowledged,
            said_revoked: before.said_revoked,
            ..Instance::started(self.first_listener())
        };
        state.instances[at] = started;
        for transaction in state.transactions.iter_mut().flatten() {
            // An open transaction is rolled back, a committed one stands, and neither is answered.
            if transaction
                .request
                .is_some_and(|request| request.instance == at)
            {
                transaction.request = None;
            }
        }
    }
}

impl Model for Coherence {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut rows = [Row {
            status: Status::Absent,
            acknowledged: Some(Age::LONG_AGO),
            revocation_lost: false,
        }; KEYS_MAX];
        for (row, status) in rows.iter_mut().zip(self.bounds.rows) {
            row.status = *status;
        }
        vec![State {
            rows,
            transactions: [None; TRANSACTIONS_MAX],
            log: Log {
                identity: 0,
                next: FIRST_POSITION,
            },
            last_commit: None,
            pruned: 0,
            instances: vec![Instance::started(self.first_listener()); self.bounds.instances],
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        let slots = state.instances.iter().flat_map(|instance| &instance.slots);
        let verifications = slots.flatten().count();
        let polls = state.instances.iter().filter_map(|instance| instance.poll);
        let polls = polls.count();
        let room = verifications + polls < self.bounds.under_way;
        let room_to_verify = room && verifications < self.bounds.verifications;
        let room_to_poll = room && polls < self.bounds.polls;

        if self.bounds.verifications > 0 {
            actions.push(Action::Tick);
        }
        self.writer_actions(state, actions);
        for at in 0..self.bounds.instances {
            self.reader_actions(state, at, room_to_verify, actions);
            self.listener_actions(state, at, room_to_poll, actions);
        }
        let next_pruned = state.transactions.get(state.pruned).copied().flatten();
        if self.bounds.prunes && next_pruned.is_some_and(|transaction| !transaction.is_open()) {
            actions.push(Action::Prune);
        }
        if state.log.identity == 0 {
            let moves = self.bounds.moves.iter().copied();
            actions.extend(moves.map(Action::Move));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Tick => next.tick(self.longest_trust()),
            Action::Begin { at, key, write } => next.begin(at, key, write),
            Action::Commit { id } => self.commit(&mut next, id),
            Action::Apply { id } => self.apply(&mut next, id),
            Action::Announce { id } => self.announce(&mut next, id),
            Action::Answer { id } => next.answer(id),
            Action::Verify {
                at,
                slot,
                key,
                look,
            } => {
                self.verify(&mut next, at, slot, key, look);
            }
            Action::Deliver { at, slot } => {
                self.deliver(&mut next, at, slot);
            }
            Action::TryAgain { at, slot } => next.try_again(at, slot),
            Action::FailLoad { at, slot } => self.fail(&mut next, at, slot),
            Action::Judge { at, slot } => {
                self.judge(&mut next, at, slot);
            }
            Action::Poll { at } => self.poll(&mut next, at),
            Action::ApplyPoll { at } => self.apply_poll(&mut next, at),
            Action::FailPoll { at } => next.instances[at].poll = None,
            Action::Ping { at } => next.instances[at].synced = Age::NOW,
            Action::Listen { at } => self.listen(&mut next.instances[at]),
            Action::LoseConnection { at } => next.instances[at].lose_connection(),
            Action::Evict { at, key } => next.instances[at].cache[key] = Entry::Absent,
            Action::Restart { at } => self.restart(&mut next, at),
            Action::Prune => next.pruned += 1,
            Action::Move(how) => next.move_to(how),
        }
        if self.variant.may_be_simplified() {
            let over = self.is_over(&next);
            next = next.representative(over, self.variant.renews_copies());
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(Broken::I1.name(), |_, state: &State| {
                state.broken != Some(Broken::I1)
            }),
            Property::always(Broken::I2.name(), |_, state: &State| {
                state.broken != Some(Broken::I2)
            }),
            Property::always(Broken::I3.name(), |_, state: &State| {
                state.broken != Some(Broken::I3)
            }),
            Property::always(Broken::I4.name(), |_, state: &State| {
                state.broken != Some(Broken::I4)
            }),
            Property::always(Broken::I5.name(), |_, state: &State| {
                state.broken != Some(Broken::I5)
            }),
            Property::always(Broken::I6.name(), |model: &Self, state: &State| {
                state.broken != Some(Broken::I6) && model.accepts_in_the_end(state)
            }),
        ];
        if self.bounds.wait_global {
            properties.push(Property::always(
                Broken::Global.name(),
                |_, state: &State| state.broken != Some(Broken::Global),
            ));
        }
        if self.bounds.wakeups {
            properties.push(Property::always(
                Broken::Unheard.name(),
                |_, state: &State| state.hears_every_announcement(),
            ));
        }
        properties.extend(self.witnesses.iter().map(|witness| witness.property()));
        properties
    }
}
