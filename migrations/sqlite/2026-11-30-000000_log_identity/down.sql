alter table audit_event drop column reason;
drop trigger key_change_not_edited;
drop trigger key_change_kept;
create trigger api_key_insert_noted after insert on api_key begin
    insert into key_change (kind, ref) values (1, new.id);
end;
create trigger account_insert_noted after insert on account begin
    insert into key_change (kind, ref) values (2, new.id);
end;
