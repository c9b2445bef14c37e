//! The state of the model: one database, its open and committed transactions, and the instances.

/// The lease, in ticks.
///
/// Two, so that there is a moment at which a lease is old but has not ended.
pub(crate) const T: u8 = 2;

/// Ticks since an event.
///
/// Only differences between times are ever compared, so the model stores ages instead of a clock.
/// Ages beyond every limit are `LONG_AGO`: time has no end in the model, and yet there are finitely
/// many states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Age(u8);

impl Age {
    pub(crate) const NOW: Self = Self(0);
    /// Older than any limit, or never.
    pub(crate) const LONG_AGO: Self = Self(u8::MAX);

    pub(crate) fn is_under(self, ticks: u8) -> bool {
        self.0 < ticks
    }

    /// Advances one tick. From `limit` on all ages are the same.
    fn grow(&mut self, limit: u8) {
        *self = if self.0.saturating_add(1) < limit {
            Self(self.0 + 1)
        } else {
            Self::LONG_AGO
        };
    }
}

/// The status of a key in its row. `Absent` is a row that does not exist (yet).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Status {
    Absent,
    Active,
    /// Refused, but may come back: stands for every reversible change (disable, plan, address list,
    /// expiry).
    Disabled,
    /// Refused for ever.
    Revoked,
}

/// A committed row, with the promises about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) status: Status,
    /// Age of the first answer that acknowledged this status.
    pub(crate) acknowledged: Option<Age>,
    /// It was revoked, and the database has lost that. Refusing it is right.
    pub(crate) revocation_lost: bool,
}

/// Way in which the database of all instances becomes another one. Open transactions are rolled
/// back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// A dump is restored into another cluster, whose positions are below those of the old one.
    Restore,
    /// The same with a backup from before the last commit.
    RestoreBackup,
    /// A replica that has everything is promoted: positions continue in a new timeline.
    Promote,
    /// A replica that lacks the last commit is promoted, and assigns its position again. A volume
    /// that is reset to a snapshot is the same: there the start time of the server distinguishes
    /// the two.
    PromoteBehind,
}

impl Move {
    pub(crate) fn loses(self) -> bool {
        matches!(self, Self::RestoreBackup | Self::PromoteBehind)
    }
}

/// A log of changes. Two logs may have the same positions for different transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Log {
    /// Identifies this log: cluster, timeline and start of the server.
    pub(crate) identity: u8,
    /// The position of the next transaction.
    pub(crate) next: usize,
}

/// Start of the positions of the first log, so that those of another one can be below.
pub(crate) const FIRST_POSITION: usize = TRANSACTIONS_MAX;

/// The read position of an instance, and its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Cursor {
    pub(crate) log: u8,
    pub(crate) position: usize,
}

/// The last commit, and the previous status of its row; stored only where it can be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LastCommit {
    pub(crate) id: usize,
    pub(crate) before: Row,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Write {
    /// Any change that decides nothing, such as that of a name. It is in the change log all the
    /// same.
    Rename,
    Create,
    Disable,
    Enable,
    Revoke,
}

impl Write {
    /// Returns the status of a row after this write. `None` if there is nothing to write.
    pub(crate) fn effect_on(self, status: Status) -> Option<Status> {
        match (self, status) {
            (Self::Rename, Status::Active | Status::Disabled) => Some(status),
            (Self::Create, Status::Absent) | (Self::Enable, Status::Disabled) => {
                Some(Status::Active)
            }
            (Self::Disable, Status::Active) => Some(Status::Disabled),
            (Self::Revoke, Status::Active | Status::Disabled) => Some(Status::Revoked),
            _ => None,
        }
    }

    /// Returns the status that an answer to this write acknowledges.
    pub(crate) fn outcome(self) -> Option<Status> {
        match self {
            Self::Rename => None,
            Self::Create | Self::Enable => Some(Status::Active),
            Self::Disable => Some(Status::Disabled),
            Self::Revoke => Some(Status::Revoked),
        }
    }
}

/// Progress of a transaction and its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Progress {
    Open,
    Committed,
    Applied,
    /// Only with [`Variant::AnswerBeforeApply`](crate::variant::Variant::AnswerBeforeApply).
    AnsweredUnapplied,
}

/// A transaction whose request still has steps to take, at the instance that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Request {
    pub(crate) instance: usize,
    pub(crate) write: Write,
    pub(crate) progress: Progress,
    /// Age of the commit; stored only if the answer waits for all instances.
    pub(crate) committed: Age,
}

