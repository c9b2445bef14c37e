-- The latest row of key_change that was pruned. Whoever has not seen it starts afresh.
create table key_change_pruned (
    one  integer primary key check (one = 1),
    mark integer not null
) strict;
insert into key_change_pruned (one, mark) values (1, 0);
