-- Tells by a lock whether the process that reserved an answer is still there. Absent if it cannot be told.
alter table idempotency add column holder text check (length(holder) between 1 and 100);
insert into schema_compatibility (migration, oldest) values ('20261130000400', '20261130000300');
