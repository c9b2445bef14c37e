-- Changes triggers of PostgreSQL only.
insert into schema_compatibility (migration, oldest) values ('20261201000000', '20261130000300');