/// A transaction. Its `xid` is its position, assigned when work begins, not at commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Transaction {
    pub(crate) key: usize,
    /// The log it is in.
    pub(crate) log: u8,
    pub(crate) position: usize,
    /// Whether the database has lost it.
    pub(crate) lost: bool,
    /// Whether others can read its row in the change log.
    pub(crate) committed: bool,
    /// Whether its `NOTIFY` was sent; stored only if wake-ups are modelled.
    pub(crate) announced: bool,
    /// `None` once its answer is sent, or its instance died.
    pub(crate) request: Option<Request>,
}

impl Transaction {
    pub(crate) fn is_open(&self) -> bool {
        self.request
            .is_some_and(|request| request.progress == Progress::Open)
    }
}

/// Maximum number of transactions in a scenario.
pub(crate) const TRANSACTIONS_MAX: usize = 2;
/// Maximum number of keys in a scenario. All of them are in one cache shard.
pub(crate) const KEYS_MAX: usize = 2;
/// Maximum number of concurrent verifications of an instance.
pub(crate) const SLOTS: usize = 2;

/// A cache entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Entry {
    Absent,
    Tombstone,
    /// A record as it was read; `Status::Absent` is a negative entry.
    Record(Record),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Record {
    pub(crate) status: Status,
    /// The key of the row. That it is the requested key is I5.
    pub(crate) identity: usize,
    /// Time just before the database was read.
    pub(crate) read: Age,
}

/// A read of the primary that has not been delivered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Load {
    pub(crate) record: Record,
    /// Whether the generation of the shard changed since the load began. This is the only use of a
    /// generation, and unlike a counter it does not grow.
    pub(crate) overtaken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// Waits for the load in the other slot; `fresh` if that load began after this verification
    /// came.
    Waiting {
        fresh: bool,
    },
    Loading(Load),
    /// Holds a copy of a record and works (limits, for example), before its verdict.
    Working {
        record: Record,
        /// Start of the lease of the copy.
        trusted: Age,
        /// As in [`Load`]; stored only with
        /// [`Variant::CopyGuarded`](crate::variant::Variant::CopyGuarded).
        overtaken: bool,
    },
}

/// A verification under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Verification {
    pub(crate) key: usize,
    /// It began after an answer that binds this instance at once: its verdict must agree with the
    /// row (I1, I4).
    pub(crate) bound: bool,
    /// It began after this instance had answered "revoked" (I3).
    pub(crate) after_revoked: bool,
    pub(crate) phase: Phase,
}

/// A poll of the change log between its snapshot and its application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Poll {
    pub(crate) begun: Age,
    /// The transactions it returned.
    pub(crate) changes: [bool; TRANSACTIONS_MAX],
    /// The cursor it returned: the oldest transaction that was open.
    pub(crate) next: Cursor,
    /// There was no cursor to continue from, or one of another log, or it was older than the prune
    /// mark.
    pub(crate) flush: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Listener {
    Down,
    /// After `LISTEN`, before the poll that follows it has been applied.
    Listening,
    Live,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Instance {
    pub(crate) cache: [Entry; KEYS_MAX],
    /// `last_sync_begin`.
    pub(crate) synced: Age,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) poll: Option<Poll>,
    pub(crate) slots: [Option<Verification>; SLOTS],
    /// Always `Live` unless wake-ups are modelled.
    pub(crate) listener: Listener,
    /// A notification has arrived after the last poll.
    pub(crate) wake: bool,
    /// Transactions that it has applied; stored only if wake-ups are modelled.
    pub(crate) applied: [bool; TRANSACTIONS_MAX],
    /// It has answered the request that made the row as it is now. Survives a restart, because
    /// clients remember.
    pub(crate) acknowledged: [bool; KEYS_MAX],
    /// It has answered "revoked". Survives a restart as well.
    pub(crate) said_revoked: [bool; KEYS_MAX],
}

impl Instance {
    /// Returns a process that has just started: nothing cached, never synchronized, no cursor.
    pub(crate) fn started(listener: Listener) -> Self {
        Self {
            cache: [Entry::Absent; KEYS_MAX],
            synced: Age::LONG_AGO,
            cursor: None,
            poll: None,
            slots: [None; SLOTS],
            listener,
            wake: false,
            applied: [false; TRANSACTIONS_MAX],
            acknowledged: [false; KEYS_MAX],
            said_revoked: [false; KEYS_MAX],
        }
    }

    /// Returns the start of the lease of a record.
    ///
    /// A negative entry has only its own read, because it is never renewed by a synchronization.
    pub(crate) fn trusted(&self, record: Record) -> Age {
        if record.status == Status::Absent {
            record.read
        } else {
            record.read.min(self.synced)
        }
    }

