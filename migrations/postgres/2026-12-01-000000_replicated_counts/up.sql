-- Logical replication applies each row by itself and fires triggers for rows only, so what it writes was not counted. In
-- sessions with the role `replica` triggers for rows now count what no trigger for statements does. Statements of people and tools that
-- set this role, and the first copy of a subscription, are still added up once for each statement: many rows for one
-- counter would each have to step over all its versions before.
--
-- The role is a condition of these triggers, beside how they are enabled: `alter table .. enable trigger all`, as of
-- `pg_restore --disable-triggers`, must not have a change counted twice.
--
-- What was not counted before is found by `keys-server migrate`, which compares the numbers with the keys.

-- Notes that triggers for statements count what is done now, because this one runs before the first row. The end of the statement,
-- or of what rolls it back, takes that away.
create function note_counting_statement() returns trigger
language plpgsql as $$
begin
    perform pg_catalog.set_config('keys.counting', case tg_when when 'BEFORE' then 'statement' else '' end, true);
    return null;
end
$$;
create trigger api_key_counted_replicated_begin before insert or update or delete on api_key
    for each statement execute function note_counting_statement();
create trigger api_key_counted_replicated_end after insert or update or delete on api_key
    for each statement execute function note_counting_statement();

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
    when (new.kind = 2 and new.revoked_at is null
          and current_setting('session_replication_role') = 'replica'
          and coalesce(current_setting('keys.counting', true), '') <> 'statement')
    execute function count_replicated_key();
create trigger api_key_counted_replicated_delete after delete on api_key for each row
    when (old.kind = 2 and old.revoked_at is null
          and current_setting('session_replication_role') = 'replica'
          and coalesce(current_setting('keys.counting', true), '') <> 'statement')
    execute function count_replicated_key();
create trigger api_key_counted_replicated_update after update on api_key for each row
    when ((old.account_id, old.kind, old.revoked_at is null, old.expires_at is null)
              is distinct from (new.account_id, new.kind, new.revoked_at is null, new.expires_at is null)
          and current_setting('session_replication_role') = 'replica'
          and coalesce(current_setting('keys.counting', true), '') <> 'statement')
    execute function count_replicated_key();
alter table api_key
    enable replica trigger api_key_counted_replicated_begin,
    enable replica trigger api_key_counted_replicated_end,
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
