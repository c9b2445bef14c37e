create table account (
    id          uuid        primary key,
    external_id text        unique check (char_length(external_id) between 1 and 255),
    plan        text        not null check (char_length(plan) between 1 and 64),
    disabled    boolean     not null default false,
    created_at  timestamptz not null
);

create table api_key (
    id               uuid        primary key,
    account_id       uuid        references account,
    -- 1 operator, 2 account, 3 session
    kind             smallint    not null check (kind in (1, 2, 3)),
    digest           bytea       not null unique check (octet_length(digest) = 32),
    -- Compared bytewise, so that walking the distinct values does not depend on the locale.
    pepper_id        text        not null collate "C",
    shown_prefix     text        not null,
    name             text,
    allowed_networks cidr[]      not null default '{}',
    scopes           text[]      not null default '{}',
    expires_at       timestamptz,
    revoked_at       timestamptz,
    last_used_at     timestamptz,
    use_count        bigint      not null default 0 check (use_count >= 0),
    created_at       timestamptz not null,
    -- Only whoever runs the service has keys that belong to nobody.
    check ((kind = 1) = (account_id is null)),
    -- A session stands for a person, who signs in again.
    check (kind <> 3 or expires_at is not null)
-- Room on each page, and no index on the columns that every use writes: such updates stay within their page (HOT).
) with (fillfactor = 70);

-- Lists and counts the keys of one account, or the operators' (account_id is null), newest first.
create index api_key_owner on api_key (account_id, kind, created_at desc, id desc) where revoked_at is null;
-- Finds the peppers in use by a few steps through the index.
create index api_key_pepper on api_key (pepper_id) where revoked_at is null;
-- Finds sessions that ended long ago, to be deleted.
create index api_key_session_end on api_key (expires_at) where kind = 3;

-- What caches must look at again. Ordered by transaction rather than by a sequence: sequence numbers are taken before
-- the commit, so whoever reads "everything after n" would miss a transaction that commits late.
create table key_change (
    xid  xid8        not null default pg_current_xact_id(),
    -- 1 key, 2 account, 3 everything
    kind smallint    not null check (kind in (1, 2, 3)),
    ref  uuid        check ((ref is null) = (kind = 3)),
    at   timestamptz not null default now()
);
create index key_change_xid on key_change (xid);
create index key_change_at on key_change (at);

create table audit_event (
    id         uuid        primary key,
    at         timestamptz not null,
    actor_kind text        not null,
    actor_id   uuid,
    action     text        not null,
    subject_id uuid        not null,
    address    inet
);
create index audit_event_at on audit_event (at);

create table idempotency (
    lookup      bytea       primary key check (octet_length(lookup) = 32),
    body_digest bytea       not null check (octet_length(body_digest) = 32),
    token       uuid        not null,
    -- Absent while the attempt is under way.
    sealed      bytea,
    expires_at  timestamptz not null
);
create index idempotency_expires_at on idempotency (expires_at);

-- The search path of whoever migrates is kept: a correction typed by hand, under any search path, is noted as well.
create function note_key_change() returns trigger
language plpgsql set search_path from current as $$
begin
    if tg_op = 'TRUNCATE' then
        insert into key_change (kind) values (3);
    elsif tg_op = 'DELETE' then
        insert into key_change (kind, ref) values (tg_argv[0]::smallint, old.id);
    else
        insert into key_change (kind, ref) values (tg_argv[0]::smallint, new.id);
    end if;
    return null;
end
$$;

create function refuse_change() returns trigger
language plpgsql as $$
begin
    raise exception using message = tg_argv[0], errcode = 'integrity_constraint_violation';
end
$$;

create trigger account_noted after insert or delete on account
    for each row execute function note_key_change(2);
create trigger account_update_noted after update on account
    for each row when (old is distinct from new) execute function note_key_change(2);
create trigger account_truncate_noted after truncate on account
    for each statement execute function note_key_change();

create trigger api_key_noted after insert or delete on api_key
    for each row execute function note_key_change(1);
-- Every column but last_used_at and use_count: recording a use changes no judgement, and happens all the time.
create trigger api_key_update_noted after update on api_key
    for each row when (
        (old.id, old.account_id, old.kind, old.digest, old.pepper_id, old.shown_prefix, old.name,
         old.allowed_networks, old.scopes, old.expires_at, old.revoked_at, old.created_at)
        is distinct from
        (new.id, new.account_id, new.kind, new.digest, new.pepper_id, new.shown_prefix, new.name,
         new.allowed_networks, new.scopes, new.expires_at, new.revoked_at, new.created_at)
    ) execute function note_key_change(1);
create trigger api_key_truncate_noted after truncate on api_key
    for each statement execute function note_key_change();

create trigger account_id_fixed before update on account
    for each row when (old.id <> new.id)
    execute function refuse_change('the id of an account never changes');
create trigger api_key_identity_fixed before update on api_key
    for each row when (
        (old.id, old.account_id, old.kind, old.digest, old.pepper_id, old.created_at)
        is distinct from
        (new.id, new.account_id, new.kind, new.digest, new.pepper_id, new.created_at)
    ) execute function refuse_change('what a key is and whose it is never changes');
-- Other instances remember a revocation for good; taking it back would make them disagree.
create trigger api_key_revocation_final before update on api_key
    for each row when (old.revoked_at is not null and old.revoked_at is distinct from new.revoked_at)
    execute function refuse_change('a revocation is final');

create trigger audit_event_append_only before update or delete on audit_event
    for each row execute function refuse_change('the audit trail is append-only');
create trigger audit_event_no_truncate before truncate on audit_event
    for each statement execute function refuse_change('the audit trail is append-only');
