//! The protocol that keeps caches coherent, as a model whose states are checked exhaustively.
//!
//! Three instances serve verifications from their caches while keys change. The promise is that a
//! revoked key is refused at once on the instance that revoked it, and on others no later than T,
//! whatever is lost on the way. Tests of the real program reach a few of the possible
//! interleavings; here all of them are reached, within bounds. `stateright` enumerates the states,
//! and each party has a file:
//!
//! | File | Holds |
//! |---|---|
//! | `state` | rows, transactions, instances with cache, lease, cursor and work under way |
//! | `writer` | begin, commit, apply to the own cache, wake the others, answer |
//! | `reader` | look up, load, deliver, wait for another load, judge, go without a database |
//! | `listener` | listen, poll, apply, extend the lease |
//! | `audit` | the invariants that every verdict is checked against |
//! | `model` | the possible steps |
//! | `witness` | events that must occur, because otherwise the invariants would hold trivially |
//! | `variant` | the protocol as designed, and with one mistake at a time |
//! | `bounds` | the size of the checked world |
//!
//! # Modelled
//! - Transactions get their ids when they begin and commit in any order. The change log contains
//!   the changed key, not the change. A poll sees committed changes, and continues from the oldest
//!   transaction that is open.
//! - A poll happens at any moment, or never: this covers a late or lost notification, a listener
//!   that is down, a timer. It fails, or its result is applied much later. Connections and
//!   notifications themselves are modelled for the question whether a wake-up can be missed
//!   (`Bounds::wakeups`).
//! - A load takes any time, and fails at any moment: this covers an instance that is cut off from
//!   its database. Verifications load by themselves, past the cache, or wait for the load of
//!   another. They may judge their copy much later.
//! - The database becomes another one: a dump is restored into a cluster with other positions, or a
//!   replica is promoted, each with everything or without the last commit. I1 and I2 no longer
//!   cover changes that the database has lost. A key that an instance has reported as revoked stays
//!   refused there all the same (I3), as long as it neither restarts nor evicts it.
//! - Instances restart at any moment and forget everything; clients do not, so earlier answers
//!   still count. Entries are evicted at any moment, tombstones when no load is left that could be
//!   older.
//! - Time passes between any two steps. It has no end: only ages are stored, and they stop at the
//!   longest limit.
//!
//! # Not modelled
//! - Rules other than "active": expiry, addresses, scopes and limits are checked on every call and
//!   do not affect coherence. `Disabled` stands for everything that refuses a key reversibly, the
//!   state of an account included.
//! - The hash of a key, the map and its locks: an entry is looked up, inserted and removed in one
//!   step, and one step forgets it and increments its generation. The interleavings in between, the
//!   mark of a key's account included, are tested under a scheduler in `src/cache/map_tests.rs`.
//!   All keys are in one shard, which has one generation.
//! - The registry of live instances that `wait=global` uses: every instance is in it.
//! - Clocks that run at different rates. The implementation adds 50 ms and a percent where two
//!   clocks are compared.
//! - I7, which is about counting uses.
//!
//! Other steps of the implementation are one step here if that allows the model more: a load reads
//! the row at the moment its time and generation are taken, and a poll takes its snapshot at the
//! moment its time is taken (later would only be fresher). A load that was overtaken is repeated
//! any number of times, including none.
//!
//! # Bounds
//! T is two ticks, G three. At most three instances, two keys, two transactions, two verifications
//! per instance, and two or three things (verifications, polls) under way at once; the number of
//! verifications, polls, failures, restarts and evictions over time has no bound. Each test of
//! `as_designed` names the part of this that it combines.
//!
//! # Steps in the implementation
//! | Step | Implementation |
//! |---|---|
//! | `Begin`, `Commit` | the transaction of a change, in which a trigger writes the change log |
//! | `Apply`, `Answer` | `Cache::key_revoked_here`, ..; then the answer [^wait] |
//! | `Verify` | `Map::visit`; on a miss `Loader::load` with time and `Snapshot` |
//! | `Deliver`, `TryAgain` | `Map::store`, or `Stored::Changed` and another turn of the loader |
//! | `Judge` | the last check of lease and generation before the verdict [^guard] |
//! | `FailLoad` | `StoreError::Unavailable`: a `stale` verdict within the grace, 503 after it |
//! | `Poll`, `ApplyPoll` | `ChangeFeed::poll`, the cache, `ChangeFeed::applied`, `Lease::extend` |
//! | `Listen`, `LoseConnection`, `Announce` | the feed's listening connection, its `NOTIFY` |
//! | `Move` | another identity of the log: a reset, `Cache::everything_changed` |
//! | `Prune` | the change log loses rows older than ten minutes |
//!
//! [^wait]: With `wait=global` after `KeyService::everywhere`.
//!
//! [^guard]: `Variant::CopyGuarded` is this form of it.
//!
//! # Results beyond the design
//! The traps in `each_trap_found_here` are easy to fall into and described nowhere else:
//! - A copy of a record that is held while a limit is checked keeps the lease it was taken under.
//!   If the lease is checked again, the generation has to be checked as well.
//! - A load that reads a revoked row leaves a tombstone. Cached like any other record it is
//!   overwritten by an older load, and a key is accepted that was reported as revoked.
//! - The first poll after a start forgets everything, or takes its cursor before anything is
//!   cached.
//! - A position in the log is meaningless without the identity of the log: every new change may be
//!   "before" it.
//! - A reset that empties the cache reverses an answered revocation, if the database has lost it.
//! - With a grace longer than T, `wait=global` waits for the grace.
//!
//! And one row of the design's table is two mistakes: with the generation taken at insertion as
//! well as the time, I1 breaks; with the time alone it is I2.

