delete from schema_compatibility where migration = '20261130000400';
alter table idempotency drop column holder;
