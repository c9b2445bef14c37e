-- Logical replication applies each row by itself and fires triggers for rows only, so what it writes was not counted. In
-- sessions with the role `replica` (logical replication, and tools or people that set it) triggers for rows now count. In
-- all other sessions those for statements go on doing so.
--
-- The role decides as a condition of each trigger, beside how the trigger is enabled: `alter table .. enable trigger all`, as
-- of `pg_restore --disable-triggers`, must not have a change counted twice. Triggers for statements stay enabled in every role,
-- because a program of the version before enables them so.
--
-- What was not counted before is found by `keys-server migrate`, which compares the numbers with the keys.
lock table api_key in access exclusive mode;

drop trigger api_key_counted_insert on api_key;
drop trigger api_key_counted_delete on api_key;
drop trigger api_key_counted_update on api_key;
create trigger api_key_counted_insert after insert on api_key
    referencing new table as added for each statement
    when (current_setting('session_replication_role') <> 'replica') execute function count_keys();
create trigger api_key_counted_delete after delete on api_key
    referencing old table as removed for each statement
    when (current_setting('session_replication_role') <> 'replica') execute function count_keys();
create trigger api_key_counted_update after update on api_key
    referencing old table as removed new table as added for each statement
    when (current_setting('session_replication_role') <> 'replica') execute function count_keys();
alter table api_key
    enable always trigger api_key_counted_insert,
    enable always trigger api_key_counted_delete,
    enable always trigger api_key_counted_update;

create function count_replicated_key() returns trigger
language plpgsql as $$
begin
    -- Nested, because an insertion has no old row and a deletion has no new one.
    if tg_op <> 'INSERT' then
        if old.kind = 2 and old.revoked_at is null then
            insert into key_count as kept (account_id, listed, unending)
            values (old.account_id, -1, -(old.expires_at is null)::int)
            on conflict (account_id) do update
            set listed = kept.listed + excluded.listed, unending = kept.unending + excluded.unending;
        end if;
    end if;
    if tg_op <> 'DELETE' then
        if new.kind = 2 and new.revoked_at is null then
            insert into key_count as kept (account_id, listed, unending)
            values (new.account_id, 1, (new.expires_at is null)::int)
            on conflict (account_id) do update
            set listed = kept.listed + excluded.listed, unending = kept.unending + excluded.unending;
        end if;
    end if;
    return null;
end
$$;
create trigger api_key_counted_replicated_insert after insert on api_key for each row
    when (current_setting('session_replication_role') = 'replica' and new.kind = 2 and new.revoked_at is null)
    execute function count_replicated_key();
create trigger api_key_counted_replicated_delete after delete on api_key for each row
    when (current_setting('session_replication_role') = 'replica' and old.kind = 2 and old.revoked_at is null)
    execute function count_replicated_key();
create trigger api_key_counted_replicated_update after update on api_key for each row
    when (current_setting('session_replication_role') = 'replica'
          and (old.account_id, old.kind, old.revoked_at is null, old.expires_at is null)
              is distinct from (new.account_id, new.kind, new.revoked_at is null, new.expires_at is null))
    execute function count_replicated_key();
alter table api_key
    enable replica trigger api_key_counted_replicated_insert,
    enable replica trigger api_key_counted_replicated_delete,
    enable replica trigger api_key_counted_replicated_update;
-- Counting runs with the rights of the role that owns the functions, not of the role that changes keys: one that may change a
-- few columns of api_key only, to revoke keys by hand, need not know of key_count. So the search path is fixed, with temporary
-- tables last, and no other role may use the functions for triggers of its own.
do $$
declare
    own_schema text := (select nspname from pg_class join pg_namespace on pg_namespace.oid = relnamespace
                        where pg_class.oid = 'api_key'::regclass);
    counting text;
begin
    foreach counting in array array['count_keys', 'count_replicated_key'] loop
        execute format('alter function %I() security definer', counting);
        execute format('alter function %I() set search_path = pg_catalog, %I, pg_temp', counting, own_schema);
        execute format('revoke execute on function %I() from public', counting);
    end loop;
end
$$;

insert into schema_compatibility (migration, oldest) values ('20261201000000', '20261130000300');