mod audit;
mod bounds;
mod listener;
mod model;
mod reader;
mod state;
mod variant;
mod witness;
mod writer;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use bounds::Bounds;
use model::Coherence;
use state::{Broken, Move, Status, Write};
use variant::Variant;
use witness::Witness;

/// Two instances, one key, one change, and two things at a time. Every other scenario lists its
/// differences.
const PAIR: Bounds = Bounds {
    instances: 2,
    rows: &[Status::Active],
    writes: &[Write::Disable, Write::Revoke],
    transactions: 1,
    verifications: 2,
    polls: 1,
    under_way: 2,
    grace: 0,
    wait_global: false,
    direct_reads: true,
    restarts: true,
    evictions: true,
    prunes: false,
    moves: &[],
    wakeups: false,
};

/// The smallest bounds that show most mistakes.
const SMALL: Bounds = Bounds {
    direct_reads: false,
    restarts: false,
    evictions: false,
    ..PAIR
};

/// For mistakes that show in one verification of a key that is disabled.
const TINY: Bounds = Bounds {
    writes: &[Write::Disable],
    verifications: 1,
    ..SMALL
};

/// Checks every state: no invariant is broken in any, and each witness is seen in one.
fn holds(variant: Variant, bounds: Bounds, witnesses: &'static [Witness]) {
    let began = Instant::now();
    let model = Coherence {
        variant,
        bounds,
        witnesses,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = model.checker().threads(threads).spawn_bfs().join();
    println!(
        "{variant:?}: {} states, {} steps, {} deep, {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed(),
    );
    assert!(checker.is_done(), "states are left unchecked");
    checker.assert_properties();
}

/// Searches for a way to break an invariant, and finds one.
fn breaks(variant: Variant, bounds: Bounds, broken: Broken) {
    let began = Instant::now();
    let model = Coherence {
        variant,
        bounds,
        witnesses: &[],
    };
    // One thread, so that the trace is the shortest possible.
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AllOf([broken.name()].into()))
        .spawn_bfs()
        .join();
    let trace = checker
        .discovery(broken.name())
        .unwrap_or_else(|| panic!("{variant:?} does not break {}", broken.name()))
        .into_actions();
    println!(
        "{variant:?}: {} states, {:.1?}, {broken:?} by {trace:?}",
        checker.unique_state_count(),
        began.elapsed(),
    );
}

