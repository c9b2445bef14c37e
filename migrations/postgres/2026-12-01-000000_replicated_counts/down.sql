delete from schema_compatibility where migration = '20261201000000';
drop trigger api_key_counted_replicated_insert on api_key;
drop trigger api_key_counted_replicated_delete on api_key;
drop trigger api_key_counted_replicated_update on api_key;
drop function count_replicated_key();
drop trigger api_key_counted_insert on api_key;
drop trigger api_key_counted_delete on api_key;
drop trigger api_key_counted_update on api_key;
create trigger api_key_counted_insert after insert on api_key
    referencing new table as added for each statement execute function count_keys();
create trigger api_key_counted_delete after delete on api_key
    referencing old table as removed for each statement execute function count_keys();
create trigger api_key_counted_update after update on api_key
    referencing old table as removed new table as added for each statement execute function count_keys();
alter table api_key
    enable always trigger api_key_counted_insert,
    enable always trigger api_key_counted_delete,
    enable always trigger api_key_counted_update;
alter function count_keys() security invoker;
alter function count_keys() set search_path from current;
grant execute on function count_keys() to public;
