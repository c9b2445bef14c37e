alter table audit_event drop column reason;
drop trigger instance_emptied on instance;
drop trigger instance_kept on instance;
drop function note_instance_removed();
drop trigger key_change_emptied on key_change;
drop trigger key_change_edited on key_change;
drop trigger key_change_kept on key_change;
drop function note_log_edited();
alter table account
    enable trigger account_update_noted,
    enable trigger account_truncate_noted,
    enable trigger account_id_fixed;
alter table api_key
    enable trigger api_key_update_noted,
    enable trigger api_key_truncate_noted,
    enable trigger api_key_identity_fixed,
    enable trigger api_key_revocation_final;
drop trigger api_key_delete_noted on api_key;
create trigger api_key_noted after insert or delete on api_key
    for each row execute function note_key_change(1);
drop trigger account_delete_noted on account;
create trigger account_noted after insert or delete on account
    for each row execute function note_key_change(2);
alter table instance_epoch drop column log;
alter table instance drop column log;
