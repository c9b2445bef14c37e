-- The life of a key: who made it and for whom, whether it is disabled, its own limits, which key it was rotated from and
-- into, why it was revoked, and how it was used last.
--
-- A program that does not know `disabled_at` accepts disabled keys. So no key may be disabled before each instance runs
-- a version that knows it; docs/operations.md says so.
--
-- Each column has a default that needs no rewrite of the table, and each check is on a new column, so existing rows obey
-- it. The checks are not validated, which would read every row under an exclusive lock.
alter table api_key
    -- Since when the key is disabled. Null while it is enabled.
    add column disabled_at     timestamptz,
    -- The host system's id of the person that a session is for, or in whose session the key was made.
    add column subject         text,
    -- The party that made the key. Null for keys that are older than this migration.
    add column created_by_kind text,
    add column created_by_id   uuid,
    -- A JSON object of strings.
    add column metadata        text not null default '{}',
    -- Limits on top of those of the plan: a JSON object by the name of the limit.
    add column limits          text not null default '{}',
    -- The key that this one replaced by rotation, and the one that replaced it.
    add column predecessor_id  uuid,
    add column successor_id    uuid,
    add column revoked_reason  text,
    add column revoked_note    text,
    add column last_used_ip    inet,
    -- The day of last_used_at, in days since 1970: what lists sort and filter by.
    add column last_used_day   integer;

alter table api_key
    add constraint api_key_subject_legal check (
        char_length(subject) between 1 and 255 and not subject collate "C" ~ '[\u0001-\u001f\u007f-\u009f]') not valid,
    add constraint api_key_created_by_legal check (
        created_by_kind in ('system', 'operator', 'account', 'session')
        and (created_by_kind = 'system') = (created_by_id is null)) not valid,
    add constraint api_key_metadata_legal check (octet_length(metadata) <= 8192 and metadata like '{%}') not valid,
    add constraint api_key_limits_legal check (octet_length(limits) <= 8192 and limits like '{%}') not valid,
    add constraint api_key_revoked_reason_legal check (
        revoked_reason in ('superseded', 'leaked', 'offboarded', 'unused', 'other')
        and (revoked_reason is null or revoked_at is not null)) not valid,
    add constraint api_key_revoked_note_legal check (
        char_length(revoked_note) between 1 and 500 and (revoked_note is null or revoked_at is not null)) not valid;

-- Every column but those that recording a use writes, because that changes no judgement and happens all the time.
drop trigger api_key_update_noted on api_key;
create trigger api_key_update_noted after update on api_key
    for each row when (
        (old.id, old.account_id, old.kind, old.digest, old.pepper_id, old.shown_prefix, old.name,
         old.allowed_networks, old.scopes, old.expires_at, old.revoked_at, old.created_at, old.disabled_at, old.limits)
        is distinct from
        (new.id, new.account_id, new.kind, new.digest, new.pepper_id, new.shown_prefix, new.name,
         new.allowed_networks, new.scopes, new.expires_at, new.revoked_at, new.created_at, new.disabled_at, new.limits)
    ) execute function note_key_change(1);
drop trigger api_key_identity_fixed on api_key;
create trigger api_key_identity_fixed before update on api_key
    for each row when (
        (old.id, old.account_id, old.kind, old.digest, old.pepper_id, old.created_at, old.subject, old.created_by_kind,
         old.created_by_id, old.predecessor_id)
        is distinct from
        (new.id, new.account_id, new.kind, new.digest, new.pepper_id, new.created_at, new.subject, new.created_by_kind,
         new.created_by_id, new.predecessor_id)
    ) execute function refuse_change('what a key is and whose it is never changes');
alter table api_key
    enable always trigger api_key_update_noted,
    enable always trigger api_key_identity_fixed;

insert into schema_compatibility (migration, oldest) values ('20261202000000', '20261130000300');
