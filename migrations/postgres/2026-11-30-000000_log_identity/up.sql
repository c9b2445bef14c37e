-- A position in the log of changes means nothing without the identity of the log. `pg_dump` copies unlogged tables too, so
-- rows of `instance` can arrive in a cluster whose transactions have other numbers. `log` is the system identifier of the
-- cluster, the timeline, and when the server started. Rows of a program that does not write it never count as having seen
-- anything.
--
-- All locks are taken at once, before any work: the feeds stop at `instance`, and reads queue behind a lock that is waited for.
lock table account, api_key, key_change, instance, instance_epoch in access exclusive mode;
alter table instance add column log text not null default '';
alter table instance_epoch add column log text not null default '';

-- Nothing of a new account or key is in any cache, so adding one is not a change that caches must hear of.
drop trigger account_noted on account;
create trigger account_delete_noted after delete on account
    for each row execute function note_key_change(2);
drop trigger api_key_noted on api_key;
create trigger api_key_delete_noted after delete on api_key
    for each row execute function note_key_change(1);

-- Emptying the log by hand, or editing it, takes changes away that an instance may not have read yet. It is noted as a change of everything,
-- unless the transaction is the service's own pruning, which deletes only what every instance has applied. The version before does not
-- say that it prunes, but notes in the same statement how far: an instance that has not seen as much starts afresh by itself.
create function note_log_edited() returns trigger
language plpgsql set search_path from current as $$
begin
    if coalesce(current_setting('keys.pruning', true), '') = 'on' then
        return null;
    end if;
    -- Nested, because only a deletion has this table.
    if tg_op = 'DELETE' then
        if not exists (select from removed where xid > coalesce((select mark from key_change_pruned), '0')) then
            return null;
        end if;
    end if;
    insert into key_change (kind) values (3);
    return null;
end
$$;
create trigger key_change_kept after delete on key_change
    referencing old table as removed for each statement execute function note_log_edited();
create trigger key_change_edited after update of xid, kind, ref on key_change
    for each statement execute function note_log_edited();
create trigger key_change_emptied after truncate on key_change
    for each statement execute function note_log_edited();

-- Instances that are deleted by hand may still have caches: until those have run out, `instance` is not complete.
create function note_instance_removed() returns trigger
language plpgsql set search_path from current as $$
begin
    if coalesce(current_setting('keys.pruning', true), '') = 'on' then
        return null;
    end if;
    -- After ten minutes of silence no instance has a cache that it may use; the longest grace is five.
    if tg_op = 'DELETE' then
        if not exists (select from removed where seen_at > now() - interval '10 minutes') then
            return null;
        end if;
    end if;
    update instance_epoch set since = now();
    return null;
end
$$;
create trigger instance_kept after delete on instance
    referencing old table as removed for each statement execute function note_instance_removed();
create trigger instance_emptied after truncate on instance
    for each statement execute function note_instance_removed();

-- By default triggers do not fire for sessions in the role `replica`, such as those of `pg_restore --disable-triggers`,
-- logical replication and many bulk tools.
alter table account
    enable always trigger account_delete_noted,
    enable always trigger account_update_noted,
    enable always trigger account_truncate_noted,
    enable always trigger account_id_fixed;
alter table api_key
    enable always trigger api_key_delete_noted,
    enable always trigger api_key_update_noted,
    enable always trigger api_key_truncate_noted,
    enable always trigger api_key_identity_fixed,
    enable always trigger api_key_revocation_final;
alter table key_change
    enable always trigger key_change_kept,
    enable always trigger key_change_edited,
    enable always trigger key_change_emptied;
alter table instance
    enable always trigger instance_kept,
    enable always trigger instance_emptied;

-- Why a change was made that nobody asked for at that moment. Absent for all others.
alter table audit_event add column reason text;
alter table audit_event add constraint audit_event_reason check (char_length(reason) between 1 and 64) not valid;
