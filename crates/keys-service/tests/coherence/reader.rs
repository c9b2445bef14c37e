//! The reader: look up, load, deliver, judge.

use crate::audit::Verdict;
use crate::model::{Coherence, Look};
use crate::state::{Age, Entry, Instance, Load, Phase, Record, State, Status, T, Verification};
use crate::variant::Variant;

impl Coherence {
    /// A verification begins and looks into the cache: it is refused by a tombstone, takes a copy
    /// of a record under lease, or reads the database, by itself or by waiting for a load that is
    /// under way.
    pub(crate) fn verify(
        &self,
        state: &mut State,
        at: usize,
        slot: usize,
        key: usize,
        look: Look,
    ) -> Option<Verdict> {
        let instance = &state.instances[at];
        let bound = state.rows[key].acknowledged.is_some()
            && (self.bounds.wait_global || instance.acknowledged[key]);
        let mut verification = Verification {
            key,
            bound,
            after_revoked: instance.said_revoked[key],
            phase: Phase::Waiting { fresh: false },
        };
        match (look, instance.cache[key]) {
            (Look::PastCache, _) => verification.phase = state.load(key),
            (_, Entry::Tombstone) => {
                let verdict = Verdict::Refused(Status::Revoked);
                return Some(self.pronounce(state, at, verification, verdict));
            }
            (_, Entry::Record(record)) if self.is_served(instance.trusted(record), record) => {
                let trusted = instance.trusted(record);
                verification.phase = Phase::Working {
                    record,
                    trusted,
                    overtaken: false,
                };
            }
            (Look::InCache, _) => verification.phase = state.load(key),
            (Look::Join, _) => {}
        }
        state.instances[at].slots[slot] = Some(verification);
        None
    }

    /// `lease_ok`.
    fn is_served(&self, trusted: Age, record: Record) -> bool {
        trusted.is_under(T)
            || self.variant == Variant::ServeStaleWhileRevalidating
            || (self.variant == Variant::UnknownForEver && record.status == Status::Absent)
    }

    /// Returns whether a verification of this key may wait for the load in a slot.
    pub(crate) fn may_join(&self, state: &State, at: usize, slot: usize, key: usize) -> bool {
        let instance = &state.instances[at];
        let hit = match instance.cache[key] {
            Entry::Absent => false,
            Entry::Tombstone => true,
            Entry::Record(record) => self.is_served(instance.trusted(record), record),
        };
        !hit && instance.slots[slot].is_some_and(|leader| {
            matches!(leader.phase, Phase::Loading(_))
                && (leader.key == key || self.variant == Variant::LoadsSharedByShard)
        })
    }

    /// The row has arrived. It enters the cache if no change was applied since the load began, and
    /// goes to the request and to the waiter. Otherwise it is judged without being cached, or
    /// [tried again](Self::try_again), any number of times.
    pub(crate) fn deliver(&self, state: &mut State, at: usize, slot: usize) -> Option<Verdict> {
        let Load {
            mut record,
            overtaken,
        } = state.load_in(at, slot);
        let key = state.instances[at].slots[slot].expect("it loads").key;
        let current = !overtaken || !self.variant.guards_generations();
        if matches!(
            self.variant,
            Variant::StampAtInsertion | Variant::ReadTimeAtInsertion
        ) {
            record.read = Age::NOW;
        }

        // A row that says "revoked" is never too old to be believed.
        if record.status == Status::Revoked && self.variant != Variant::RevokedRowWithoutTombstone {
            state.instances[at].cache[key] = Entry::Tombstone;
            if state.waits(at, 1 - slot) {
                self.hand_over(state, at, 1 - slot, record, Age::NOW);
            }
            return self.hand_over(state, at, slot, record, Age::NOW);
        }

        if current {
            let instance = &mut state.instances[at];
            if instance.cache[key] != Entry::Tombstone {
                instance.cache[key] = Entry::Record(record);
            }
            let trusted = instance.trusted(record);
            if state.waits(at, 1 - slot) {
                self.hand_over(state, at, 1 - slot, record, trusted);
            }
            return self.hand_over(state, at, slot, record, trusted);
        }

        // Without caching: the result is only for requests that came before the read.
        let waiter = state.waiter(at, 1 - slot);
        if waiter == Some(true) || (waiter.is_some() && self.variant == Variant::WaiterTakesAnyLoad)
        {
            self.hand_over_uncached(state, at, 1 - slot, record);
        } else if waiter.is_some() {
            let own = state.load(key);
            state.set_phase(at, 1 - slot, own);
        }
        self.hand_over_uncached(state, at, slot, record)
    }

    /// Gives a verification the record it loaded or waited for.
    fn hand_over(
        &self,
        state: &mut State,
        at: usize,
        slot: usize,
        record: Record,
        trusted: Age,
    ) -> Option<Verdict> {
        let copy = Phase::Working {
            record,
            trusted,
            overtaken: false,
        };
        state.set_phase(at, slot, copy);
        // A revoked key needs no further check, so its verdict comes now.
        (record.status == Status::Revoked)
            .then(|| self.end(state, at, slot, Verdict::Refused(Status::Revoked)))
    }

    /// The same for a record that was overtaken: it has only the lease of its read. If copies are
    /// guarded, it may decide a verdict now and never after work.
    fn hand_over_uncached(
        &self,
        state: &mut State,
        at: usize,
        slot: usize,
        record: Record,
    ) -> Option<Verdict> {
        if self.variant.guards_copies() {
            self.conclude(state, at, slot, record, record.read)
        } else {
            self.hand_over(state, at, slot, record, record.read)
        }
    }

