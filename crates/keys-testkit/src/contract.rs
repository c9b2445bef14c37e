//! The contract of every [`KeyStore`]. Each sentence of the port's documentation has its cases
//! here.
//!
//! A crate with a store calls [`store_contract!`](crate::store_contract!), and, if its audit trail
//! can be read, [`store_audit_contract!`](crate::store_audit_contract!). Each case becomes a test
//! of its own on a store of its own.
#![expect(
    clippy::unwrap_used,
    reason = "the cases are tests, though not in the crate they run in"
)]

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use keys_service::ports::KeyStore;

mod accepted;
mod accounts;
mod audit;
mod callers;
mod cap;
mod feed;
mod following;
mod idempotency;
mod key_updates;
mod keys;
mod lists;
mod revocations;
mod rotation;
mod steps;

pub use accepted::*;
pub use accounts::*;
pub use audit::*;
pub use callers::*;
pub use cap::*;
pub use feed::*;
pub use following::*;
pub use idempotency::*;
pub use key_updates::*;
pub use keys::*;
pub use lists::*;
pub use revocations::*;
pub use rotation::*;

/// Creates one test of each case of the contract.
///
/// The first argument names the module of the tests. The second is a future, evaluated again for
/// each test, that returns an empty store: an `Arc<dyn KeyStore>`, or that together with a value
/// that must live as long as the store, such as a [`Database`](crate::postgres::Database).
///
/// ```
/// use std::sync::Arc;
/// use keys_service::MemoryStore;
/// use keys_service::ports::KeyStore;
///
/// async fn memory() -> Arc<dyn KeyStore> {
///     Arc::new(MemoryStore::new())
/// }
///
/// keys_testkit::store_contract!(memory_store, memory());
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! store_contract {
    ($name:ident, $fixture:expr) => {
        $crate::contract_tests! {
            $name, run, $fixture;

            // Keys: storing, finding and listing.
            keys_come_back_as_they_were
            listed_keys_are_as_they_were
            key_is_found_only_when_digest_and_pepper_are_equal
            many_keys_are_found_at_once
            key_comes_with_its_account_as_it_is_now
            revoked_key_is_found_as_revoked
            expired_key_is_found
            same_key_cannot_be_stored_twice
            keys_are_listed_newest_first_with_ties_by_id
            pages_join_to_the_whole_list
            page_past_the_end_is_empty_and_knows_the_total
            only_keys_of_the_owner_are_listed
            revoked_keys_are_not_listed_and_expired_ones_are
            revoking_twice_is_false_and_changes_nothing
            one_of_many_concurrent_revocations_is_true
            keys_of_others_are_not_revoked
            without_an_owner_any_kind_is_revoked
            expired_key_can_be_revoked
            last_use_moves_forward_only
            last_use_survives_concurrent_batches
            large_batch_of_uses_is_recorded
            pepper_ids_are_those_of_living_keys
            sweep_deletes_sessions_that_ended_a_day_ago
            store_is_ready

            // Lists with everything about each key.
            key_is_found_with_everything_about_it
            pages_are_stable_while_keys_come_and_go
            listed_pages_join_to_the_whole_list
            keys_without_the_value_have_their_place
            filters_select_what_they_name
            keys_are_listed_by_their_status
            keys_with_other_statuses_are_counted
            // Revocations for a reason, many at once, and of operator keys.
            reason_and_note_are_stored
            refused_bulk_revocations_change_nothing
            only_selected_keys_are_revoked
            keys_are_revoked_by_their_maker
            thousand_keys_are_revoked_in_one_transaction
            leaked_key_takes_its_chain_with_it
            leaked_operator_key_takes_what_it_made
            leaked_key_leaves_no_key_behind
            last_operator_is_kept
            operators_never_revoke_the_last_of_them
            scopes_are_given_to_operator_keys_only

            // Changes of keys.
            update_changes_what_is_named_in_a_key_and_nothing_else
            keys_of_others_are_not_changed
            ended_key_is_not_changed
            patch_that_breaks_a_rule_changes_nothing
            one_of_many_concurrent_changes_of_a_version_is_made
            concurrent_changes_of_metadata_are_all_made
            key_is_widened_within_its_caller_as_the_caller_is_now
            refused_caller_changes_no_key
            changed_keys_are_counted
            changes_of_keys_are_in_the_feed

            // The cap and the plan.
            forty_concurrent_creates_at_a_cap_of_ten_give_ten
            revocations_interleaved_never_let_more_than_ten_be_usable
            accounts_at_their_cap_do_not_disturb_each_other
            revoked_key_frees_its_slot
            expired_key_frees_its_slot_at_the_exact_moment
            sessions_and_operator_keys_are_neither_counted_nor_capped
            cap_holds_only_where_it_is_asked_for
            lower_cap_keeps_all_keys_and_refuses_new_ones
            account_that_may_not_have_keys_is_refused
            without_plan_gate_only_disabled_accounts_are_refused
            unknown_account_is_not_given_a_key
            change_of_plan_or_state_counts_from_its_answer_on

            // Accounts.
            account_comes_back_as_it_was
            unknown_account_is_none
            external_id_is_unique
            external_id_is_unique_under_concurrent_inserts
            external_id_is_unique_under_concurrent_updates
            external_ids_are_equal_only_to_the_letter
            update_changes_what_is_named_and_nothing_else
            removed_external_id_is_free_for_others
            unknown_account_is_not_updated
            accounts_are_listed_by_id
            account_is_listed_by_its_external_id

            // The caller.
            caller_in_good_standing_may_change_things
            unknown_caller_is_refused
            revoked_caller_is_refused
            caller_is_refused_at_the_exact_moment_it_expires
            caller_of_a_disabled_account_is_refused
            caller_on_a_plan_without_keys_is_refused_where_the_plan_matters
            caller_from_outside_its_networks_is_refused
            caller_without_the_scopes_is_refused
            no_key_of_an_account_key_appears_after_its_revocation
            no_key_of_an_operator_key_appears_after_its_revocation
            caller_may_revoke_itself_once
            accepted_caller_that_was_refused_since_changes_nothing
            accepted_caller_acts_on_the_account_as_it_is_now
            key_is_within_its_caller_as_the_caller_is_now
            sessions_and_operators_do_not_limit_what_they_create
            forty_concurrent_creates_of_accepted_callers_give_ten
            nothing_happens_once_an_accepted_caller_is_refused
            accepted_callers_revoke_one_another

            // Rotation.
            rotation_of_a_key_that_has_changed_is_refused
            rotation_is_refused_with_its_caller_or_account
            rotated_key_and_its_successor_know_of_each_other
            rotated_key_never_ends_later_than_before
            third_key_of_a_chain_ends_the_first_at_once
            rotation_needs_no_free_slot
            one_of_many_concurrent_rotations_wins
            rotations_and_revocations_along_a_chain_do_not_deadlock
            rotation_completes_its_reservation
            rotation_is_in_the_feed

            // Idempotent answers.
            one_of_many_concurrent_reservations_is_new
            reservation_under_way_is_pending_for_others
            done_reservation_hands_back_digest_and_answer
            every_kind_of_creation_completes_its_reservation
            answer_under_a_former_pepper_is_found
            answer_is_taken_over_at_the_exact_moment_it_expires
            pending_reservation_is_taken_over_at_the_exact_moment_its_time_is_up
            superseded_attempt_creates_nothing
            attempt_superseded_under_a_former_pepper_creates_nothing
            late_attempt_that_nobody_superseded_completes
            released_attempt_creates_nothing
            reservation_is_completed_once
            released_reservation_can_be_made_again
            superseded_attempt_releases_nothing
            done_reservation_is_not_released
            refused_change_leaves_the_reservation_pending
            reservations_do_not_disturb_each_other
            sweep_deletes_expired_answers_only

            // Following changes.
            first_poll_is_a_reset
            every_change_is_in_the_feed
            what_changes_no_judgement_is_not_in_the_feed
            what_was_not_applied_comes_again
            feeds_do_not_disturb_each_other
            no_change_is_missed_under_load
            change_wakes_whoever_waits
            waiting_ends_when_the_next_poll_is_due
            waiting_can_be_given_up
            without_feeds_everything_is_seen
            change_is_seen_once_every_feed_has_applied_it
            silent_feed_is_waited_for_while_its_cache_may_be_trusted
            feed_that_comes_back_is_waited_for
            given_work_is_run
        }
    };
}

