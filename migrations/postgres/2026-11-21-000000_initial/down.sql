drop table idempotency;
drop table audit_event;
drop table key_change, api_key, account cascade;
drop function note_key_change();
drop function refuse_change();
