-- Which instances follow key_change, and what each has applied of it. Unlogged, because each writes its row twice a
-- second: a crash, or the promotion of a replica, empties the table, after which instance_epoch is empty as well.
create unlogged table instance (
    id      uuid        primary key,
    -- The snapshot of the last poll that was applied. Says exactly which transactions were seen, even while an old
    -- one, anywhere in the cluster, holds back the lower end.
    seen    pg_snapshot not null,
    seen_at timestamptz not null default now()
-- Room for new versions of a row on its page, and no index on what changes (HOT).
) with (fillfactor = 20);

-- Since when instance has known everybody. Emptied together with it: whoever finds no row here notes when that was,
-- and until everything has run out that may have been cached before, nobody believes that instance is complete.
create unlogged table instance_epoch (
    one   boolean     primary key default true check (one),
    since timestamptz not null
);
-- Programs that know nothing of these tables cache nothing.
insert into instance_epoch (since) values ('-infinity');

-- The latest transaction whose rows in key_change were pruned. Whoever has not seen it starts afresh.
create table key_change_pruned (
    one  boolean primary key default true check (one),
    mark xid8    not null
);
insert into key_change_pruned (mark) values ('0');