/// Creates one test of each case of the contract that reads the audit trail.
///
/// Like [`store_contract!`], but the future returns an
/// [`AuditedStore`](crate::contract::AuditedStore).
#[macro_export]
macro_rules! store_audit_contract {
    ($name:ident, $fixture:expr) => {
        $crate::contract_tests! {
            $name, run_audited, $fixture;

            every_change_leaves_its_trace
            trace_names_the_caller
            rotation_leaves_a_trace_of_each_key
            refused_changes_leave_no_trace
            what_changes_no_record_leaves_no_trace
            concurrent_changes_leave_one_trace_each
            each_key_of_a_bulk_revocation_leaves_its_trace
            changes_of_a_key_leave_their_trace
        }
    };
}

/// Not for direct use: the tests of [`store_contract!`] and [`store_audit_contract!`].
#[doc(hidden)]
#[macro_export]
macro_rules! contract_tests {
    ($name:ident, $run:ident, $fixture:expr; $($case:ident)*) => {
        mod $name {
            #[allow(unused_imports, reason = "the expression may need nothing from around it")]
            use super::*;

            $(
                #[test]
                fn $case() {
                    $crate::contract::$run(async { $fixture.await }, $crate::contract::$case);
                }
            )*
        }
    };
}

/// A store to be tested, and a value that must live as long as it.
pub struct Fixture {
    store: Arc<dyn KeyStore>,
    guard: Option<Box<dyn Any + Send>>,
}