mod as_designed {
    use super::*;

    #[test]
    fn all_invariants_hold_on_three_instances() {
        let bounds = Bounds {
            instances: 3,
            ..SMALL
        };
        let witnesses = &[
            witness::ACCEPTED_UNDER_LEASE,
            witness::ACCEPTED_ELSEWHERE_AFTER_ANSWER,
            witness::ACCEPTED_BESIDE_REVOKED,
            witness::WAITER_TAKES_LOAD,
            witness::WAITER_MUST_NOT_TAKE_LOAD,
            witness::TOMBSTONE_AGAINST_OLDER_LOAD,
            witness::OLDER_LOAD_AFTER_REVOKED,
        ];
        holds(Variant::Designed, bounds, witnesses);
    }

    #[test]
    fn all_invariants_hold_on_three_instances_with_a_grace() {
        let bounds = Bounds {
            instances: 3,
            verifications: 1,
            grace: 3,
            ..SMALL
        };
        holds(Variant::Designed, bounds, &[witness::ACCEPTED_WITHIN_GRACE]);
    }

    #[test]
    fn all_invariants_hold_with_restarts_and_evictions_and_reads_past_the_cache() {
        let witnesses = &[witness::OLDER_LOAD_AFTER_REVOKED];
        holds(Variant::Designed, PAIR, witnesses);
    }

    #[test]
    fn all_invariants_hold_with_more_under_way_at_once() {
        let bounds = Bounds {
            writes: &[Write::Disable],
            under_way: 3,
            ..SMALL
        };
        let witnesses = &[
            witness::WAITER_TAKES_LOAD,
            witness::WAITER_MUST_NOT_TAKE_LOAD,
        ];
        holds(Variant::Designed, bounds, witnesses);
    }

    #[test]
    fn all_invariants_hold_when_copies_are_guarded_by_their_generation() {
        holds(
            Variant::CopyGuarded,
            PAIR,
            &[witness::ACCEPTED_ELSEWHERE_AFTER_ANSWER],
        );
    }

    #[test]
    fn a_transaction_that_commits_late_is_not_lost() {
        let bounds = Bounds {
            writes: &[Write::Rename, Write::Revoke],
            transactions: 2,
            under_way: 1,
            prunes: true,
            ..SMALL
        };
        let witnesses = &[witness::YOUNGER_COMMITS_FIRST, witness::FLUSH_AFTER_PRUNE];
        holds(Variant::Designed, bounds, witnesses);
    }

    #[test]
    fn a_key_that_comes_back_is_accepted_in_time() {
        let bounds = Bounds {
            rows: &[Status::Disabled],
            writes: &[Write::Enable],
            ..PAIR
        };
        let witnesses = &[witness::DISABLED_AFTER_ENABLE];
        holds(Variant::Designed, bounds, witnesses);
    }

    #[test]
    fn a_created_key_is_accepted_in_time_and_revoked_in_time() {
        let bounds = Bounds {
            rows: &[Status::Absent],
            writes: &[Write::Create, Write::Revoke],
            transactions: 2,
            under_way: 1,
            ..PAIR
        };
        holds(Variant::Designed, bounds, &[witness::UNKNOWN_AFTER_CREATE]);
    }

    #[test]
    fn keys_of_one_shard_are_not_mixed_up() {
        let bounds = Bounds {
            instances: 1,
            rows: &[Status::Active, Status::Active],
            ..PAIR
        };
        holds(
            Variant::Designed,
            bounds,
            &[witness::TWO_KEYS_LOAD_TOGETHER],
        );
    }

