delete from schema_compatibility where migration = '20261201000000';