    pub(crate) fn is_loading(&self) -> bool {
        self.slots.iter().flatten().any(|verification| {
            matches!(
                verification.phase,
                Phase::Loading(_) | Phase::Waiting { .. }
            )
        })
    }

    /// Increments the generation of the (only) cache shard.
    pub(crate) fn bump_generation(&mut self, copies_too: bool) {
        for verification in self.slots.iter_mut().flatten() {
            match &mut verification.phase {
                Phase::Loading(load) => load.overtaken = true,
                Phase::Working { overtaken, .. } => *overtaken |= copies_too,
                Phase::Waiting { .. } => {}
            }
        }
    }

    /// Returns whether all its entries agree with the rows.
    fn agrees_with(&self, rows: [Row; KEYS_MAX]) -> bool {
        let agrees = |record: Record| record.status == rows[record.identity].status;
        let cache = self.cache.iter().all(|entry| match entry {
            Entry::Record(record) => agrees(*record),
            Entry::Absent | Entry::Tombstone => true,
        });
        let slots = self.slots.iter().flatten();
        let mut phases = slots.map(|verification| verification.phase);
        cache
            && phases.all(|phase| match phase {
                Phase::Waiting { .. } => true,
                Phase::Loading(Load { record, .. }) | Phase::Working { record, .. } => {
                    agrees(record)
                }
            })
    }

    /// Normalizes details that no step can distinguish. See [`State::representative`].
    fn simplify(&mut self, copies_are_renewed: bool) {
        let synced = self.synced;
        for entry in &mut self.cache {
            if let Entry::Record(record) = entry
                && record.status != Status::Absent
            {
                record.read = record.read.min(synced);
            }
        }
        let mut synced_counts = false;
        for slot in 0..SLOTS {
            let Some(verification) = &mut self.slots[slot] else {
                continue;
            };
            match &mut verification.phase {
                Phase::Waiting { .. } => {}
                Phase::Loading(load) => {
                    synced_counts |= !load.overtaken && load.record.read > synced;
                }
                Phase::Working { .. } if copies_are_renewed => synced_counts = true,
                Phase::Working { trusted, .. } if !trusted.is_under(T) => self.slots[slot] = None,
                // The copy is judged by `trusted` alone.
                Phase::Working { record, .. } => record.read = Age::LONG_AGO,
            }
        }
        if !synced_counts {
            self.synced = Age::LONG_AGO;
        }
        self.slots.sort_unstable();
    }

    fn ages(&mut self) -> impl Iterator<Item = &mut Age> {
        let entries = self.cache.iter_mut().filter_map(|entry| match entry {
            Entry::Record(record) => Some(&mut record.read),
            Entry::Absent | Entry::Tombstone => None,
        });
        let slots = self.slots.iter_mut().flatten();
        let slots = slots.flat_map(|verification| match &mut verification.phase {
            Phase::Waiting { .. } => [None, None],
            Phase::Loading(load) => [Some(&mut load.record.read), None],
            Phase::Working {
                record, trusted, ..
            } => [Some(&mut record.read), Some(trusted)],
        });
        let poll = self.poll.as_mut().map(|poll| &mut poll.begun);
        entries
            .chain(slots.flatten())
            .chain(poll)
            .chain([&mut self.synced])
    }
}

/// An invariant that a step has broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Broken {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    /// The promise of `wait=global`.
    Global,
    /// The promise of a live listener to callers that wait for a few milliseconds only.
    Unheard,
}

impl Broken {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::I1 => {
                "I1: a verification begun after the acknowledgement, on the same instance, refuses"
            }
            Self::I2 => "I2: elsewhere nothing is accepted from T after the acknowledgement on",
            Self::I3 => "I3: an instance that has answered \"revoked\" never accepts the key again",
            Self::I4 => "I4: a created key is accepted at once on that instance, elsewhere after T",
            Self::I5 => "I5: an acceptance carries the identity of the key that was asked for",
            Self::I6 => "I6: a valid key is accepted in the end; nothing is refused for ever",
            Self::Global => "wait=global: after the answer no instance accepts",
            Self::Unheard => "wake-up: what is announced reaches every listener without a timer",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) rows: [Row; KEYS_MAX],
    pub(crate) transactions: [Option<Transaction>; TRANSACTIONS_MAX],
    pub(crate) log: Log,
    pub(crate) last_commit: Option<LastCommit>,
    /// The change log no longer holds transactions before this one.
    pub(crate) pruned: usize,
    pub(crate) instances: Vec<Instance>,
    /// Set by the step that broke it. Nothing happens after that.
    pub(crate) broken: Option<Broken>,
}

