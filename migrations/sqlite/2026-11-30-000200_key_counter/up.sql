-- How many keys each account has, so that neither a list nor the cap on keys reads them all. Triggers keep the numbers,
-- so they are right whoever changes a key.
create table key_count (
    account_id blob    primary key,
    -- Keys of kind 2 that are not revoked: what a list shows.
    listed     integer not null,
    -- Those among them that never expire.
    unending   integer not null
) strict, without rowid;

-- The others, to be counted by when they expire.
create index api_key_ending on api_key (account_id, expires_at)
    where kind = 2 and revoked_at is null and expires_at is not null;

insert into key_count (account_id, listed, unending)
select account_id, count(*), count(*) filter (where expires_at is null)
from api_key where kind = 2 and revoked_at is null and account_id is not null group by account_id;

create trigger api_key_counted_insert after insert on api_key
when new.kind = 2 and new.revoked_at is null
begin
    insert into key_count (account_id, listed, unending) values (new.account_id, 1, new.expires_at is null)
    on conflict (account_id) do update
    set listed = listed + excluded.listed, unending = unending + excluded.unending;
end;
create trigger api_key_counted_delete after delete on api_key
when old.kind = 2 and old.revoked_at is null
begin
    update key_count set listed = listed - 1, unending = unending - (old.expires_at is null)
    where account_id = old.account_id;
end;
-- What a key is and whose it is never changes.
create trigger api_key_counted_update after update of revoked_at, expires_at on api_key
when new.kind = 2
     and ((new.revoked_at is null) <> (old.revoked_at is null) or (new.expires_at is null) <> (old.expires_at is null))
begin
    update key_count
    set listed = listed + (new.revoked_at is null) - (old.revoked_at is null),
        unending = unending + (new.revoked_at is null and new.expires_at is null)
                            - (old.revoked_at is null and old.expires_at is null)
    where account_id = new.account_id;
end;
