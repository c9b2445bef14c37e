-- How many keys each account has, so that neither a list nor the cap on keys reads them all. Triggers keep the numbers,
-- so they are right whoever changes a key: by hand, by an import, by TRUNCATE.
--
-- Each trigger runs once for a statement and adds up what the statement did: a row of its own for each key of a bulk
-- change would update one counter thousands of times in one transaction, and each of these updates would have to step
-- over all versions before it.
create table key_count (
    account_id uuid   primary key,
    -- Keys of kind 2 that are not revoked: what a list shows.
    listed     bigint not null,
    -- Those among them that never expire.
    unending   bigint not null
-- Room for new versions of a row on its page (HOT).
) with (fillfactor = 50);

-- The others, to be counted by when they expire.
create index api_key_ending on api_key (account_id, expires_at)
    where kind = 2 and revoked_at is null and expires_at is not null;

create function count_keys() returns trigger
language plpgsql set search_path from current as $$
begin
    if tg_op = 'INSERT' then
        insert into key_count as kept (account_id, listed, unending)
        select account_id, count(*), count(*) filter (where expires_at is null)
        from added where kind = 2 and revoked_at is null
        group by account_id order by account_id
        on conflict (account_id) do update
        set listed = kept.listed + excluded.listed, unending = kept.unending + excluded.unending;
    elsif tg_op = 'DELETE' then
        insert into key_count as kept (account_id, listed, unending)
        select account_id, -count(*), -count(*) filter (where expires_at is null)
        from removed where kind = 2 and revoked_at is null
        group by account_id order by account_id
        on conflict (account_id) do update
        set listed = kept.listed + excluded.listed, unending = kept.unending + excluded.unending;
    elsif tg_op = 'UPDATE' then
        -- Not a join of both: a plan made when they had one row would compare each with each when they have many.
        insert into key_count as kept (account_id, listed, unending)
        select account_id, sum(listed), sum(unending)
        from (
            select account_id, -1 as listed, -(expires_at is null)::int as unending
            from removed where kind = 2 and revoked_at is null
            union all
            select account_id, 1, (expires_at is null)::int
            from added where kind = 2 and revoked_at is null
        ) as changed
        group by account_id having sum(listed) <> 0 or sum(unending) <> 0 order by account_id
        on conflict (account_id) do update
        set listed = kept.listed + excluded.listed, unending = kept.unending + excluded.unending;
    else
        truncate key_count;
    end if;
    return null;
end
$$;

-- No key changes between the count and the triggers: to make a trigger locks the table against writes until the end.
create trigger api_key_counted_insert after insert on api_key
    referencing new table as added for each statement execute function count_keys();
create trigger api_key_counted_delete after delete on api_key
    referencing old table as removed for each statement execute function count_keys();
create trigger api_key_counted_update after update on api_key
    referencing old table as removed new table as added for each statement execute function count_keys();
create trigger api_key_counted_truncate after truncate on api_key
    for each statement execute function count_keys();
alter table api_key enable always trigger api_key_counted_insert;
alter table api_key enable always trigger api_key_counted_delete;
alter table api_key enable always trigger api_key_counted_update;
alter table api_key enable always trigger api_key_counted_truncate;

insert into key_count (account_id, listed, unending)
select account_id, count(*), count(*) filter (where expires_at is null)
from api_key where kind = 2 and revoked_at is null group by account_id;

-- The triggers run with the rights of the role that changes keys, which need not be the one that migrates. So roles may use the
-- counters as far as they may use the keys.
do $$
declare
    granted record;
begin
    for granted in
        select distinct acl.grantee, wanted.privilege
        from pg_class, aclexplode(pg_class.relacl) as acl
        cross join lateral (
            select unnest(case acl.privilege_type
                when 'SELECT' then array['select']
                when 'TRUNCATE' then array['truncate']
                when 'INSERT' then array['select', 'insert', 'update']
                when 'UPDATE' then array['select', 'insert', 'update']
                when 'DELETE' then array['select', 'insert', 'update']
                else array[]::text[] end) as privilege
        ) as wanted
        where pg_class.oid = 'api_key'::regclass
    loop
        execute format('grant %s on key_count to %s', granted.privilege,
            case granted.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(granted.grantee)) end);
    end loop;
end
$$;
