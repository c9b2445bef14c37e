//! The tables both databases have, as the queries see them.

diesel::table! {
    use diesel::sql_types::{Bool, Nullable, Text};
    use crate::types::{Id, Moment};

    account (id) {
        id -> Id,
        external_id -> Nullable<Text>,
        plan -> Text,
        disabled -> Bool,
        created_at -> Moment,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Binary, Integer, Nullable, SmallInt, Text};
    use crate::types::{Address, Id, Moment, NetworkList, TextList};

    api_key (id) {
        id -> Id,
        account_id -> Nullable<Id>,
        kind -> SmallInt,
        digest -> Binary,
        pepper_id -> Text,
        shown_prefix -> Text,
        name -> Nullable<Text>,
        allowed_networks -> NetworkList,
        scopes -> TextList,
        expires_at -> Nullable<Moment>,
        revoked_at -> Nullable<Moment>,
        last_used_at -> Nullable<Moment>,
        use_count -> BigInt,
        created_at -> Moment,
        disabled_at -> Nullable<Moment>,
        subject -> Nullable<Text>,
        created_by_kind -> Nullable<Text>,
        created_by_id -> Nullable<Id>,
        metadata -> Text,
        limits -> Text,
        predecessor_id -> Nullable<Id>,
        successor_id -> Nullable<Id>,
        revoked_reason -> Nullable<Text>,
        revoked_note -> Nullable<Text>,
        last_used_ip -> Nullable<Address>,
        last_used_day -> Nullable<Integer>,
    }
}

diesel::table! {
    use diesel::sql_types::{Nullable, Text};
    use crate::types::{Address, Id, Moment};

    audit_event (id) {
        id -> Id,
        at -> Moment,
        actor_kind -> Text,
        actor_id -> Nullable<Id>,
        action -> Text,
        subject_id -> Id,
        address -> Nullable<Address>,
        reason -> Nullable<Text>,
    }
}

diesel::table! {
    use diesel::sql_types::{Binary, Nullable, Text};
    use crate::types::{Id, Moment};

    idempotency (lookup) {
        lookup -> Binary,
        body_digest -> Binary,
        token -> Id,
        sealed -> Nullable<Binary>,
        expires_at -> Moment,
        holder -> Nullable<Text>,
    }
}

diesel::table! {
    __diesel_schema_migrations (version) {
        version -> Text,
    }
}

diesel::table! {
    schema_compatibility (migration) {
        migration -> Text,
        oldest -> Text,
    }
}

diesel::table! {
    use diesel::sql_types::BigInt;
    use crate::types::Id;

    key_count (account_id) {
        account_id -> Id,
        listed -> BigInt,
        unending -> BigInt,
    }
}

diesel::joinable!(api_key -> account (account_id));
diesel::allow_tables_to_appear_in_same_query!(account, api_key);
