//! The protocol as designed, and with one mistake at a time.

/// Which protocol is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Designed,
    /// As designed, with the other right way to check after the work: against the lease of that moment, and the generation as
    /// well.
    CopyGuarded,

    // The table of traps.
    /// A revoke removes the entry, and a load is inserted whatever happened meanwhile.
    DeleteWithoutGuard,
    /// A revoke leaves a tombstone, and a load is inserted whatever else happened meanwhile.
    TombstoneWithoutGuard,
    /// Time of reading and generation are taken when the entry is inserted.
    StampAtInsertion,
    /// A ping of the database counts as a synchronization.
    LeaseExtendedByPing,
    /// The answer goes out before the own cache knows.
    AnswerBeforeApply,
    /// An entry whose lease is out is still served while it is read again.
    ServeStaleWhileRevalidating,

    // Traps that the design names elsewhere.
    /// Only the time of reading is taken when the entry is inserted; the generation is guarded.
    ReadTimeAtInsertion,
    /// A poll continues after the highest transaction seen instead of from the oldest one open.
    SequenceCursor,
    /// The listener polls first and listens afterwards.
    PollBeforeListen,
    /// The lease counts from when the poll has returned.
    LeaseFromPollReturn,
    /// A waiter takes whatever the load it waits for brings.
    WaiterTakesAnyLoad,
    /// The lease is checked when the entry is found, not after the work.
    LeaseCheckedBeforeWork,
    /// A failed read is remembered as an unknown key.
    ErrorsRemembered,
    /// Unknown keys are remembered until they are evicted, also when a change is applied.
    UnknownForEver,
    /// Loads are shared by all keys of a shard.
    LoadsSharedByShard,

    // Traps that the design does not name; found with this model.
    /// The lease is checked after the work against the synchronization of that moment, and the generation is not.
    LeaseRenewedUnderCopy,
    /// A load that reads a revoked row caches it like any other record.
    RevokedRowWithoutTombstone,
    /// The first poll after a start takes the cursor and keeps what was cached before.
    FirstPollKeepsCache,
    /// A cursor is a position alone, whichever log it was taken in.
    PositionWithoutIdentity,
    /// A reset empties the cache, of what is known to be revoked as well.
    ResetForgetsRevoked,
    /// `wait=global` waits for T also where instances have a longer grace.
    GlobalWaitIgnoresGrace,
}

impl Variant {
    /// Whether the lease of a copy that is held during the work is renewed by a synchronization.
    pub(crate) fn renews_copies(self) -> bool {
        matches!(self, Self::CopyGuarded | Self::LeaseRenewedUnderCopy)
    }

    /// Whether [`State::representative`](crate::state::State::representative) is right. Most mistakes make it wrong, and
    /// without it instances keep their places, which makes traces easier to read.
    pub(crate) fn may_be_simplified(self) -> bool {
        matches!(
            self,
            Self::Designed
                | Self::CopyGuarded
                | Self::SequenceCursor
                | Self::PositionWithoutIdentity
        )
    }

    /// Whether a cursor carries the identity of its log.
    pub(crate) fn knows_logs(self) -> bool {
        self != Self::PositionWithoutIdentity
    }

    /// Whether a copy that is held during the work is given up when a change is applied.
    pub(crate) fn guards_copies(self) -> bool {
        self == Self::CopyGuarded
    }

    /// Whether a load that was overtaken is kept out of the cache.
    pub(crate) fn guards_generations(self) -> bool {
        !matches!(
            self,
            Self::DeleteWithoutGuard | Self::TombstoneWithoutGuard | Self::StampAtInsertion
        )
    }
}
