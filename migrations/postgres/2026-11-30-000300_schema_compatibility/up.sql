-- Which older programs can go on after a migration that they do not know: those that know the migration `oldest`, or a
-- later one. Each migration after this one adds a row for itself. Without a row no older program goes on.
create table schema_compatibility (
    migration text primary key check (migration ~ '^[0-9]+$'),
    oldest    text not null    check (oldest ~ '^[0-9]+$' and oldest <= migration)
);
insert into schema_compatibility (migration, oldest) values
    ('20261130000000', '20261122000000'),
    ('20261130000100', '20261122000000'),
    ('20261130000200', '20261122000000'),
    ('20261130000300', '20261122000000');
