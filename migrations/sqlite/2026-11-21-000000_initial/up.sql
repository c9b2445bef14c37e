-- Times are microseconds since 1970 in UTC; ids are the 16 bytes of a UUID; lists are JSON.

create table account (
    id          blob    primary key check (length(id) = 16),
    external_id text    unique check (length(external_id) between 1 and 255),
    plan        text    not null check (length(plan) between 1 and 64),
    disabled    integer not null default 0 check (disabled in (0, 1)),
    created_at  integer not null
) strict, without rowid;

create table api_key (
    id               blob    primary key check (length(id) = 16),
    account_id       blob    references account (id),
    -- 1 operator, 2 account, 3 session
    kind             integer not null check (kind in (1, 2, 3)),
    digest           blob    not null unique check (length(digest) = 32),
    pepper_id        text    not null,
    shown_prefix     text    not null,
    name             text,
    allowed_networks text    not null default '[]' check (json_type(allowed_networks) = 'array'),
    scopes           text    not null default '[]' check (json_type(scopes) = 'array'),
    expires_at       integer,
    revoked_at       integer,
    last_used_at     integer,
    use_count        integer not null default 0 check (use_count >= 0),
    created_at       integer not null,
    -- Only whoever runs the service has keys that belong to nobody.
    check ((kind = 1) = (account_id is null)),
    -- A session stands for a person, who signs in again.
    check (kind <> 3 or expires_at is not null)
) strict, without rowid;

-- Lists and counts the keys of one account, or the operators' (account_id is null), newest first.
create index api_key_owner on api_key (account_id, kind, created_at desc, id desc) where revoked_at is null;
-- Finds the peppers in use by a few steps through the index.
create index api_key_pepper on api_key (pepper_id) where revoked_at is null;
-- Finds sessions that ended long ago, to be deleted.
create index api_key_session_end on api_key (expires_at) where kind = 3;

-- What caches must look at again. One process writes at a time, so the order of numbers is the order of commits.
create table key_change (
    seq  integer primary key autoincrement,
    -- 1 key, 2 account, 3 everything
    kind integer not null check (kind in (1, 2, 3)),
    ref  blob    check ((ref is null) = (kind = 3)),
    -- Understood by every SQLite that can open the file, for corrections typed by hand.
    at   integer not null default (cast(strftime('%s', 'now') as integer) * 1000000)
) strict;
create index key_change_at on key_change (at);

create table audit_event (
    id         blob    primary key check (length(id) = 16),
    at         integer not null,
    actor_kind text    not null,
    actor_id   blob,
    action     text    not null,
    subject_id blob    not null,
    address    text
) strict, without rowid;
create index audit_event_at on audit_event (at);

create table idempotency (
    lookup      blob    primary key check (length(lookup) = 32),
    body_digest blob    not null check (length(body_digest) = 32),
    token       blob    not null,
    -- Absent while the attempt is under way.
    sealed      blob,
    expires_at  integer not null
) strict, without rowid;
create index idempotency_expires_at on idempotency (expires_at);

create trigger account_insert_noted after insert on account begin
    insert into key_change (kind, ref) values (2, new.id);
end;
create trigger account_update_noted after update on account begin
    insert into key_change (kind, ref) values (2, new.id);
end;
create trigger account_delete_noted after delete on account begin
    insert into key_change (kind, ref) values (2, old.id);
end;

create trigger api_key_insert_noted after insert on api_key begin
    insert into key_change (kind, ref) values (1, new.id);
end;
-- Every column but last_used_at and use_count: recording a use changes no judgement, and happens all the time.
create trigger api_key_update_noted after update on api_key
when (old.id, old.account_id, old.kind, old.digest, old.pepper_id, old.shown_prefix, old.name,
      old.allowed_networks, old.scopes, old.expires_at, old.revoked_at, old.created_at)
    is not
     (new.id, new.account_id, new.kind, new.digest, new.pepper_id, new.shown_prefix, new.name,
      new.allowed_networks, new.scopes, new.expires_at, new.revoked_at, new.created_at)
begin
    insert into key_change (kind, ref) values (1, new.id);
end;
create trigger api_key_delete_noted after delete on api_key begin
    insert into key_change (kind, ref) values (1, old.id);
end;

create trigger account_id_fixed before update on account when old.id <> new.id begin
    select raise(abort, 'the id of an account never changes');
end;
create trigger api_key_identity_fixed before update on api_key
when (old.id, old.account_id, old.kind, old.digest, old.pepper_id, old.created_at)
    is not
     (new.id, new.account_id, new.kind, new.digest, new.pepper_id, new.created_at)
begin
    select raise(abort, 'what a key is and whose it is never changes');
end;
-- Other readers remember a revocation for good; taking it back would make them disagree.
create trigger api_key_revocation_final before update on api_key
when old.revoked_at is not null and old.revoked_at is not new.revoked_at
begin
    select raise(abort, 'a revocation is final');
end;

-- `insert or replace` deletes what is there without asking the triggers above.
create trigger api_key_no_replace before insert on api_key
when exists (select 1 from api_key where id = new.id or digest = new.digest)
begin
    select raise(abort, 'a key is never replaced');
end;

create trigger audit_event_no_update before update on audit_event begin
    select raise(abort, 'the audit trail is append-only');
end;
create trigger audit_event_no_delete before delete on audit_event begin
    select raise(abort, 'the audit trail is append-only');
end;
-- `insert or replace` deletes without telling the trigger above.
create trigger audit_event_no_replace before insert on audit_event
when exists (select 1 from audit_event where id = new.id)
begin
    select raise(abort, 'the audit trail is append-only');
end;
