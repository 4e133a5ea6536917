-- {name}: the migration and its record, together or not at all.
BEGIN;
{migration}
INSERT INTO anlyt.migrations (name, sha256) VALUES ('{name}', '{sha256}');
COMMIT;