impl From<Arc<dyn KeyStore>> for Fixture {
    fn from(store: Arc<dyn KeyStore>) -> Self {
        Self { store, guard: None }
    }
}

impl<G: Any + Send> From<(Arc<dyn KeyStore>, G)> for Fixture {
    fn from((store, guard): (Arc<dyn KeyStore>, G)) -> Self {
        Self {
            store,
            guard: Some(Box::new(guard)),
        }
    }
}

/// Runs one case on several threads.
pub fn run<X, F>(fixture: impl Future<Output = X>, case: impl FnOnce(Arc<dyn KeyStore>) -> F)
where
    X: Into<Fixture>,
    F: Future<Output = ()>,
{
    let runtime = runtime();
    let Fixture { store, guard } = runtime.block_on(fixture).into();
    runtime.block_on(in_time(case(store)));
    // A database can be dropped only without connections.
    drop(runtime);
    drop(guard);
}

/// Runs one case that reads the audit trail on several threads.
pub fn run_audited<F>(
    fixture: impl Future<Output = AuditedStore>,
    case: impl FnOnce(AuditedStore) -> F,
) where
    F: Future<Output = ()>,
{
    let runtime = runtime();
    let store = runtime.block_on(fixture);
    runtime.block_on(in_time(case(store)));
}

/// Fails a store that deadlocks, or never gives the refusal that a case waits for, instead of
/// hanging.
async fn in_time(case: impl Future<Output = ()>) {
    const AT_MOST: Duration = Duration::from_mins(2);
    let ended = tokio::time::timeout(AT_MOST, case).await;
    ended.expect("the case ends within two minutes");
}

fn runtime() -> tokio::runtime::Runtime {
    const THREADS: usize = 4;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .expect("a runtime can be started")
}

#[cfg(test)]
mod tests {
    use super::*;
    use keys_service::MemoryStore;

    #[test]
    fn every_case_is_in_a_list() {
        let lists = include_str!("contract.rs");
        let cases = [
            include_str!("contract/accepted.rs"),
            include_str!("contract/accounts.rs"),
            include_str!("contract/audit.rs"),
            include_str!("contract/callers.rs"),
            include_str!("contract/cap.rs"),
            include_str!("contract/feed.rs"),
            include_str!("contract/idempotency.rs"),
            include_str!("contract/key_updates.rs"),
            include_str!("contract/keys.rs"),
            include_str!("contract/lists.rs"),
            include_str!("contract/revocations.rs"),
            include_str!("contract/rotation.rs"),
        ]
        .concat();
        let mut count = 0;
        for line in cases.lines() {
            let Some(rest) = line.strip_prefix("pub async fn ") else {
                continue;
            };
            let name = rest.split('(').next().unwrap();
            assert!(
                lists.lines().any(|listed| listed.trim() == name),
                "{name} is in no list"
            );
            count += 1;
        }
        assert!(count > 50, "the cases are where this test looks for them");
    }

    #[test]
    #[should_panic(expected = "guarded case ran")]
    fn case_runs_with_a_guard() {
        let store: Arc<dyn KeyStore> = Arc::new(MemoryStore::new());
        let fixture = async { (store, vec![1_u8]) };
        run(fixture, |_| async { panic!("guarded case ran") });
    }
}
