drop index api_key_expiry;
drop index api_key_used;
drop index api_key_subject;
drop index api_key_creator;
drop index api_key_prefix;
drop index api_key_owner_revoked;
drop index api_key_revoked;
drop index api_key_live;

delete from schema_compatibility where migration = '20261202000100';
