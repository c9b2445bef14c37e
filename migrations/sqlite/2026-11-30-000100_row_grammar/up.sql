-- Every rule that the program checks when it reads a row also holds for what is written by other means: by hand, by an
-- import, by another program. A row that breaks one is refused by the database instead of by every reader.
--
-- Rows that break a rule already stay as they are: nothing here looks at them. `keys-server migrate --check` lists
-- them. A column is looked at only when it is written with another value, so that an offender can still be revoked,
-- disabled, used, and mended one column at a time.
--
-- Characters are Unicode scalars; length() counts them up to the first NUL, which is a control character and is looked
-- for apart. Control characters are those of category Cc: U+0000 to U+001F, U+007F to U+009F.

create trigger account_plan_legal_insert before insert on account
when length(new.plan) not between 1 and 64 or length(cast(new.plan as blob)) <> length(new.plan)
     or new.plan glob '*[^a-z0-9_-]*'
begin
    select raise(abort, 'a plan is named by 1 to 64 lower-case letters, digits, "-" and "_"');
end;
create trigger account_plan_legal before update of plan on account
when new.plan is not old.plan and (length(new.plan) not between 1 and 64 or length(cast(new.plan as blob)) <> length(new.plan)
     or new.plan glob '*[^a-z0-9_-]*')
begin
    select raise(abort, 'a plan is named by 1 to 64 lower-case letters, digits, "-" and "_"');
end;

create trigger account_external_id_legal_insert before insert on account
when (instr(cast(new.external_id as blob), x'00') > 0 or new.external_id glob '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*')
begin
    select raise(abort, 'an external id has no control characters');
end;
create trigger account_external_id_legal before update of external_id on account
when new.external_id is not old.external_id and ((instr(cast(new.external_id as blob), x'00') > 0 or new.external_id glob '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*'))
begin
    select raise(abort, 'an external id has no control characters');
end;

-- What a key is never changes, so its pepper is looked at once.
create trigger api_key_pepper_id_legal_insert before insert on api_key
when length(new.pepper_id) not between 1 and 32 or length(cast(new.pepper_id as blob)) <> length(new.pepper_id)
     or new.pepper_id glob '*[^a-z0-9_-]*'
begin
    select raise(abort, 'the id of a pepper is 1 to 32 lower-case letters, digits, "-" and "_"');
end;

create trigger api_key_shown_prefix_legal_insert before insert on api_key
when length(new.shown_prefix) not between 0 and 25 or length(cast(new.shown_prefix as blob)) <> length(new.shown_prefix)
     or new.shown_prefix glob '*[^ -~]*'
begin
    select raise(abort, 'a shown prefix has at most 25 visible ASCII characters');
end;
create trigger api_key_shown_prefix_legal before update of shown_prefix on api_key
when new.shown_prefix is not old.shown_prefix and (length(new.shown_prefix) not between 0 and 25 or length(cast(new.shown_prefix as blob)) <> length(new.shown_prefix)
     or new.shown_prefix glob '*[^ -~]*')
begin
    select raise(abort, 'a shown prefix has at most 25 visible ASCII characters');
end;

create trigger api_key_name_legal_insert before insert on api_key
when length(new.name) > 500 or (instr(cast(new.name as blob), x'00') > 0 or new.name glob '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*')
begin
    select raise(abort, 'a name has at most 500 characters, none of them a control character');
end;
create trigger api_key_name_legal before update of name on api_key
when new.name is not old.name and (length(new.name) > 500 or (instr(cast(new.name as blob), x'00') > 0 or new.name glob '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*'))
begin
    select raise(abort, 'a name has at most 500 characters, none of them a control character');
end;

-- "*" is in the grammar of scopes before any program gives it a meaning, so that a later version needs no migration.
create trigger api_key_scopes_legal_insert before insert on api_key
when json_array_length(new.scopes) > 64
     or exists (
         select 1 from json_each(new.scopes) as scope
         where scope.type <> 'text'
            or length(scope.value) not between 1 and 64
            or length(cast(scope.value as blob)) <> length(scope.value)
            or scope.value not glob '[a-z0-9*]*'
            or scope.value glob '*[^a-z0-9:._*-]*'
     )
begin
    select raise(abort, 'a scope is 1 to 64 lower-case letters, digits and ":._*-", starting with a letter, digit or "*"; at most 64 of them');
end;
create trigger api_key_scopes_legal before update of scopes on api_key
when new.scopes is not old.scopes and (json_array_length(new.scopes) > 64
     or exists (
         select 1 from json_each(new.scopes) as scope
         where scope.type <> 'text'
            or length(scope.value) not between 1 and 64
            or length(cast(scope.value as blob)) <> length(scope.value)
            or scope.value not glob '[a-z0-9*]*'
            or scope.value glob '*[^a-z0-9:._*-]*'
     ))
