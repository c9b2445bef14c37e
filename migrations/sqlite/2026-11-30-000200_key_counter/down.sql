drop trigger api_key_counted_insert;
drop trigger api_key_counted_delete;
drop trigger api_key_counted_update;
drop index api_key_ending;
drop table key_count;
