-- Indexes of the lists of keys. Each order of a list ends with the id, so that a page continues after the last key of the
-- page before it, however deep. Creating a key writes to four of them, and to a fifth if it expires; those of revoked keys
-- cost nothing before a revocation.

-- Keys of accounts that are not revoked, by creation.
create index api_key_live on api_key (id) where kind = 2 and revoked_at is null;
-- Revoked keys of accounts, by creation.
create index api_key_revoked on api_key (id) where kind = 2 and revoked_at is not null;
-- Revoked keys of one owner, as api_key_owner has the others.
create index api_key_owner_revoked on api_key (account_id, kind, created_at desc, id desc) where revoked_at is not null;
-- Keys by the characters that people recognise them by.
create index api_key_prefix on api_key (shown_prefix, id) where kind = 2;
-- Keys and sessions by the credential that made them, and by the person.
create index api_key_creator on api_key (created_by_id, kind, id) where created_by_id is not null;
create index api_key_subject on api_key (subject, kind, id) where subject is not null;
-- Keys by the day of their last use, which is written at most once a day.
create index api_key_used on api_key (last_used_day, id) where kind = 2 and revoked_at is null;
-- Keys by their expiry.
create index api_key_expiry on api_key (expires_at, id) where kind = 2 and revoked_at is null and expires_at is not null;

insert into schema_compatibility (migration, oldest) values ('20261202000100', '20261130000300');
