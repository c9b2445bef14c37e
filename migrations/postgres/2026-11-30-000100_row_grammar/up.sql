-- Every rule that the program checks when it reads a row also holds for what is written by other means: by hand, by an
-- import, by another program. A row that breaks one is refused by the database instead of by every reader.
--
-- Rows that break a rule already stay as they are: nothing here looks at them. `keys-server migrate --check` lists
-- them.
--
-- account and api_key have triggers instead of `check .. not valid`. Such a check spares existing rows only until they
-- are updated, whatever the update is about. With it an existing offender could not be revoked or disabled, could not
-- be mended one column at a time, and its recorded use would fail the whole batch that it is written in. These
-- triggers look at a column only when it is written with another value. They cost no function call unless a rule is
-- broken: each rule is a condition of the trigger. They fire in every replication role, as checks do.
--
-- Rows of audit_event are never updated, so there a check is right.

create function refuse_row() returns trigger
language plpgsql as $$
begin
    raise exception using message = tg_argv[0], errcode = 'check_violation';
end
$$;

-- Characters are Unicode scalars. Control characters are those of category Cc: U+0000 to U+001F, U+007F to U+009F.

create trigger account_plan_legal_insert before insert on account
    for each row when (not new.plan collate "C" ~ '^[a-z0-9_-]{1,64}$')
    execute function refuse_row('a plan is named by 1 to 64 lower-case letters, digits, "-" and "_"');
create trigger account_plan_legal before update of plan on account
    for each row when (new.plan is distinct from old.plan and not new.plan collate "C" ~ '^[a-z0-9_-]{1,64}$')
    execute function refuse_row('a plan is named by 1 to 64 lower-case letters, digits, "-" and "_"');

create trigger account_external_id_legal_insert before insert on account
    for each row when (new.external_id collate "C" ~ '[\u0001-\u001f\u007f-\u009f]')
    execute function refuse_row('an external id has no control characters');
create trigger account_external_id_legal before update of external_id on account
    for each row when (new.external_id is distinct from old.external_id
                       and new.external_id collate "C" ~ '[\u0001-\u001f\u007f-\u009f]')
    execute function refuse_row('an external id has no control characters');

-- What a key is never changes, so its pepper is looked at once.
create trigger api_key_pepper_legal_insert before insert on api_key
    for each row when (not new.pepper_id ~ '^[a-z0-9_-]{1,32}$')
    execute function refuse_row('the id of a pepper is 1 to 32 lower-case letters, digits, "-" and "_"');

create trigger api_key_shown_prefix_legal_insert before insert on api_key
    for each row when (not new.shown_prefix collate "C" ~ '^[ -~]{0,25}$')
    execute function refuse_row('a shown prefix has at most 25 visible ASCII characters');
create trigger api_key_shown_prefix_legal before update of shown_prefix on api_key
    for each row when (new.shown_prefix is distinct from old.shown_prefix
                       and not new.shown_prefix collate "C" ~ '^[ -~]{0,25}$')
    execute function refuse_row('a shown prefix has at most 25 visible ASCII characters');

create trigger api_key_name_legal_insert before insert on api_key
    for each row when (char_length(new.name) > 500 or new.name collate "C" ~ '[\u0001-\u001f\u007f-\u009f]')
    execute function refuse_row('a name has at most 500 characters, none of them a control character');
create trigger api_key_name_legal before update of name on api_key
    for each row when (new.name is distinct from old.name
                       and (char_length(new.name) > 500 or new.name collate "C" ~ '[\u0001-\u001f\u007f-\u009f]'))
    execute function refuse_row('a name has at most 500 characters, none of them a control character');