impl State {
    /// Returns the position of the first transaction that is still open, or that of the next one:
    /// `pg_snapshot_xmin`.
    pub(crate) fn oldest_open(&self) -> Cursor {
        let open = self.transactions.iter().flatten();
        let open = open.filter(|transaction| transaction.is_open());
        let position = open.map(|transaction| transaction.position).min();
        Cursor {
            log: self.log.identity,
            position: position.unwrap_or(self.log.next),
        }
    }

    /// The instances find another database behind the same address.
    pub(crate) fn move_to(&mut self, how: Move) {
        if how.loses()
            && let Some(LastCommit { id, before }) = self.last_commit
        {
            let transaction = self.transactions[id].as_mut().expect("it has committed");
            transaction.lost = true;
            let key = transaction.key;
            let revocation_lost =
                self.rows[key].status == Status::Revoked && before.status != Status::Revoked;
            self.rows[key] = Row {
                // Everything before counts as new from here on.
                acknowledged: Some(Age::NOW),
                revocation_lost,
                ..before
            };
            for instance in &mut self.instances {
                instance.acknowledged[key] = false;
                for verification in instance.slots.iter_mut().flatten() {
                    verification.bound &= verification.key != key;
                }
            }
        }
        self.last_commit = None;
        for transaction in self.transactions.iter_mut().flatten() {
            if transaction.is_open() || transaction.lost {
                transaction.request = None;
            }
        }
        let kept = self.transactions.iter().flatten();
        let kept = kept.filter(|transaction| transaction.committed && !transaction.lost);
        let highest = kept.map(|transaction| transaction.position).max();
        self.log = Log {
            identity: self.log.identity + 1,
            next: match how {
                Move::Restore | Move::RestoreBackup => 0,
                Move::Promote | Move::PromoteBehind => {
                    highest.map_or(FIRST_POSITION, |position| position + 1)
                }
            },
        };
    }

    pub(crate) fn tick(&mut self, limit: u8) {
        for row in &mut self.rows {
            if let Some(age) = &mut row.acknowledged {
                age.grow(limit);
            }
        }
        for request in self
            .transactions
            .iter_mut()
            .flatten()
            .filter_map(|transaction| transaction.request.as_mut())
        {
            request.committed.grow(limit);
        }
        for age in self.instances.iter_mut().flat_map(Instance::ages) {
            age.grow(limit);
        }
    }

    /// Returns one state for all that no step can distinguish, so that the checker examines only
    /// one of them.
    ///
    /// - Instances have no names: any order of them is the same. So are the two slots of an
    ///   instance.
    /// - An entry has the longer one of its own lease and that of the last synchronization. Later
    ///   synchronizations only begin later, so one number is enough; and `last_sync_begin` is
    ///   needed only by a load that began before it.
    /// - A verification whose lease has ended starts over, just like one that comes now. A load
    ///   that was overtaken and has no waiter does so, too, or is judged for itself.
    /// - When all is `over`, that is, no row will change any more, an instance whose entries all
    ///   agree with the rows answers correctly for ever, like one that has just started.
    ///
    /// Mistakes make some of this untrue, so variants with mistakes are checked without.
    pub(crate) fn representative(mut self, over: bool, copies_are_renewed: bool) -> Self {
        for instance in &mut self.instances {
            if over && instance.agrees_with(self.rows) {
                *instance = Instance {
                    cursor: instance.cursor,
                    ..Instance::started(instance.listener)
                };
            } else {
                instance.simplify(copies_are_renewed);
            }
        }
        // Few enough for the simplest of all sorts, and mostly in order already.
        for round in 1..self.instances.len() {
            for place in (1..=round).rev() {
                if self.sort_key(place) < self.sort_key(place - 1) {
                    self.swap(place);
                }
            }
        }
        self
    }

    fn sort_key(&self, at: usize) -> (&Instance, [bool; TRANSACTIONS_MAX]) {
        let runs = self.transactions.map(|transaction| {
            transaction
                .and_then(|transaction| transaction.request)
                .is_some_and(|request| request.instance == at)
        });
        (&self.instances[at], runs)
    }

    fn swap(&mut self, place: usize) {
        self.instances.swap(place, place - 1);
        for transaction in self.transactions.iter_mut().flatten() {
            if let Some(request) = &mut transaction.request {
                if request.instance == place {
                    request.instance = place - 1;
                } else if request.instance == place - 1 {
                    request.instance = place;
                }
            }
        }
    }
}
