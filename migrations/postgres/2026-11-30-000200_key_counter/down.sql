drop trigger api_key_counted_insert on api_key;
drop trigger api_key_counted_delete on api_key;
drop trigger api_key_counted_update on api_key;
drop trigger api_key_counted_truncate on api_key;
drop function count_keys();
drop index api_key_ending;
drop table key_count;