-- A list is empty, or has one dimension. An element that is null counts towards the length but not towards the text,
-- and one with a comma adds a comma to the text: either way the numbers differ.
-- "*" is in the grammar of scopes before any program gives it a meaning, so that a later version needs no migration.
create trigger api_key_scopes_legal_insert before insert on api_key
    for each row when (new.scopes <> '{}' and not coalesce(
        array_ndims(new.scopes) = 1
        and cardinality(new.scopes) <= 64
        and array_to_string(new.scopes, ',') collate "C"
            ~ '^[a-z0-9*][a-z0-9:._*-]{0,63}(,[a-z0-9*][a-z0-9:._*-]{0,63})*$'
        and char_length(array_to_string(new.scopes, ',')) - char_length(array_to_string(new.scopes, ''))
            = cardinality(new.scopes) - 1
        and char_length(replace(array_to_string(new.scopes, ','), ',', ''))
            = char_length(array_to_string(new.scopes, '')), false))
    execute function refuse_row('a scope is 1 to 64 lower-case letters, digits and ":._*-", starting with a letter, digit or "*"; at most 64 of them');
create trigger api_key_scopes_legal before update of scopes on api_key
    for each row when (new.scopes is distinct from old.scopes and new.scopes <> '{}' and not coalesce(
        array_ndims(new.scopes) = 1
        and cardinality(new.scopes) <= 64
        and array_to_string(new.scopes, ',') collate "C"
            ~ '^[a-z0-9*][a-z0-9:._*-]{0,63}(,[a-z0-9*][a-z0-9:._*-]{0,63})*$'
        and char_length(array_to_string(new.scopes, ',')) - char_length(array_to_string(new.scopes, ''))
            = cardinality(new.scopes) - 1
        and char_length(replace(array_to_string(new.scopes, ','), ',', ''))
            = char_length(array_to_string(new.scopes, '')), false))
    execute function refuse_row('a scope is 1 to 64 lower-case letters, digits and ":._*-", starting with a letter, digit or "*"; at most 64 of them');

create trigger api_key_allowed_networks_legal_insert before insert on api_key
    for each row when (new.allowed_networks <> '{}' and not coalesce(
        case when array_ndims(new.allowed_networks) = 1 then
            cardinality(new.allowed_networks) <= 128 and array_position(new.allowed_networks, null) is null
        end, false))
    execute function refuse_row('a list of networks has at most 128 entries, none of them null');
create trigger api_key_allowed_networks_legal before update of allowed_networks on api_key
    for each row when (new.allowed_networks is distinct from old.allowed_networks
                       and new.allowed_networks <> '{}' and not coalesce(
        case when array_ndims(new.allowed_networks) = 1 then
            cardinality(new.allowed_networks) <= 128 and array_position(new.allowed_networks, null) is null
        end, false))
    execute function refuse_row('a list of networks has at most 128 entries, none of them null');

alter table account enable always trigger account_plan_legal_insert;
alter table account enable always trigger account_plan_legal;
alter table account enable always trigger account_external_id_legal_insert;
alter table account enable always trigger account_external_id_legal;
alter table api_key enable always trigger api_key_pepper_legal_insert;
alter table api_key enable always trigger api_key_shown_prefix_legal_insert;
alter table api_key enable always trigger api_key_shown_prefix_legal;
alter table api_key enable always trigger api_key_name_legal_insert;
alter table api_key enable always trigger api_key_name_legal;
alter table api_key enable always trigger api_key_scopes_legal_insert;
alter table api_key enable always trigger api_key_scopes_legal;
alter table api_key enable always trigger api_key_allowed_networks_legal_insert;
alter table api_key enable always trigger api_key_allowed_networks_legal;

-- Not validated: existing rows are not read, which would take an exclusive lock for as long as that takes.
alter table audit_event
    add constraint audit_event_actor_legal check (
        actor_kind in ('system', 'operator', 'account', 'session') and (actor_kind = 'system') = (actor_id is null)
    ) not valid,
    add constraint audit_event_action_legal check (action collate "C" ~ '^[a-z_]+[.][a-z_]+$' and char_length(action) <= 64)
        not valid;
