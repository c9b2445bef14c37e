drop trigger api_key_update_noted on api_key;
create trigger api_key_update_noted after update on api_key
    for each row when (
        (old.id, old.account_id, old.kind, old.digest, old.pepper_id, old.shown_prefix, old.name,
         old.allowed_networks, old.scopes, old.expires_at, old.revoked_at, old.created_at)
        is distinct from
        (new.id, new.account_id, new.kind, new.digest, new.pepper_id, new.shown_prefix, new.name,
         new.allowed_networks, new.scopes, new.expires_at, new.revoked_at, new.created_at)
    ) execute function note_key_change(1);
drop trigger api_key_identity_fixed on api_key;
create trigger api_key_identity_fixed before update on api_key
    for each row when (
        (old.id, old.account_id, old.kind, old.digest, old.pepper_id, old.created_at)
        is distinct from
        (new.id, new.account_id, new.kind, new.digest, new.pepper_id, new.created_at)
    ) execute function refuse_change('what a key is and whose it is never changes');
alter table api_key
    enable always trigger api_key_update_noted,
    enable always trigger api_key_identity_fixed;

-- A program that does not know of these columns would accept a disabled key, would not keep a key to its own limits, and
-- would not keep the keys that a session makes to the scopes of the session.
update api_key set revoked_at = now() where revoked_at is null
    and (disabled_at is not null or limits <> '{}' or (kind = 3 and scopes <> '{}'));

alter table api_key
    drop column disabled_at,
    drop column subject,
    drop column created_by_kind,
    drop column created_by_id,
    drop column metadata,
    drop column limits,
    drop column predecessor_id,
    drop column successor_id,
    drop column revoked_reason,
    drop column revoked_note,
    drop column last_used_ip,
    drop column last_used_day;

delete from schema_compatibility where migration = '20261202000000';
