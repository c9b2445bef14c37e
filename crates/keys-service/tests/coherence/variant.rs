//! The protocol as designed, and with one mistake at a time.

/// The protocol that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Designed,
    /// As designed, with the other correct check after the work: against the lease of that moment,
    /// and the generation as well.
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
    /// The answer is sent before the own cache is updated.
    AnswerBeforeApply,
    /// An entry whose lease has ended is still served while it is read again.
    ServeStaleWhileRevalidating,

    // Traps that the design names elsewhere.
    /// Only the time of reading is taken when the entry is inserted; the generation is guarded.
    ReadTimeAtInsertion,
    /// A poll continues after the highest transaction seen instead of from the oldest one open.
    SequenceCursor,
    /// The listener polls first and listens afterwards.
    PollBeforeListen,
    /// The lease starts when the poll has returned.
    LeaseFromPollReturn,
    /// A waiter takes the result of the load it waits for, whatever its start.
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
    /// The lease is checked after the work against the synchronization of that moment, and the
    /// generation is not.
    LeaseRenewedUnderCopy,
    /// A load that reads a revoked row caches it like any other record.
    RevokedRowWithoutTombstone,
    /// The first poll after a start takes the cursor and keeps the records that were cached before.
    FirstPollKeepsCache,
    /// A cursor is a position alone, without the identity of its log.
    PositionWithoutIdentity,
    /// A reset empties the cache, including keys that are known to be revoked.
    ResetForgetsRevoked,
    /// `wait=global` waits for T also where instances have a longer grace.
    GlobalWaitIgnoresGrace,
}

impl Variant {
    /// Returns whether a synchronization renews the lease of a copy that is held during the work.
    pub(crate) fn renews_copies(self) -> bool {
        matches!(self, Self::CopyGuarded | Self::LeaseRenewedUnderCopy)
    }

    /// Returns whether [`State::representative`](crate::state::State::representative) is valid.
    /// Most mistakes make it invalid, and without it instances keep their indices, which makes
    /// traces easier to read.
    pub(crate) fn may_be_simplified(self) -> bool {
        matches!(
            self,
            Self::Designed
                | Self::CopyGuarded
                | Self::SequenceCursor
                | Self::PositionWithoutIdentity
        )
    }

    /// Returns whether a cursor contains the identity of its log.
    pub(crate) fn knows_logs(self) -> bool {
        self != Self::PositionWithoutIdentity
    }

    /// Returns whether a copy that is held during the work is discarded when a change is applied.
    pub(crate) fn guards_copies(self) -> bool {
        self == Self::CopyGuarded
    }

    /// Returns whether a load that was overtaken is kept out of the cache.
    pub(crate) fn guards_generations(self) -> bool {
        !matches!(
            self,
            Self::DeleteWithoutGuard | Self::TombstoneWithoutGuard | Self::StampAtInsertion
        )
    }
}
