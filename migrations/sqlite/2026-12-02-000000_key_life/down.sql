drop trigger api_key_update_noted;
drop trigger api_key_identity_fixed;

-- A program that does not know of these columns would accept a disabled key, would not keep a key to its own limits, and
-- would not keep the keys that a session makes to the scopes of the session.
update api_key set revoked_at = cast(strftime('%s', 'now') as integer) * 1000000
where revoked_at is null
    and (disabled_at is not null or limits <> '{}' or (kind = 3 and scopes <> '[]'));

alter table api_key drop column disabled_at;
alter table api_key drop column subject;
alter table api_key drop column created_by_id;
alter table api_key drop column created_by_kind;
alter table api_key drop column metadata;
alter table api_key drop column limits;
alter table api_key drop column predecessor_id;
alter table api_key drop column successor_id;
alter table api_key drop column revoked_reason;
alter table api_key drop column revoked_note;
alter table api_key drop column last_used_ip;
alter table api_key drop column last_used_day;

create trigger api_key_update_noted after update on api_key
when (old.id, old.account_id, old.kind, old.digest, old.pepper_id, old.shown_prefix, old.name,
      old.allowed_networks, old.scopes, old.expires_at, old.revoked_at, old.created_at)
    is not
     (new.id, new.account_id, new.kind, new.digest, new.pepper_id, new.shown_prefix, new.name,
      new.allowed_networks, new.scopes, new.expires_at, new.revoked_at, new.created_at)
begin
    insert into key_change (kind, ref) values (1, new.id);
end;
create trigger api_key_identity_fixed before update on api_key
when (old.id, old.account_id, old.kind, old.digest, old.pepper_id, old.created_at)
    is not
     (new.id, new.account_id, new.kind, new.digest, new.pepper_id, new.created_at)
begin
    select raise(abort, 'what a key is and whose it is never changes');
end;

delete from schema_compatibility where migration = '20261202000000';
