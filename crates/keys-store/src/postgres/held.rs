//! A change in one statement, on the condition that its caller is as it was when it was accepted.

use diesel::QueryResult;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment};
use diesel::sql_types::{BigInt, Bool, Nullable, SmallInt, Text};
use keys_core::{Account, ApiKey};

use crate::rows::{NewAccountRow, WrittenKeyRow};
use crate::types::{Id, Moment, NetworkList, TextList};

/// Condition that the trigger is enabled which counts new keys in `key_count`. Without it, the
/// counter of an account stays below its keys while keys are created. Enabled in the way that
/// `pg_restore --disable-triggers` leaves behind does not suffice, because keys that were loaded
/// are not counted until the next migration, which restores the trigger.
///
/// Evaluated once for each statement, in about 0.01 ms.
pub(super) const NEW_KEYS_ARE_COUNTED: &str = "exists (\
    select from pg_catalog.pg_trigger as counting \
    where counting.tgrelid = 'api_key'::regclass and counting.tgname = 'api_key_counted_insert' \
        and counting.tgenabled = 'A')";

/// The caller's account and key as they were read when it was accepted, and were judged. The common
/// table expression `held` locks both and has one row if they still are so,
/// otherwise none.
///
/// Locks that have to be waited for come with the latest version of their row, and the conditions
/// hold for that version (`EvalPlanQual`). So they hold until the transaction ends, in one
/// statement. Rows that are not locked are seen as they were when the statement began. In
/// particular keys must not be counted in it, but the counter of an account is a row that can be
/// locked.
pub(crate) struct Held {
    account: NewAccountRow,
    key: WrittenKeyRow,
    listed_below: Option<i64>,
}

impl Held {
    pub(crate) fn new(account: &Account, key: &ApiKey) -> Self {
        Self {
            account: account.into(),
            key: key.into(),
            listed_below: None,
        }
    }

    /// And if the account has less than `max` keys that are not revoked, as far as keys are
    /// counted. That is a narrower condition than less than `max` usable keys, because expired ones
    /// count.
    pub(crate) fn with_less_than(mut self, max: u32) -> Self {
        self.listed_below = Some(max.into());
        self
    }
}

impl QueryFragment<Pg> for Held {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let (account, key) = (&self.account, &self.key);
        out.push_sql(
            "held as materialized (select from account \
             join api_key as caller on caller.account_id = account.id",
        );
        if self.listed_below.is_some() {
            out.push_sql(" join key_count as counted on counted.account_id = account.id");
        }
        out.push_sql(" where account.id = ");
        out.push_bind_param::<Id, _>(&account.id)?;
        out.push_sql(" and account.external_id is not distinct from ");
        out.push_bind_param::<Nullable<Text>, _>(&account.external_id)?;
        out.push_sql(" and account.plan = ");
        out.push_bind_param::<Text, _>(&account.plan)?;
        out.push_sql(" and account.disabled = ");
        out.push_bind_param::<Bool, _>(&account.disabled)?;
        out.push_sql(" and caller.id = ");
        out.push_bind_param::<Id, _>(&key.id)?;
        out.push_sql(" and caller.kind = ");
        out.push_bind_param::<SmallInt, _>(&key.kind)?;
        out.push_sql(" and caller.shown_prefix = ");
        out.push_bind_param::<Text, _>(&key.shown_prefix)?;
        out.push_sql(" and caller.name is not distinct from ");
        out.push_bind_param::<Nullable<Text>, _>(&key.name)?;
        out.push_sql(" and caller.allowed_networks = ");
        out.push_bind_param::<NetworkList, _>(&key.allowed_networks)?;
        out.push_sql(" and caller.scopes = ");
        out.push_bind_param::<TextList, _>(&key.scopes)?;
        out.push_sql(" and caller.expires_at is not distinct from ");
        out.push_bind_param::<Nullable<Moment>, _>(&key.expires_at)?;
        out.push_sql(" and caller.revoked_at is not distinct from ");
        out.push_bind_param::<Nullable<Moment>, _>(&key.revoked_at)?;
        out.push_sql(" and caller.disabled_at is not distinct from ");
        out.push_bind_param::<Nullable<Moment>, _>(&key.disabled_at)?;
        out.push_sql(" and caller.limits = ");
        out.push_bind_param::<Text, _>(&key.limits)?;
        if let Some(max) = &self.listed_below {
            out.push_sql(" and counted.listed < ");
            out.push_bind_param::<BigInt, _>(max)?;
            out.push_sql(" and ");
            out.push_sql(NEW_KEYS_ARE_COUNTED);
        }
        // In the order in which every change locks: account, keys, counter.
        out.push_sql(" for no key update of account for share of caller");
        if self.listed_below.is_some() {
            out.push_sql(" for no key update of counted");
        }
        out.push_sql(")");
        Ok(())
    }
}