    #[test]
    fn an_answer_that_waits_for_all_instances_is_true_of_all() {
        let bounds = Bounds {
            wait_global: true,
            grace: 3,
            ..SMALL
        };
        let witnesses = &[
            witness::GLOBAL_ANSWER_BY_REPORTS,
            witness::GLOBAL_ANSWER_BY_TIME,
        ];
        holds(Variant::Designed, bounds, witnesses);
    }

    #[test]
    fn all_invariants_hold_when_the_database_moves_to_another_log() {
        let witnesses = &[
            witness::CURSOR_OF_ANOTHER_LOG,
            witness::CHANGE_BELOW_CURSOR,
            witness::ACCEPTED_ELSEWHERE_AFTER_ANSWER,
        ];
        holds(Variant::Designed, MOVED, witnesses);
    }

    #[test]
    fn what_was_answered_as_revoked_stays_refused_when_the_database_has_lost_it() {
        let bounds = Bounds {
            writes: &[Write::Revoke],
            moves: &[Move::RestoreBackup, Move::PromoteBehind],
            ..MOVED
        };
        let witnesses = &[witness::CURSOR_OF_ANOTHER_LOG, witness::REFUSED_THOUGH_LOST];
        holds(Variant::Designed, bounds, witnesses);
    }

    #[test]
    fn an_answer_that_waits_for_all_instances_is_true_in_another_log() {
        let bounds = Bounds {
            wait_global: true,
            // An answer about a change that the database then loses does not count.
            moves: &[Move::Restore, Move::Promote],
            under_way: 1,
            ..MOVED
        };
        let witnesses = &[
            witness::CHANGE_BELOW_CURSOR,
            witness::GLOBAL_ANSWER_BY_REPORTS,
        ];
        holds(Variant::Designed, bounds, witnesses);
    }

    #[test]
    fn no_announcement_is_lost_on_a_live_connection() {
        holds(
            Variant::Designed,
            WAKEUPS,
            &[witness::ANNOUNCED_DURING_POLL],
        );
    }
}

const WAKEUPS: Bounds = Bounds {
    writes: &[Write::Disable],
    transactions: 2,
    verifications: 0,
    polls: 2,
    wakeups: true,
    ..PAIR
};

/// The database is restored into another cluster, or a replica is promoted.
const MOVED: Bounds = Bounds {
    writes: &[Write::Disable],
    verifications: 1,
    moves: &[
        Move::Restore,
        Move::RestoreBackup,
        Move::Promote,
        Move::PromoteBehind,
    ],
    ..SMALL
};

mod each_trap_of_another_log {
    use super::*;

    #[test]
    fn a_position_without_the_identity_of_its_log_breaks_i2_in_a_restored_cluster() {
        let bounds = Bounds {
            moves: &[Move::Restore],
            under_way: 1,
            ..MOVED
        };
        breaks(Variant::PositionWithoutIdentity, bounds, Broken::I2);
    }

    #[test]
    fn a_position_without_the_identity_of_its_log_breaks_i2_after_a_promotion_that_lost_a_change() {
        let bounds = Bounds {
            // The first change is lost, and the second gets its position.
            transactions: 2,
            moves: &[Move::PromoteBehind],
            under_way: 1,
            ..MOVED
        };
        breaks(Variant::PositionWithoutIdentity, bounds, Broken::I2);
    }

    #[test]
    fn a_position_without_the_identity_of_its_log_breaks_wait_global() {
        let bounds = Bounds {
            wait_global: true,
            moves: &[Move::Restore],
            under_way: 1,
            ..MOVED
        };
        breaks(Variant::PositionWithoutIdentity, bounds, Broken::Global);
    }

    #[test]
    fn emptying_the_cache_at_a_reset_breaks_i3() {
        let bounds = Bounds {
            writes: &[Write::Revoke],
            moves: &[Move::PromoteBehind],
            under_way: 1,
            ..MOVED
        };
        breaks(Variant::ResetForgetsRevoked, bounds, Broken::I3);
    }
}

mod each_trap_of_the_table {
    use super::*;

