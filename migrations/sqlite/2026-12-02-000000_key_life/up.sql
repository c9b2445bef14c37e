-- The life of a key: who made it and for whom, whether it is disabled, its own limits, which key it was rotated from and
-- into, why it was revoked, and how it was used last.
--
-- A program that does not know `disabled_at` accepts disabled keys. So no key may be disabled before each instance runs
-- a version that knows it; docs/operations.md says so.

-- Since when the key is disabled. Null while it is enabled.
alter table api_key add column disabled_at integer;
-- The host system's id of the person that a session is for, or in whose session the key was made.
alter table api_key add column subject text check (length(subject) between 1 and 255
    and instr(cast(subject as blob), x'00') = 0
    and subject not glob '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
-- The party that made the key. Null for keys that are older than this migration.
alter table api_key add column created_by_kind text
    check (created_by_kind in ('system', 'operator', 'account', 'session'));
alter table api_key add column created_by_id blob
    check (length(created_by_id) = 16 and (created_by_id is null or created_by_kind <> 'system'));
-- A JSON object of strings.
alter table api_key add column metadata text not null default '{}'
    check (length(cast(metadata as blob)) <= 8192 and json_type(metadata) = 'object');
-- Limits on top of those of the plan: a JSON object by the name of the limit.
alter table api_key add column limits text not null default '{}'
    check (length(cast(limits as blob)) <= 8192 and json_type(limits) = 'object');
-- The key that this one replaced by rotation, and the one that replaced it.
alter table api_key add column predecessor_id blob check (length(predecessor_id) = 16);
alter table api_key add column successor_id blob check (length(successor_id) = 16);
alter table api_key add column revoked_reason text
    check (revoked_reason in ('superseded', 'leaked', 'offboarded', 'unused', 'other')
        and (revoked_reason is null or revoked_at is not null));
alter table api_key add column revoked_note text
    check (length(revoked_note) between 1 and 500 and (revoked_note is null or revoked_at is not null));
alter table api_key add column last_used_ip text;
-- The day of last_used_at, in days since 1970: what lists sort and filter by.
alter table api_key add column last_used_day integer;

-- Every column but those that recording a use writes, because that changes no judgement and happens all the time.
drop trigger api_key_update_noted;
create trigger api_key_update_noted after update on api_key
when (old.id, old.account_id, old.kind, old.digest, old.pepper_id, old.shown_prefix, old.name,
      old.allowed_networks, old.scopes, old.expires_at, old.revoked_at, old.created_at, old.disabled_at, old.limits)
    is not
     (new.id, new.account_id, new.kind, new.digest, new.pepper_id, new.shown_prefix, new.name,
      new.allowed_networks, new.scopes, new.expires_at, new.revoked_at, new.created_at, new.disabled_at, new.limits)
begin
    insert into key_change (kind, ref) values (1, new.id);
end;
drop trigger api_key_identity_fixed;
create trigger api_key_identity_fixed before update on api_key
when (old.id, old.account_id, old.kind, old.digest, old.pepper_id, old.created_at, old.subject, old.created_by_kind,
      old.created_by_id, old.predecessor_id)
    is not
     (new.id, new.account_id, new.kind, new.digest, new.pepper_id, new.created_at, new.subject, new.created_by_kind,
      new.created_by_id, new.predecessor_id)
begin
    select raise(abort, 'what a key is and whose it is never changes');
end;

insert into schema_compatibility (migration, oldest) values ('20261202000000', '20261130000300');