begin
    select raise(abort, 'a scope is 1 to 64 lower-case letters, digits and ":._*-", starting with a letter, digit or "*"; at most 64 of them');
end;

-- An address and the length of its prefix in decimal. Four numbers up to 255 for IPv4; for IPv6 groups of up to four
-- hexadecimal digits, eight of them, or fewer around one "::".
create trigger api_key_allowed_networks_legal_insert before insert on api_key
when json_array_length(new.allowed_networks) > 128
     or exists (
         select 1
         from (
             select entry.type as type, entry.value as text,
                    substr(entry.value, 1, instr(entry.value, '/') - 1) as address,
                    substr(entry.value, instr(entry.value, '/') + 1) as bits
             from json_each(new.allowed_networks) as entry
         )
         where type <> 'text' or instr(text, '/') = 0 or instr(cast(text as blob), x'00') > 0
            or length(bits) not between 1 and 3 or bits glob '*[^0-9]*' or (length(bits) > 1 and bits glob '0*')
            or case
                when address not glob '*:*' then
                    address glob '*[^0-9.]*' or cast(bits as integer) > 32
                    or length(address) - length(replace(address, '.', '')) <> 3
                    or '.' || address || '.' glob '*..*'
                    or '.' || address glob '*.0[0-9]*'
                    or '.' || address glob '*[0-9][0-9][0-9][0-9]*'
                    or exists (
                        select 1 from json_each('[' || replace(address, '.', ',') || ']') where value > 255
                    )
                else
                    address glob '*[^0-9a-fA-F:]*' or cast(bits as integer) > 128
                    or address glob '*[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]*'
                    or address glob '*:::*' or address glob '*::*::*'
                    or address glob ':[^:]*' or address glob '*[^:]:'
                    or length(address) - length(replace(address, ':', ''))
                        > case when address glob '::*' or address glob '*::' then 8 else 7 end
                    or (address not glob '*::*' and length(address) - length(replace(address, ':', '')) <> 7)
            end
     )
begin
    select raise(abort, 'a list of networks has at most 128 entries, each an IPv4 or IPv6 network in CIDR notation');
end;
create trigger api_key_allowed_networks_legal before update of allowed_networks on api_key
when new.allowed_networks is not old.allowed_networks and (json_array_length(new.allowed_networks) > 128
     or exists (
         select 1
         from (
             select entry.type as type, entry.value as text,
                    substr(entry.value, 1, instr(entry.value, '/') - 1) as address,
                    substr(entry.value, instr(entry.value, '/') + 1) as bits
             from json_each(new.allowed_networks) as entry
         )
         where type <> 'text' or instr(text, '/') = 0 or instr(cast(text as blob), x'00') > 0
            or length(bits) not between 1 and 3 or bits glob '*[^0-9]*' or (length(bits) > 1 and bits glob '0*')
            or case
                when address not glob '*:*' then
                    address glob '*[^0-9.]*' or cast(bits as integer) > 32
                    or length(address) - length(replace(address, '.', '')) <> 3
                    or '.' || address || '.' glob '*..*'
                    or '.' || address glob '*.0[0-9]*'
                    or '.' || address glob '*[0-9][0-9][0-9][0-9]*'
                    or exists (
                        select 1 from json_each('[' || replace(address, '.', ',') || ']') where value > 255
                    )
                else
                    address glob '*[^0-9a-fA-F:]*' or cast(bits as integer) > 128
                    or address glob '*[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]*'
                    or address glob '*:::*' or address glob '*::*::*'
                    or address glob ':[^:]*' or address glob '*[^:]:'
                    or length(address) - length(replace(address, ':', ''))
                        > case when address glob '::*' or address glob '*::' then 8 else 7 end
                    or (address not glob '*::*' and length(address) - length(replace(address, ':', '')) <> 7)
            end
     ))
begin
    select raise(abort, 'a list of networks has at most 128 entries, each an IPv4 or IPv6 network in CIDR notation');
end;

create trigger audit_event_legal before insert on audit_event
when new.actor_kind not in ('system', 'operator', 'account', 'session')
    or (new.actor_kind = 'system') <> (new.actor_id is null)
    or length(new.actor_id) <> 16 or length(new.subject_id) <> 16
begin
    select raise(abort, 'the actor of an audit event is system, or a key of kind operator, account or session');
end;
create trigger audit_event_action_legal before insert on audit_event
when length(new.action) > 64 or length(cast(new.action as blob)) <> length(new.action)
    or new.action not glob '[a-z_]*.[a-z_]*' or new.action glob '*[^a-z_.]*' or new.action glob '*.*.*'
begin
    select raise(abort, 'an action is two words of lower-case letters with a dot between them');
end;

-- What followers of the log cannot read would stop them.
create trigger key_change_ref_legal before insert on key_change when length(new.ref) <> 16 begin
    select raise(abort, 'the id in a change is 16 bytes');
end;
