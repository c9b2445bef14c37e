drop table idempotency;
drop table audit_event;
drop table key_change;
drop table api_key;
drop table account;