    /// The work is done: gives the verdict, if the lease still runs.
    pub(crate) fn judge(&self, state: &mut State, at: usize, slot: usize) -> Option<Verdict> {
        let verification = state.instances[at].slots[slot].expect("it works");
        let Phase::Working {
            record,
            mut trusted,
            overtaken,
        } = verification.phase
        else {
            unreachable!("only a verification that holds a record is judged")
        };
        if self.variant.renews_copies() {
            trusted = trusted.min(state.instances[at].trusted(record));
        }
        if self.variant == Variant::LeaseCheckedBeforeWork {
            trusted = Age::NOW;
        }
        if overtaken {
            state.instances[at].slots[slot] = None;
            return None;
        }
        self.conclude(state, at, slot, record, trusted)
    }

    /// Gives the verdict by a record, if its lease runs. Otherwise the verification starts over,
    /// which is the same as a new one: it would be bound by less than one that comes now.
    fn conclude(
        &self,
        state: &mut State,
        at: usize,
        slot: usize,
        record: Record,
        trusted: Age,
    ) -> Option<Verdict> {
        if !self.is_served(trusted, record) {
            state.instances[at].slots[slot] = None;
            return None;
        }
        let verdict = match record.status {
            Status::Active => Verdict::Accepted {
                identity: record.identity,
                stale: false,
            },
            refused => Verdict::Refused(refused),
        };
        Some(self.end(state, at, slot, verdict))
    }

    /// The database does not answer a load: the request and the waiter go on without it.
    pub(crate) fn fail(&self, state: &mut State, at: usize, slot: usize) {
        if state.waits(at, 1 - slot) {
            self.do_without(state, at, 1 - slot);
        }
        self.do_without(state, at, slot);
    }

    /// Within the grace a valid entry still counts. An unknown key stays unknown, and nothing is
    /// remembered.
    fn do_without(&self, state: &mut State, at: usize, slot: usize) {
        let instance = &mut state.instances[at];
        let key = instance.slots[slot].expect("it is under way").key;
        if self.variant == Variant::ErrorsRemembered && instance.cache[key] == Entry::Absent {
            instance.cache[key] = Entry::Record(Record {
                status: Status::Absent,
                identity: key,
                read: Age::NOW,
            });
        }
        let verdict = match instance.cache[key] {
            Entry::Tombstone => Verdict::Refused(Status::Revoked),
            Entry::Record(record) if record.status == Status::Active => {
                let trusted = instance.trusted(record);
                if trusted.is_under(self.longest_trust()) {
                    Verdict::Accepted {
                        identity: record.identity,
                        stale: !trusted.is_under(T),
                    }
                } else {
                    Verdict::Unavailable
                }
            }
            Entry::Absent | Entry::Record(_) => Verdict::Unavailable,
        };
        self.end(state, at, slot, verdict);
    }

    fn end(&self, state: &mut State, at: usize, slot: usize, verdict: Verdict) -> Verdict {
        let verification = state.instances[at].slots[slot]
            .take()
            .expect("it is under way");
        self.pronounce(state, at, verification, verdict)
    }
}

impl State {
    /// A load that was overtaken is tried again. Its waiter came before this attempt began.
    pub(crate) fn try_again(&mut self, at: usize, slot: usize) {
        let key = self.instances[at].slots[slot].expect("it loads").key;
        if self.waits(at, 1 - slot) {
            self.set_phase(at, 1 - slot, Phase::Waiting { fresh: true });
        }
        let again = self.load(key);
        self.set_phase(at, slot, again);
    }

    /// Takes time and generation, and reads the primary.
    ///
    /// In one step: if the row were read later than the stamps, it would only be fresher.
    fn load(&self, key: usize) -> Phase {
        Phase::Loading(Load {
            record: Record {
                status: self.rows[key].status,
                identity: key,
                read: Age::NOW,
            },
            overtaken: false,
        })
    }

    fn load_in(&self, at: usize, slot: usize) -> Load {
        match self.instances[at].slots[slot].expect("it loads").phase {
            Phase::Loading(load) => load,
            Phase::Waiting { .. } | Phase::Working { .. } => unreachable!("it loads"),
        }
    }

    fn set_phase(&mut self, at: usize, slot: usize, phase: Phase) {
        self.instances[at].slots[slot]
            .as_mut()
            .expect("it is under way")
            .phase = phase;
    }

    /// Returns, for a verification that waits in a slot, whether the load it waits for began after
    /// it came.
    fn waiter(&self, at: usize, slot: usize) -> Option<bool> {
        match self.instances[at].slots[slot]?.phase {
            Phase::Waiting { fresh } => Some(fresh),
            Phase::Loading(_) | Phase::Working { .. } => None,
        }
    }

    fn waits(&self, at: usize, slot: usize) -> bool {
        self.waiter(at, slot).is_some()
    }
}

impl Instance {
    /// Returns whether the entry may be evicted: any entry, but a tombstone only when no load is
    /// left that could be older than it.
    pub(crate) fn may_evict(&self, key: usize) -> bool {
        match self.cache[key] {
            Entry::Absent => false,
            Entry::Tombstone => !self.is_loading(),
            Entry::Record(_) => true,
        }
    }
}