    #[test]
    fn deleting_on_revoke_without_a_generation_guard_breaks_i1() {
        breaks(Variant::DeleteWithoutGuard, SMALL, Broken::I1);
    }

    #[test]
    fn a_tombstone_without_a_generation_guard_breaks_i2() {
        breaks(Variant::TombstoneWithoutGuard, TINY, Broken::I2);
    }

    #[test]
    fn stamping_the_entry_at_insertion_breaks_i1() {
        breaks(Variant::StampAtInsertion, SMALL, Broken::I1);
    }

    #[test]
    fn extending_the_lease_by_a_ping_breaks_i2() {
        breaks(Variant::LeaseExtendedByPing, TINY, Broken::I2);
    }

    #[test]
    fn answering_before_applying_locally_breaks_i1() {
        breaks(Variant::AnswerBeforeApply, SMALL, Broken::I1);
    }

    #[test]
    fn serving_stale_while_revalidating_breaks_i2() {
        breaks(Variant::ServeStaleWhileRevalidating, TINY, Broken::I2);
    }
}

mod each_trap_of_the_text {
    use super::*;

    #[test]
    fn taking_only_the_read_time_at_insertion_breaks_i2() {
        breaks(Variant::ReadTimeAtInsertion, TINY, Broken::I2);
    }

    #[test]
    fn following_a_sequence_breaks_i2() {
        let bounds = Bounds {
            writes: &[Write::Rename, Write::Disable],
            transactions: 2,
            under_way: 1,
            ..TINY
        };
        breaks(Variant::SequenceCursor, bounds, Broken::I2);
    }

    #[test]
    fn polling_before_listening_loses_an_announcement() {
        breaks(Variant::PollBeforeListen, WAKEUPS, Broken::Unheard);
    }

    #[test]
    fn counting_the_lease_from_the_return_of_the_poll_breaks_i2() {
        breaks(Variant::LeaseFromPollReturn, TINY, Broken::I2);
    }

    #[test]
    fn taking_any_load_that_was_waited_for_breaks_i1() {
        breaks(Variant::WaiterTakesAnyLoad, SMALL, Broken::I1);
    }

    #[test]
    fn checking_the_lease_before_the_work_breaks_i2() {
        breaks(Variant::LeaseCheckedBeforeWork, TINY, Broken::I2);
    }

    #[test]
    fn remembering_errors_breaks_i4() {
        breaks(Variant::ErrorsRemembered, TINY, Broken::I4);
    }

    #[test]
    fn remembering_unknown_keys_for_ever_breaks_i6() {
        let bounds = Bounds {
            rows: &[Status::Absent],
            writes: &[Write::Create],
            ..SMALL
        };
        breaks(Variant::UnknownForEver, bounds, Broken::I6);
    }

    #[test]
    fn sharing_loads_within_a_shard_breaks_i5() {
        let bounds = Bounds {
            instances: 1,
            rows: &[Status::Active, Status::Active],
            ..SMALL
        };
        breaks(Variant::LoadsSharedByShard, bounds, Broken::I5);
    }
}

mod each_trap_found_here {
    use super::*;

    #[test]
    fn renewing_the_lease_under_a_copy_breaks_i2() {
        breaks(Variant::LeaseRenewedUnderCopy, TINY, Broken::I2);
    }

    #[test]
    fn caching_a_revoked_row_without_a_tombstone_breaks_i3() {
        breaks(Variant::RevokedRowWithoutTombstone, SMALL, Broken::I3);
    }

    #[test]
    fn keeping_the_cache_over_the_first_poll_breaks_i2() {
        breaks(Variant::FirstPollKeepsCache, TINY, Broken::I2);
    }

    #[test]
    fn waiting_for_t_only_while_others_have_a_grace_breaks_wait_global() {
        let bounds = Bounds {
            wait_global: true,
            grace: 3,
            verifications: 1,
            polls: 0,
            ..SMALL
        };
        breaks(Variant::GlobalWaitIgnoresGrace, bounds, Broken::Global);
    }
}
